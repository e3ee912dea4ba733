"""The interpreter that counts instructions executes what the kernel would."""

from __future__ import annotations

import struct

import pytest

from bench.ebpf.interpreter import InterpreterError, longest


def code(*instructions: tuple[int, int, int, int, int]) -> bytes:
    """Code, destination, source, offset, immediate."""
    return b"".join(
        struct.pack("<BBhi", operation, source << 4 | destination, offset, immediate)
        for operation, destination, source, offset, immediate in instructions
    )


EXIT = (0x95, 0, 0, 0, 0)


def test_a_straight_program_executes_each_instruction_once() -> None:
    run = longest(code((0xB7, 0, 0, 0, 7), EXIT), str)
    assert (run.instructions, run.lookups) == (2, 0)


def test_the_longer_way_of_a_branch_on_a_loaded_value_counts() -> None:
    # r2 = *(u64 *)(r1 + 0); if r2 != 0 goto exit; three more
    program = code((0x79, 2, 1, 0, 0), (0x55, 2, 0, 3, 0), *[(0xB7, 0, 0, 0, 1)] * 3, EXIT)
    assert longest(program, str).instructions == 6


def test_a_loaded_value_equals_no_constant() -> None:
    # if *(u64 *)(r1 + 0) == 0x9fa0: a long way that nothing ordinary goes
    program = code((0x79, 2, 1, 0, 0), (0x15, 2, 0, 1, 0x9FA0), EXIT, *[(0xB7, 0, 0, 0, 1)] * 50, EXIT)
    assert longest(program, str).instructions == 3


def test_lookups_are_counted_and_find_nothing() -> None:
    # call lookup; if r0 == 0 goto exit; ten more
    program = code((0x85, 0, 0, 0, 1), (0x15, 0, 0, 10, 0), *[(0xB7, 0, 0, 0, 1)] * 10, EXIT)
    run = longest(program, lambda _: "bpf_map_lookup_elem")
    assert (run.instructions, run.lookups) == (3, 1)


def test_a_call_into_the_same_program_returns_with_its_registers() -> None:
    # r6 = 5; call +2; if r6 == 5 goto exit; r0 = 1; | exit ; subprogram: r6 = 0; exit
    program = code((0xB7, 6, 0, 0, 5), (0x85, 0, 1, 0, 3), (0x15, 6, 0, 1, 5), (0xB7, 0, 0, 0, 1), EXIT,
                   (0xB7, 6, 0, 0, 0), EXIT)  # fmt: skip
    assert longest(program, str).instructions == 6


def test_a_program_without_an_end_is_told() -> None:
    with pytest.raises(InterpreterError, match="does not end"):
        longest(code((0x05, 0, 0, -1, 0)), str)
