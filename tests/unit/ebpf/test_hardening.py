"""The agent's system call filter, run as the kernel runs it."""

from __future__ import annotations

import struct

import pytest

from cloudtaser.ebpf.hardening import filter_program

ALLOW, KILL, EPERM = 0x7FFF0000, 0x80000000, 0x00050001
X86, ARM = 0xC000003E, 0xC00000B7


def run(program: bytes, number: int, architecture: int) -> int:
    data = struct.pack("<II", number, architecture)
    accumulator, at = 0, 0
    while True:
        code, yes, no, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x15:
            at += yes if accumulator == value else no
        elif code == 0x35:
            at += yes if accumulator >= value else no
        else:
            assert code == 0x06
            return int(value)


@pytest.mark.parametrize(
    ("number", "name"), [(59, "execve"), (101, "ptrace"), (165, "mount"), (313, "finit_module")]
)
def test_a_taken_over_agent_gets_no_further(number: int, name: str) -> None:
    assert run(filter_program("x86_64"), number, X86) == EPERM, name


def test_what_the_agent_does_goes_on() -> None:
    for number in (
        0,
        1,
        41,
        43,
        288,
        321,
        308,
        202,
        257,
        434,
    ):  # read … bpf, setns, futex, openat, pidfd_open
        assert run(filter_program("x86_64"), number, X86) == ALLOW
    assert run(filter_program("aarch64"), 280, ARM) == ALLOW


def test_another_architectures_numbers_end_the_process() -> None:
    assert run(filter_program("x86_64"), 1, 0x40000003) == KILL
    assert run(filter_program("x86_64"), 0x40000000 | 59, X86) == KILL
    assert run(filter_program("aarch64"), 1, X86) == KILL


def test_a_machine_without_numbers_has_no_filter() -> None:
    assert filter_program("riscv64") == b""
