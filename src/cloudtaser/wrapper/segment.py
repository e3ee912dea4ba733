"""The segment: how secrets lie in the memory that the interposer maps (native/interposer.h has the layout).

`handover` writes it. Pure: spans in, a list of buffers out that make up the segment one after another.
"""

import posix

from cloudtaser.wrapper.buffers import Span

VARIABLE = b"CLOUDTASER_SEGMENT"
ROTATES, STRICT = 1, 2
GENERATION_AT = 40  # offset of the generation, 8 bytes
_MAGIC = 0x31676573726B7463
_HEADER = 64
_BLOCKS = 4
_LEAST_BLOCK = 4096

Piece = bytes | memoryview


class Segment:
    """The layout for one set of names; where it `rotates`, with room for newer values."""

    __slots__ = ("_block_size", "_flags", "_generation", "_names", "_values_at", "names", "size")

    def __init__(self, secrets: dict[bytes, Span], *, rotates: bool, strict: bool) -> None:
        self.names = list(secrets)
        self._flags = (ROTATES if rotates else 0) | (STRICT if strict else 0)
        self._names = b"".join(name + b"=\0" for name in secrets) + b"\0"
        self._values_at = _HEADER + len(self._names)
        used = _size(secrets)
        self._block_size = max(_LEAST_BLOCK, 4 * used) if rotates else used
        self._generation = 0
        self.size = self._values_at + self._block_size * self._blocks

    @property
    def _blocks(self) -> int:
        return _BLOCKS if self._flags & ROTATES else 1

    def pieces(self, secrets: dict[bytes, Span]) -> list[Piece]:
        """The whole segment with its first values."""
        header = _MAGIC.to_bytes(8, "little")
        header += self._flags.to_bytes(4, "little") + self._blocks.to_bytes(4, "little")
        for number in (_HEADER, self._values_at, self._block_size, 0):
            header += number.to_bytes(8, "little")
        header += posix.urandom(16)
        rest = bytes(self._block_size * self._blocks - _size(secrets))
        return [header, self._names, *_block(secrets), rest]

    def next_block(self, secrets: dict[bytes, Span]) -> tuple[int, list[Piece], int] | None:
        """Newer values: offset, pieces, and the generation to write once they are there. None where they do
        not fit, or are not the same variables.

        The last byte of a block stays zero, and older values stay for as long as there are other blocks.
        """
        if list(secrets) != self.names or _size(secrets) > self._block_size:
            return None
        self._generation += 1
        offset = self._values_at + self._generation % self._blocks * self._block_size
        return offset, _block(secrets), self._generation


def _block(secrets: dict[bytes, Span]) -> list[Piece]:
    pieces: list[Piece] = []
    for name, span in secrets.items():
        pieces += [name + b"=", span.view(), b"\0"]
    pieces.append(b"\0")
    return pieces


def _size(secrets: dict[bytes, Span]) -> int:
    return sum(len(name) + 2 + len(span) for name, span in secrets.items()) + 1
