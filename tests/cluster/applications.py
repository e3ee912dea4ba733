"""Images of applications for the tests' pods; each is what an application's own maker would ship.

`static_image` is one program of `application.c` and nothing else: no shell, no library, no user database.
`client_image` is PostgreSQL's client as Debian has it, with a shell. `wrapper_image` is the product's own.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cloudtaser.errors import UnavailableError
from tests.cluster.images import Image, image

PROGRAM: Final = "/app"
SHELL: Final = "/bin/sh"
USER: Final = "65532"
_HERE: Final = Path(__file__).parent
_ROOT: Final = _HERE.parent.parent
_TIMEOUT: Final = 120.0  # seconds
_BUILD_TIMEOUT: Final = 1800.0  # where nothing is cached, the payload's interpreter is compiled
_LIBRARY: Final = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)


def static_image(*command: str) -> Image:
    """Only the static program; `command`: steps of the image's own, so that a pod need name none."""
    return image({PROGRAM: program()}, entrypoint=[PROGRAM], command=command, user=USER)


@functools.cache
def client_image() -> Image:
    """`psql`, `sh`, `sleep` and `env` with their libraries; the only command is in the image."""
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin/psql"))
    if not postgres:
        raise UnavailableError("psql is not installed", fix="run tools/prepare cluster")
    programs = {
        "/usr/bin/psql": postgres[-1],
        SHELL: Path("/bin/sh"),
        "/bin/sleep": Path("/bin/sleep"),
        "/usr/bin/env": Path("/usr/bin/env"),
    }
    files = {inside: here.read_bytes() for inside, here in programs.items()}
    for here in programs.values():
        files |= {library: Path(library).read_bytes() for library in _libraries(here)}
    files["/etc/passwd"] = f"app:x:{USER}:{USER}::/:{SHELL}\n".encode()
    return image(files, command=["psql", "--version"], user=USER)


def wrapper_image(store: Path) -> Image:
    """The product's init container, from its Containerfile, of the payload that is built first."""
    payload = store / "payload"
    run_build([sys.executable, str(_ROOT / "images" / "wrapper" / "build"), str(payload)])
    return built(_ROOT / "images" / "wrapper" / "Containerfile", payload, store)


def built(recipe: Path, context: Path, store: Path, *arguments: str) -> Image:
    """What buildah makes of a Containerfile, without a registry to take a base from."""
    name = recipe.parent.name
    buildah = [
        "buildah",
        "--storage-driver",
        "vfs",
        "--root",
        str(store / "store"),
        "--runroot",
        str(store / "run"),
    ]
    layout = store / f"{name}.oci"
    run_build(
        [*buildah, "bud", "--isolation", "chroot", *arguments, "-f", str(recipe), "-t", name, str(context)]
    )
    run_build([*buildah, "push", name, f"oci:{layout}:latest"])
    return Image.from_layout(layout)


@functools.cache
def program() -> bytes:
    """The static program."""
    compiler = shutil.which("musl-gcc")
    if not compiler:  # with glibc's libc.a nothing could be looked up
        raise UnavailableError("musl-gcc is not installed", fix="run tools/prepare cluster")
    with tempfile.TemporaryDirectory() as directory:
        binary = Path(directory) / "app"
        run_build([compiler, "-Os", "-static", "-s", "-o", str(binary), str(_HERE / "application.c")])
        return binary.read_bytes()


def _libraries(binary: Path) -> list[str]:
    done = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=True, timeout=_TIMEOUT)
    return _LIBRARY.findall(done.stdout)


def run_build(command: Sequence[str]) -> None:
    """Run what builds something. Raises UnavailableError with the end of its complaint."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT)
    if done.returncode:
        raise UnavailableError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-2000:]}")
