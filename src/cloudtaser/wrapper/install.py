"""Installing the payload: copies it into the volume that a pod's containers mount.

`app` does it for `--install`, in an init container whose image holds the payload and nothing else: no shell,
no cp.
"""

import posix
import sys

from cloudtaser.wrapper.errors import WrapperError

EX_CANTCREAT = 73
_BLOCK = 1 << 20
_MODE = 0o555


class InstallError(WrapperError):
    """The payload cannot be copied; `on` is the file."""

    code = EX_CANTCREAT


def install(target: str) -> None:
    """Copy every file of the payload into the directory `target`, each whole or not at all.

    Raises InstallError.
    """
    source, slash, _ = sys.executable.rpartition("/")
    if "__file__" in globals() or not slash:
        raise InstallError("this is not the payload's program", fix="build it with `make payload`")
    on = target
    try:
        for name in sorted(posix.listdir(source)):
            on = f"{target}/{name}"
            fresh = f"{target}/.{name}.new"
            _copy(f"{source}/{name}", fresh)
            posix.rename(fresh, on)
    except OSError as error:
        raise InstallError(f"cannot be written: {error.strerror or error.errno}", on=on) from None


def _copy(source: str, target: str) -> None:
    reading = posix.open(source, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW
        writing = posix.open(target, flags, _MODE)
        try:
            posix.fchmod(writing, _MODE)  # whatever the umask
            while posix.sendfile(writing, reading, None, _BLOCK):
                pass
        finally:
            posix.close(writing)
    finally:
        posix.close(reading)
