"""Containers to try the payload in: images made here, run by runc as a kubelet's runtime would run them.

A pod under the `restricted` Pod Security standard: a read-only root, user 65532, no capability, no new
privileges, the runtime's default system call filter; and nothing in the image but one program.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PATIENCE = 60.0
USER = 65532
ENTRY = "/cloudtaser/wrapper"
APPLICATION = "/application"
PROFILE = Path("/usr/share/containers/seccomp.json")
ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def compile_application(compiler: str, output: Path, *options: str) -> None:
    command = [compiler, "-O1", "-Wall", *options, "-o", str(output), str(HERE / "application.c")]
    subprocess.run(command, check=True, timeout=PATIENCE)


class Images:
    """Root directories by name: `empty` (a static program and nothing else), `musl`, `glibc`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("empty", "musl", "glibc"):
            for place in ("proc", "dev", "cloudtaser", "etc", "secrets"):
                (directory / name / place).mkdir(parents=True)
        compile_application("musl-gcc", directory / "empty" / "application", "-static")
        compile_application("musl-gcc", directory / "musl" / "application", "-no-pie")
        compile_application("gcc", directory / "glibc" / "application")
        for name in ("musl", "glibc"):
            for file in self._libraries(directory / name / "application"):
                target = directory / name / file.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)

    @staticmethod
    def _libraries(program: Path) -> list[Path]:
        """The loader that the program names, and what this machine's loader would load."""
        headers = subprocess.run(
            ["readelf", "-l", str(program)], capture_output=True, text=True, check=True
        ).stdout
        loader = headers.partition("program interpreter: ")[2].partition("]")[0]
        found = [Path(loader)]
        if "musl" not in loader:
            listed = subprocess.run(
                [loader, "--list", str(program)], capture_output=True, text=True, check=True
            )
            words = listed.stdout.split()
            found += [Path(word) for word in words if word.startswith("/") and Path(word) not in found]
        return found

    def root(self, name: str) -> Path:
        return self.directory / name


def default_filter() -> dict[str, Any]:
    """The runtimes' default filter for system calls, as runc reads it, for a process without capabilities."""
    profile = json.loads(PROFILE.read_text())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    rules = []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if includes.get("caps") or machine in excludes.get("arches", ()):
            continue
        if includes.get("arches") and machine not in includes["arches"]:
            continue
        kept = {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key)}
        rules.append(kept)
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [ARCHITECTURES[platform.machine()]],
        "syscalls": rules,
    }


class Container:
    """One container: the payload is mounted read-only where the image does not hold it, the wrapper is PID 1.
    Shares the host's network.
    """

    def __init__(
        self,
        root: Path,
        payload: Path | None,
        directory: Path,
        *command: str,
        environment: dict[str, str] | None = None,
        mounts: dict[str, Path] | None = None,
        writable: dict[str, Path] | None = None,
        cwd: str = "/",
    ) -> None:
        self.name = f"payload-{uuid.uuid4().hex[:12]}"
        self._bundle = directory / self.name
        self._state = directory / "runc"
        self._bundle.mkdir()
        binds = {**({"/cloudtaser": payload} if payload else {}), **(mounts or {})}
        configuration = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": USER, "gid": USER},
                "args": [ENTRY, *command],
                "env": [f"{name}={value}" for name, value in (environment or {}).items()],
                "cwd": cwd,
                "capabilities": {
                    kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
                },
                "noNewPrivileges": True,
            },
            "root": {"path": str(root), "readonly": True},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {
                    "destination": "/dev",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=64k"],
                },
                *(
                    {
                        "destination": place,
                        "type": "bind",
                        "source": str(source),
                        "options": ["bind", access, "nosuid", "nodev"],
                    }
                    for access, group in (("ro", binds), ("rw", writable or {}))
                    for place, source in group.items()
                ),
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
                "seccomp": default_filter(),
            },
        }
        (self._bundle / "config.json").write_text(json.dumps(configuration))

    def command(self, *arguments: str) -> list[str]:
        return ["runc", "--root", str(self._state), *arguments]

    def run(self) -> subprocess.CompletedProcess[str]:
        """To its end."""
        with self.started() as process:
            output, errors = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess([], process.returncode, output, errors)

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """`runc run`, which ends as the container does."""
        with subprocess.Popen(
            self.command("run", "--bundle", str(self._bundle), self.name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                subprocess.run(
                    self.command("delete", "--force", self.name),
                    capture_output=True,
                    check=False,
                    timeout=PATIENCE,
                )
                process.kill()

    def signal(self, number: int, runtime: subprocess.Popen[str]) -> None:
        """To PID 1, once the application runs. Not by `runc kill`, which may not know the container yet."""
        for children in Path(f"/proc/{runtime.pid}/task").glob("*/children"):
            for child in children.read_text().split():
                if Path(f"/proc/{child}/status").read_text().partition("NSpid:")[2].split()[1] == "1":
                    os.kill(int(child), number)
                    return
        raise AssertionError("the container has no PID 1")


@contextmanager
def started_without_proc(
    root: Path, payload: Path, *command: str, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """As PID 1 of namespaces of its own, in `root`, where nothing is mounted but the payload."""
    inside = (
        'mount --bind "$1" "$1"; mount --bind "$2" "$1/cloudtaser"; mount -o remount,ro,bind "$1"; '
        'mount -o remount,ro,bind "$1/cloudtaser"; cd "$1"; shift 2; exec "$@"'
    )
    become = ["chroot", f"--userspec={USER}:{USER}", "--groups=", str(root)]
    alone = ["setpriv", "--no-new-privs", "unshare", "--pid", "--fork", "--mount", "--ipc", "--kill-child"]
    with subprocess.Popen(
        [*alone, "sh", "-ec", inside, "sh", str(root), str(payload), *become, ENTRY, *command],
        env={"PATH": os.environ["PATH"], **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run_without_proc(
    root: Path, payload: Path, *command: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    with started_without_proc(root, payload, *command, environment=environment) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess([], process.returncode, output, errors)


def told(output: str) -> dict[str, list[str]]:
    """What the application told, by the first word of each line."""
    result: dict[str, list[str]] = {}
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        result.setdefault(word, []).append(rest)
    return result
