"""A small interpreter of BPF: how many instructions a program executes in a world where nothing is special.

`ordinary` uses it inside a VM on what the kernel holds after verification (`xlated`), which is what its
compiler turns into machine code. Whatever a program loads from the kernel is a value of its own that equals
no constant, or zero; no map has an entry. That is the path of a process that is not protected, on a file that
is like any other. Every choice between the two is tried, and the longest run counts.

Instruction set: Documentation/bpf/standardization/instruction-set.rst of the kernel.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

MASK = (1 << 64) - 1
STACK_TOP = 0x7000_0000_0000
CONTEXT = 0x6000_0000_0000
LIMIT = 100_000
MAX_CHOICES = 10  # loads whose value is tried both ways; later ones are values of their own
SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}


class InterpreterError(Exception):
    """A program does what this interpreter does not know."""


@dataclass(slots=True)
class Run:
    """What one execution cost."""

    instructions: int = 0
    lookups: int = 0
    calls: list[str] = field(default_factory=list)
    loads: int = 0


@dataclass(frozen=True, slots=True)
class Instruction:
    """One of 8 bytes; the second half of a 16-byte load is one too."""

    code: int
    destination: int
    source: int
    offset: int
    immediate: int


def decode(text: bytes) -> list[Instruction]:
    """From the kernel's own layout."""
    found = []
    for code, registers, offset, immediate in struct.iter_unpack("<BBhi", text):
        found.append(Instruction(code, registers & 15, registers >> 4, offset, immediate))
    return found


class Machine:
    """Executes one program, once. `zeros` says which loads, in order, give zero."""

    def __init__(self, code: list[Instruction], name: Callable[[int], str], zeros: tuple[bool, ...]) -> None:
        self._code, self._name, self._zeros = code, name, zeros
        self._registers = [0] * 11
        self._memory: dict[int, int] = {}  # bytes of the stack
        self._seen: dict[tuple[int, int], int] = {}
        self._fresh = 0
        self.run = Run()

    def execute(self) -> Run:
        """From the first instruction to the exit. Raises `InterpreterError`."""
        self._registers[1] = CONTEXT
        self._registers[10] = STACK_TOP
        frames: list[tuple[int, list[int]]] = []
        at = 0
        while True:
            if self.run.instructions >= LIMIT:
                raise InterpreterError("the program does not end")
            one = self._code[at]
            self.run.instructions += 1
            at += 1
            if one.code == 0x95:
                if not frames:
                    return self.run
                at, kept = frames.pop()
                self._registers[6:11] = kept
            elif one.code == 0x85 and one.source == 1:
                frames.append((at, self._registers[6:11]))
                self._registers[10] -= 512
                at += one.immediate
            elif one.code == 0x85:
                self._call(one)
            elif one.code & 7 in (5, 6):
                at += self._jump(one)
            elif one.code == 0x18:
                high = self._code[at].immediate & 0xFFFFFFFF
                at += 1  # both halves are one instruction of 16 bytes
                self._registers[one.destination] = high << 32 | one.immediate & 0xFFFFFFFF
            else:
                self._other(one)

    def _other(self, one: Instruction) -> None:
        kind = one.code & 7
        if kind in (4, 7):
            self._registers[one.destination] = self._arithmetic(one, wide=kind == 7)
        elif kind == 1:
            address = self._registers[one.source] + one.offset & MASK
            self._registers[one.destination] = self._load(address, SIZES[one.code & 0x18])
        elif kind in (2, 3):
            address = self._registers[one.destination] + one.offset & MASK
            value = self._registers[one.source] if kind == 3 else one.immediate & MASK
            if one.code & 0xE0 == 0x60:
                self._store(address, SIZES[one.code & 0x18], value)
        else:
            raise InterpreterError(f"instruction {one.code:#04x}")

    def _operand(self, one: Instruction) -> int:
        return self._registers[one.source] if one.code & 8 else one.immediate & MASK

    def _arithmetic(self, one: Instruction, *, wide: bool) -> int:
        left, right = self._registers[one.destination], self._operand(one)
        mask = MASK if wide else 0xFFFFFFFF
        left, right = left & mask, right & mask
        shift = right & (63 if wide else 31)
        operation = one.code & 0xF0
        signed = left - (mask + 1) if left > mask >> 1 else left
        results = {
            0x00: left + right,
            0x10: left - right,
            0x20: left * right,
            0x30: left // right if right else 0,
            0x40: left | right,
            0x50: left & right,
            0x60: left << shift,
            0x70: left >> shift,
            0x80: -left,
            0x90: left % right if right else left,
            0xA0: left ^ right,
            0xB0: right,
            0xC0: signed >> shift,
        }
        if operation == 0xD0:  # to another byte order and back makes no difference here
            return left
        return results[operation] & mask

    def _jump(self, one: Instruction) -> int:
        operation, wide = one.code & 0xF0, one.code & 7 == 5
        if operation == 0x00:
            return one.offset if wide else one.immediate
        mask = MASK if wide else 0xFFFFFFFF
        left, right = self._registers[one.destination] & mask, self._operand(one) & mask
        half = mask >> 1
        signed_left = left - mask - 1 if left > half else left
        signed_right = right - mask - 1 if right > half else right
        taken = {
            0x10: left == right,
            0x20: left > right,
            0x30: left >= right,
            0x40: bool(left & right),
            0x50: left != right,
            0x60: signed_left > signed_right,
            0x70: signed_left >= signed_right,
            0xA0: left < right,
            0xB0: left <= right,
            0xC0: signed_left < signed_right,
            0xD0: signed_left <= signed_right,
        }[operation]
        return one.offset if taken else 0

    def _own(self) -> int:
        """A value that equals no constant of a program's, and is a plausible address."""
        self._fresh += 1
        return 0xFFFF_8881_2A3B_0000 + self._fresh * 0x1_0001_1000

    def _load(self, address: int, size: int) -> int:
        if STACK_TOP - 16384 <= address < STACK_TOP:
            return int.from_bytes(
                bytes(self._memory.get(address + place, 0) for place in range(size)), "little"
            )
        if (address, size) not in self._seen:
            zero = self.run.loads < len(self._zeros) and self._zeros[self.run.loads]
            self.run.loads += 1
            self._seen[address, size] = 0 if zero else self._own()
        return self._seen[address, size] & (1 << size * 8) - 1

    def _store(self, address: int, size: int, value: int) -> None:
        for place, byte in enumerate((value & (1 << size * 8) - 1).to_bytes(size, "little")):
            self._memory[address + place] = byte

    def _call(self, one: Instruction) -> None:
        name = self._name(one.immediate)
        self.run.calls.append(name)
        result = 0
        if "lookup" in name:
            self.run.lookups += 1
        elif "probe_read" in name:
            target, size, source = self._registers[1], self._registers[2], self._registers[3]
            for place in range(0, size, 8):
                width = min(8, size - place)
                self._store(target + place, width, self._load(source + place, width))
        elif "storage_get" not in name:
            result = self._own()
        self._registers[0] = result


def longest(text: bytes, name: Callable[[int], str]) -> Run:
    """The most that the program executes where nothing is special."""
    code = decode(text)
    first = Machine(code, name, ()).execute()
    best = first
    for zeros in itertools.product((False, True), repeat=min(first.loads + 2, MAX_CHOICES)):
        run = Machine(code, name, zeros).execute()
        if run.instructions > best.instructions:
            best = run
    return best
