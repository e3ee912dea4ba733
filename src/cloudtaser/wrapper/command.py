"""The command: found and started as a shell would, with `execve` semantics.

`child` calls `check` before anything is fetched, so that a wrong command fails at once. native/spawn.c
executes it; `execute` does the same in a forked child where the C extension is missing.
"""

import errno
import posix

from cloudtaser.wrapper.errors import EX_NOT_EXECUTABLE, EX_NOT_FOUND, CommandError

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELL = b"/bin/sh"
_REGULAR, _TYPE_MASK, _DIRECTORY = 0o100000, 0o170000, 0o040000
_PASS_OVER = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ESTALE,
    errno.ENODEV,
    errno.ETIMEDOUT,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)


def check(name: bytes, path: bytes | None) -> None:
    """Raises CommandError with 127 or 126 where `name` can already be seen not to start."""
    refused = False
    for candidate in candidates(name, path):
        try:
            mode = posix.stat(candidate).st_mode
        except (OSError, ValueError):
            continue
        if mode & _TYPE_MASK != _DIRECTORY and posix.access(candidate, posix.X_OK, effective_ids=True):
            return
        refused = True
    raise refusal(name, errno.EACCES if refused else errno.ENOENT)


def candidates(name: bytes, path: bytes | None) -> list[bytes]:
    """The files to try in order: `name` itself if it has a slash, else `name` in each directory of PATH."""
    if not name:
        return []
    if b"/" in name:
        return [name]
    directories = (DEFAULT_PATH if path is None else path).split(b":")
    return [(directory or b".") + b"/" + name for directory in directories]


def execute(argv: list[bytes], environ: dict[bytes, bytes], path: bytes | None) -> None:
    """Become the command; returns never. Raises CommandError where no candidate can be started."""
    worst = errno.ENOENT
    for candidate in candidates(argv[0], path):
        try:
            posix.execve(candidate, argv, environ)
        except OSError as error:
            number = error.errno or errno.EACCES
        except ValueError:
            number = errno.ENOENT
        if number == errno.ENOEXEC:
            number = _interpret(candidate, argv, environ)
        if number == errno.EACCES:
            worst = errno.EACCES
        elif number not in _PASS_OVER:
            raise refusal(argv[0], number)
    raise refusal(argv[0], worst)


def _interpret(file: bytes, argv: list[bytes], environ: dict[bytes, bytes]) -> int:
    """A file without a known format is a shell script, unless it looks binary; the error number."""
    try:
        descriptor = posix.open(file, posix.O_RDONLY | posix.O_CLOEXEC)
        head = posix.read(descriptor, 128)
        posix.close(descriptor)
        if b"\0" in head.partition(b"\n")[0]:
            return errno.ENOEXEC
        posix.execve(_SHELL, [_SHELL, file, *argv[1:]], environ)
    except OSError:
        pass
    return errno.ENOEXEC


def refusal(name: bytes, number: int) -> CommandError:
    """Why the command cannot be started, by error number; its code is a shell's."""
    shown = name.decode("utf-8", "replace")
    if number == errno.ENOENT:
        return CommandError("command not found", EX_NOT_FOUND, on=shown)
    if number == errno.E2BIG:
        return CommandError("arguments and environment are too long", EX_NOT_EXECUTABLE, on=shown)
    return CommandError(f"command cannot be started: {posix.strerror(number)}", EX_NOT_EXECUTABLE, on=shown)
