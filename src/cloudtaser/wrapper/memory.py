"""The process's own memory: secrets taken out of its environment, closed to others, wiped at the end.

`config` takes the token it was given, `app` closes the process before anything is fetched and wipes
everything on every way out (spec/wrapper.md "Start" 1). Buffers are `buffers`' and native/memory.c's.
"""

import posix

from cloudtaser.wrapper import extension
from cloudtaser.wrapper.buffers import Span, span_of
from cloudtaser.wrapper.errors import MemoryRefusedError

_BLANKS = b" \t\r\n\v\f"


def close(*, required: bool) -> None:
    """No core dump of this process, no ptrace by its own user; with `required` no other secret memory than
    memfd_secret from now on.

    Raises MemoryRefusedError where that cannot be had. From then on what /proc/self has for the owner alone
    is root's.
    """
    if not extension.PRESENT:
        if required:
            raise _refused("this installation of the wrapper has no C extension", "use the payload")
        return
    if required:
        try:
            extension.native.require()
        except MemoryError as error:
            raise _refused(
                str(error), "it takes Linux 5.14 (before 6.5 with secretmem.enable=1) and RLIMIT_MEMLOCK"
            ) from None
    try:
        extension.native.close_process()
    except OSError as error:
        raise MemoryRefusedError(f"the process cannot be closed to others: {error.strerror}") from None


def _refused(what: str, fix: str) -> MemoryRefusedError:
    return MemoryRefusedError(
        f"no memfd_secret, which is required: {what}", on="CLOUDTASER_REQUIRE_MEMFD_SECRET", fix=fix
    )


def taken(environ: dict[bytes, bytes], name: bytes) -> Span | None:
    """The variable's value without blanks round it, or None where there is nothing.

    Where it is the process's own variable, it goes: from `environ`, from the interpreter's copy, and from the
    strings that the kernel shows in /proc/PID/environ.
    """
    value = environ.get(name)
    if value is None:
        return None
    span = span_of(value)
    while len(span) and span.buffer[span.end - 1] in _BLANKS:
        span.end -= 1
    while len(span) and span.buffer[span.start] in _BLANKS:
        span.start += 1
    if posix.environ.get(name) is value:
        del environ[name], posix.environ[name]
        if extension.PRESENT:
            extension.native.take_variable(name)
            extension.native.wipe_bytes(value)
    return span if len(span) else None


def wipe_leftovers() -> None:
    """What calls that moved secrets left on the stack goes. For who had an answer, or started a program."""
    if extension.PRESENT:
        extension.native.wipe_leftovers()


def wipe() -> None:
    """Zeros into all secret memory; the last thing before the process ends."""
    if extension.PRESENT:
        extension.native.wipe_everything()
