"""The operator's image: an interpreter, our code, no shell, nobody's root; the same each time it is built."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "images" / "operator" / "build"
NOBODY = 65532
PROGRAM = ["/usr/bin/python3", "-I", "/opt/cloudtaser/cloudtaser-operator"]


def built(*arguments: str) -> None:
    done = subprocess.run([str(BUILD), *arguments], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr


def unpacked(layout: Path, root: Path) -> dict[str, Any]:
    """The image's layers into `root`; what a runtime is told of it."""

    def blob(described: dict[str, Any]) -> Path:
        return layout / "blobs" / Path(*described["digest"].split(":"))

    (listed,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(listed).read_text())
    root.mkdir()
    for layer in manifest["layers"]:
        with tarfile.open(blob(layer)) as archive:
            archive.extractall(root, filter="tar")
    found: dict[str, Any] = json.loads(blob(manifest["config"]).read_text())["config"]
    return found


def inside(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command as the image's user, with nothing of this machine's but the kernel."""

    def enter() -> None:
        os.chroot(root)
        os.chdir("/")
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    return subprocess.run(command, preexec_fn=enter, env={}, capture_output=True, text=True, timeout=120)


def tree(root: Path) -> str:
    """A digest over every name, mode and content below `root`."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        digest.update(f"{path.relative_to(root)} {path.lstat().st_mode:o}\n".encode())
        if path.is_symlink():
            digest.update(os.readlink(path).encode())
        elif path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def test_the_image_runs_as_nobody_without_a_shell_and_is_the_same_each_time(tmp_path: Path) -> None:
    layout, context, root = tmp_path / "oci", tmp_path / "context", tmp_path / "root"
    built("--oci", str(layout), str(context))
    told = unpacked(layout, root)
    assert told["User"] == "65532:65532"
    assert told["Entrypoint"] == PROGRAM
    assert told["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    for name in ("sh", "bash", "dash", "busybox", "apt", "dpkg", "pip"):
        assert not list(root.glob(f"usr/*bin/{name}")), name

    for part in ((), ("manager",), ("broker",)):
        shown = inside(root, *PROGRAM, *part, "--help")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout.startswith("usage: cloudtaser-operator")
    refused = inside(root, *PROGRAM, "broker")
    assert refused.returncode == 2
    assert "--beacon-address is missing" in refused.stderr
    code = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(inside(root, "/usr/bin/python3", "-I", "-c", code).stdout) > 50

    again = tmp_path / "again"
    built(str(again))
    assert tree(again) == tree(context)
