"""The target: whether the program that is to be started can take its secrets from a segment in memory.

`handover` asks before anything is fetched. A program takes the interposer if a dynamic loader of the
interposer's architecture starts it, with no more rights than the wrapper has; `#!` is followed as the kernel
does. native/interposer_handover.c judges alike what the program itself executes.
"""

import posix

from cloudtaser.wrapper.command import candidates

_INTERPRETERS = 5  # "#!" naming a file with "#!": the kernel follows four
_HEAD = 512
_PROGRAM_HEADER = 56
_MAX_PARTS = 128
_INTERPRETER_PART = 3  # PT_INTERP
_SETUID, _SETGID, _GROUP_EXECUTES = 0o4000, 0o2000, 0o010
_DIRECTORY, _TYPE_MASK = 0o040000, 0o170000


def refusal(name: bytes, path: bytes | None, library: bytes) -> str:
    """Why the command `name` cannot take the interposer at `library`, as a phrase; "" where it can."""
    file = _find(name, path)
    if file is None:
        return "it is not there"
    machine = _head(library)[4:6] + _head(library)[18:20]  # class, byte order, architecture
    for _ in range(_INTERPRETERS):
        shown = file.decode("utf-8", "replace")
        try:
            descriptor = posix.open(file, posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError as error:
            return f"{shown} cannot be looked into: {error.strerror}"
        try:
            head = posix.pread(descriptor, _HEAD, 0)
            if head.startswith(b"#!"):
                words = head[2:].partition(b"\n")[0].split()
                file = words[0] if words else b"/bin/sh"
                continue
            if not head.startswith(b"\x7fELF"):
                file = b"/bin/sh"  # as the start itself does
                continue
            trouble = _privilege(descriptor, file) or _loader(descriptor, head, machine)
        except OSError as error:
            trouble = f"cannot be looked into: {error.strerror}"
        finally:
            posix.close(descriptor)
        return f"{shown} {trouble}" if trouble else ""
    return "its interpreters have interpreters in turn"


def _privilege(descriptor: int, file: bytes) -> str:
    mode = posix.fstat(descriptor).st_mode
    if mode & _SETUID or (mode & _SETGID and mode & _GROUP_EXECUTES):
        return "is setuid or setgid"
    try:
        posix.getxattr(file, b"security.capability")
    except OSError:
        return ""
    return "has file capabilities"


def _loader(descriptor: int, head: bytes, machine: bytes) -> str:
    if head[4:6] + head[18:20] != machine:
        return "is of another architecture"
    offset, count = int.from_bytes(head[32:40], "little"), int.from_bytes(head[56:58], "little")
    for index in range(min(count, _MAX_PARTS)):
        part = posix.pread(descriptor, 4, offset + index * _PROGRAM_HEADER)
        if int.from_bytes(part, "little") == _INTERPRETER_PART:
            return ""
    return "is statically linked"


def _head(file: bytes) -> bytes:
    try:
        descriptor = posix.open(file, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return posix.pread(descriptor, _HEAD, 0)
    finally:
        posix.close(descriptor)


def _find(name: bytes, path: bytes | None) -> bytes | None:
    """What a shell would start."""
    for candidate in candidates(name, path):
        try:
            mode = posix.stat(candidate).st_mode
        except (OSError, ValueError):
            continue
        if mode & _TYPE_MASK != _DIRECTORY and posix.access(candidate, posix.X_OK, effective_ids=True):
            return candidate
    return None
