"""The start in C: execve as a shell does it, from secret memory; and descriptors that carry values.

`tests/integration/test_wrapper_init.py` has the whole of what a program finds; here are the corners.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
from pathlib import Path

import pytest

from _cloudtaser import Memory, descriptor, spawn

NOT_EXECUTABLE, NOT_FOUND = 126, 127


def started(
    candidates: list[bytes],
    argv: list[bytes],
    *,
    inherited: list[bytes] | None = None,
    secrets: list[tuple[bytes, memoryview]] | None = None,
    mask: list[int] | None = None,
    ignored: list[int] | None = None,
    defaults: list[int] | None = None,
    passed: list[int] | None = None,
) -> tuple[int, int, bytes]:
    """Start a program with its standard output in a pipe; error number, exit code and what it wrote."""
    reading, writing = os.pipe()
    saved = os.dup(1)
    os.dup2(writing, 1)
    os.close(writing)
    try:
        pid, problem = spawn(
            candidates, argv, inherited or [], list(secrets or []), -1,
            mask or [], ignored or [], defaults or [], passed or [],
        )  # fmt: skip
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    with open(reading, "rb") as output:
        written = output.read()
    _, status = os.waitpid(pid, 0)
    return problem, os.waitstatus_to_exitcode(status), written


def value(content: bytes) -> memoryview:
    view = memoryview(Memory(len(content)))
    view[:] = content
    return view


def script(path: Path, content: bytes, mode: int = 0o755) -> bytes:
    path.write_bytes(content)
    path.chmod(mode)
    return bytes(path)


def test_the_environment_is_what_was_inherited_and_what_is_secret() -> None:
    secrets = [(b"A", value(b"hunter2")), (b"EMPTY", value(b"")), (b"LONG", value(b"x" * 100_000))]
    _, code, output = started(
        [b"/usr/bin/env"], [b"env", b"-0"], inherited=[b"B=2", b"C=a=b"], secrets=secrets
    )
    assert code == 0
    assert set(output.split(b"\0")[:-1]) == {
        b"A=hunter2",
        b"EMPTY=",
        b"LONG=" + b"x" * 100_000,
        b"B=2",
        b"C=a=b",
    }


def test_the_first_candidate_that_can_be_started_wins(tmp_path: Path) -> None:
    good = script(tmp_path / "good", b"#!/bin/sh\necho good $0 $1\n")
    forbidden = script(tmp_path / "forbidden", b"#!/bin/sh\necho no\n", 0o644)
    problem, code, output = started([b"/no/such", forbidden, good], [b"good", b"1"])
    assert (problem, code) == (0, 0)
    assert output == b"good " + good + b" 1\n"


def test_a_file_without_a_format_is_a_script_unless_it_is_binary(tmp_path: Path) -> None:
    plain = script(tmp_path / "plain", b"echo plain $1\n")
    assert started([plain], [b"plain", b"x"]) == (0, 0, b"plain x\n")
    binary = script(tmp_path / "binary", b"\0ELF?\necho no\n")
    assert started([binary], [b"binary"]) == (errno.ENOEXEC, NOT_EXECUTABLE, b"")
    empty = script(tmp_path / "empty", b"")
    assert started([empty], [b"empty"]) == (0, 0, b"")


@pytest.mark.parametrize(
    ("candidates", "problem", "code"),
    [
        ([], errno.ENOENT, NOT_FOUND),
        ([b"/no/such"], errno.ENOENT, NOT_FOUND),
        ([b"/etc/passwd/x", b"/no/such"], errno.ENOENT, NOT_FOUND),
        ([b"/etc/passwd"], errno.EACCES, NOT_EXECUTABLE),
        ([b"/etc/passwd", b"/no/such"], errno.EACCES, NOT_EXECUTABLE),
        ([b"/etc"], errno.EACCES, NOT_EXECUTABLE),
        ([b"/" + b"x" * 5000], errno.ENOENT, NOT_FOUND),
    ],
)
def test_what_cannot_be_started_says_why(candidates: list[bytes], problem: int, code: int) -> None:
    assert started(candidates, [b"x"]) == (problem, code, b"")


def test_an_environment_that_is_too_long_is_said(tmp_path: Path) -> None:
    assert started([b"/bin/true"], [b"true"], secrets=[(b"A", value(b"x" * 131_071))])[:2] == (
        errno.E2BIG,
        NOT_EXECUTABLE,
    )


def test_signals_are_as_told() -> None:
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        _, _, output = started(
            [b"/bin/cat"], [b"cat", b"/proc/self/status"],
            mask=[signal.SIGHUP], ignored=[signal.SIGUSR2], defaults=[signal.SIGPIPE, signal.SIGXFSZ],
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGUSR1, before[0])
    lines = [line.split() for line in output.splitlines() if line.startswith(b"Sig") and b"/" not in line]
    masks = {line[0]: int(line[1], 16) for line in lines}
    bit = {number: 1 << (number - 1) for number in signal.Signals}
    assert masks[b"SigBlk:"] == bit[signal.SIGHUP]
    assert masks[b"SigIgn:"] & bit[signal.SIGUSR2]
    assert not masks[b"SigIgn:"] & (bit[signal.SIGPIPE] | bit[signal.SIGXFSZ])
    assert masks[b"SigCgt:"] == 0
    assert (signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGPIPE)) == (before[1], signal.SIG_IGN)


def test_only_passed_descriptors_stay_open() -> None:
    kept, closed = os.pipe()
    listing = [b"ls", b"/proc/self/fd"]
    found = started([b"/bin/ls"], listing, passed=[kept])[2].split()
    assert str(kept).encode() in found
    assert str(closed).encode() not in found
    assert not os.get_inheritable(kept)
    os.close(kept)
    os.close(closed)


@pytest.mark.parametrize("content", [b"a\0b", b"\0"])
def test_a_nul_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="NUL"):
        spawn([b"/bin/true"], [b"true"], [], [(b"A", value(content))], -1, [], [], [], [])
    with pytest.raises(ValueError):
        spawn([b"/bin/true"], [content], [], [], -1, [], [], [], [])


def test_misuse_is_an_error() -> None:
    with pytest.raises(TypeError):
        spawn([b"/bin/true"], ["true"], [], [], -1, [], [], [], [])  # type: ignore[list-item]  # what is refused
    with pytest.raises(TypeError):
        spawn([b"/bin/true"], [b"true"], [], [(b"A", 1)], -1, [], [], [], [])  # type: ignore[list-item]  # likewise
    with pytest.raises(ValueError):
        spawn([b"/bin/true"], [b"true"], [], [], -1, [], [], [], list(range(100)))


# -- descriptors


def test_a_secret_descriptor_can_be_mapped_and_not_read() -> None:
    fd, is_secret = descriptor([value(b"hunter2"), b"\0", value(b"more")], True)
    assert is_secret
    assert not os.get_inheritable(fd)
    with mmap.mmap(fd, 12, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == b"hunter2\0more"
    with pytest.raises(OSError):
        os.pread(fd, 1, 0)
    with pytest.raises(OSError):
        os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(fd)


def test_a_sealed_descriptor_can_be_read_as_a_file_and_not_changed() -> None:
    fd, is_secret = descriptor([value(b"hunter2")], False)
    assert not is_secret
    with open(f"/proc/self/fd/{fd}", "rb") as file:
        assert file.read() == b"hunter2"
    for change in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 1), lambda: os.ftruncate(fd, 99)):
        with pytest.raises(PermissionError):
            change()
    os.close(fd)


def test_descriptors_may_be_empty_and_are_bounded() -> None:
    fd, _ = descriptor([], True)
    assert os.fstat(fd).st_size == 0
    os.close(fd)
    block = bytes(1 << 20)
    with pytest.raises(OverflowError):
        descriptor([block] * 65, False)
    with pytest.raises(TypeError):
        descriptor([1], True)
