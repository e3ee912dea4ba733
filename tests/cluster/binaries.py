"""The Kubernetes programs of the tests' cluster: compiled once from the Go module `k8s.io/kubernetes`,
then kept.

`control_plane` and `node` start them. Nobody distributes these programs through a package registry, but the
module proxy has their source: `kubernetes/main.go` is all of them in one binary, etcd included, because a
single link is what a small machine can afford. The compiler is the very one that `GO` names, fetched as a
module too, so that an old Go of the distribution is enough to begin with. What was built lies in the user's
cache directory under a hash of all that went into it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from cloudtaser.errors import ConfigError, UnavailableError

KUBERNETES: Final = "1.34.4"
GO: Final = "1.24.11"
PROGRAMS: Final = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
)  # fmt: skip
_SOURCE: Final = Path(__file__).parent / "kubernetes"
_TAGS: Final = "osusergo,netgo"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_FETCH_TIMEOUT: Final = 900.0  # seconds
_BUILD_TIMEOUT: Final = 3600.0


def programs() -> Path:
    """The directory that holds `PROGRAMS`, built where no earlier run left it. Raises UnavailableError."""
    place = _cache() / f"{KUBERNETES}-{_fingerprint()}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:  # of two at once the second waits, and finds it done
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / PROGRAMS[-1]).exists():
            _build(place)
    return place


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cloudtaser" / "kubernetes"


def _fingerprint() -> str:
    """Of everything that decides what the binary is."""
    digest = hashlib.sha256(f"{GO} {_architecture()} {_TAGS} {' '.join(_linker_flags())}\n".encode())
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((_SOURCE / name).read_bytes())
    return digest.hexdigest()[:16]


def _architecture() -> str:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise ConfigError(f"no Kubernetes is built for {machine}", fix="use amd64 or arm64")
    return _ARCHITECTURES[machine]


def _linker_flags() -> list[str]:
    flags = ["-s", "-w"]
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        major, minor, _ = KUBERNETES.split(".")
        flags += [
            f"-X {package}.gitVersion=v{KUBERNETES}",
            f"-X {package}.gitMajor={major}",
            f"-X {package}.gitMinor={minor}",
        ]
    return flags


def _build(place: Path) -> None:
    go = _compiler()
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="building-") as scratch:
        binary = Path(scratch) / "kubernetes"
        _run(
            [
                str(go), "build", "-trimpath", "-tags", _TAGS, "-ldflags", " ".join(_linker_flags()),
                "-o", str(binary), ".",
            ],
            _BUILD_TIMEOUT,
            cwd=_SOURCE,
            CGO_ENABLED="0",
            GOFLAGS="-mod=readonly -buildvcs=false",
            GOTOOLCHAIN="local",
        )  # fmt: skip
        for name in PROGRAMS:
            (Path(scratch) / name).symlink_to("kubernetes")
        Path(scratch).chmod(0o755)
        if place.exists():
            shutil.rmtree(place)
        Path(scratch).rename(place)
        Path(scratch).mkdir()  # for whoever removes it


def _compiler() -> Path:
    """The `go` of the wanted release, out of the module cache."""
    name = f"golang.org/toolchain@v0.0.1-go{GO}.linux-{_architecture()}"
    answer = _run(
        ["go", "mod", "download", "-json", name], _FETCH_TIMEOUT, GOFLAGS="-mod=mod", GOTOOLCHAIN="local"
    )
    root = Path(json.loads(answer)["Dir"])
    tools = [root / "bin" / "go", *(root / "pkg" / "tool").glob("*/*")]
    for tool in tools:  # a module's files come without the right to execute them
        if not os.access(tool, os.X_OK):
            tool.chmod(0o555)
    return tools[0]


def _run(command: list[str], timeout: float, *, cwd: Path | None = None, **environment: str) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd or tempfile.gettempdir(),
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except FileNotFoundError:
        raise ConfigError("no Go compiler is installed", fix="run tools/prepare test") from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{' '.join(command[:3])} took more than {timeout:.0f} s") from None
    if done.returncode:
        last = " | ".join(done.stderr.strip().splitlines()[-5:])
        raise UnavailableError(f"{' '.join(command[:3])} failed: {last}")
    return done.stdout
