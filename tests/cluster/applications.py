"""Images of applications for the tests' pods; each is what an application's own maker would ship.

`STATIC` is one program of `application.c` and nothing else: no shell, no library, no user database.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from cloudtaser.errors import UnavailableError
from tests.cluster.images import Image, image

PROGRAM: Final = "/app"
_SOURCE: Final = Path(__file__).parent / "application.c"
_TIMEOUT: Final = 120.0  # seconds


def static_image(*, command_in_image: bool = False) -> Image:
    """Only the static program; `command_in_image`: with steps of its own, so that a pod need name none."""
    if command_in_image:
        return image({PROGRAM: program()}, entrypoint=[PROGRAM], command=["show", "DB_PASSWORD", ",", "wait"])
    return image({PROGRAM: program()}, entrypoint=[PROGRAM], user="65532")


@functools.cache
def program() -> bytes:
    """The static program."""
    compiler = shutil.which("musl-gcc")
    if not compiler:  # with glibc's libc.a nothing could be looked up
        raise UnavailableError("musl-gcc is not installed", fix="run tools/prepare cluster")
    with tempfile.TemporaryDirectory() as directory:
        binary = Path(directory) / "app"
        subprocess.run(
            [compiler, "-Os", "-static", "-s", "-o", str(binary), str(_SOURCE)], check=True, timeout=_TIMEOUT
        )
        return binary.read_bytes()
