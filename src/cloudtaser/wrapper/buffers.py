"""Buffers: the one place that allocates memory for secrets, and wipes it.

Requests, responses, tokens and values live in `Buffer` and are passed on as `Span`, never as `bytes` or
`str`, which nobody can wipe; a buffer wipes itself when the last holder lets go. It lies in secret memory
(native/memory.c); where the C extension is missing, in a `bytearray`, and the protection score says so.
"""

import _operator

from cloudtaser.wrapper.errors import MemoryRefusedError

try:
    from _cloudtaser import Memory
except ImportError:  # see `extension`

    class Memory(bytearray):  # type: ignore[no-redef]
        """Ordinary memory with the interface of secret memory."""

        __slots__ = ()

        def wipe(self, start: int = 0, end: int | None = None) -> None:
            """Zeros into [start, end)."""
            end = len(self) if end is None else end
            self[start:end] = bytes(end - start)


_FIRST_SIZE = 4096


class Buffer:
    """Bytes that grow up to `limit` and can be wiped. `len()` is what is filled."""

    __slots__ = ("_data", "_length", "limit")

    def __init__(self, size: int = _FIRST_SIZE, limit: int = 1 << 20) -> None:
        self._data = _memory(min(size, limit))
        self._length = 0
        self.limit = limit

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return self._data[index]

    def __repr__(self) -> str:
        return f"Buffer({self._length} bytes, ***)"

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add `data` at the end. Raises OverflowError past the limit."""
        end = self._length + len(data)
        self.reserve(end)
        memoryview(self._data)[self._length : end] = data
        self._length = end

    def reserve(self, size: int) -> None:
        """Make room for `size` bytes in all; what moves is wiped where it was."""
        if size > self.limit:
            raise OverflowError("buffer limit")
        if size <= len(self._data):
            return
        grown = _memory(min(self.limit, max(size, 2 * len(self._data))))
        memoryview(grown)[: self._length] = memoryview(self._data)[: self._length]
        self._data.wipe()
        self._data = grown

    def space(self, size: int) -> memoryview:
        """Room for `size` more bytes to receive into; `advance` says how many came."""
        self.reserve(self._length + size)
        return memoryview(self._data)[self._length : self._length + size]

    def advance(self, count: int) -> None:
        """`count` bytes of the last `space` are filled."""
        self._length += count

    def truncate(self, length: int) -> None:
        """Forget and wipe what lies behind `length`."""
        self._data.wipe(length, self._length)
        self._length = length

    def view(self, start: int = 0, end: int | None = None) -> memoryview:
        """The bytes from `start` to `end`, writable, not copied. Release it before the buffer may grow."""
        return memoryview(self._data)[start : self._length if end is None else end]

    def find(self, needle: bytes | memoryview, start: int, end: int) -> int:
        """Offset of `needle` in [start, end), or -1; copies nothing."""
        return self._data.find(needle, start, end)

    def wipe(self) -> None:
        """Overwrite everything with zeros and empty the buffer."""
        self._data.wipe()
        self._length = 0

    def __del__(self) -> None:
        data = getattr(self, "_data", None)  # none where there was no memory for it
        if data is not None:
            data.wipe()


class Span:
    """A part of a buffer that is one value: a token, a password. It shows itself to nobody."""

    __slots__ = ("buffer", "end", "start")

    def __init__(self, buffer: Buffer, start: int = 0, end: int | None = None) -> None:
        self.buffer = buffer
        self.start = start
        self.end = len(buffer) if end is None else end

    def __len__(self) -> int:
        return self.end - self.start

    def view(self) -> memoryview:
        """The bytes themselves, for the one call that needs them."""
        return self.buffer.view(self.start, self.end)

    def holds(self, byte: int) -> bool:
        """Whether `byte` occurs in it."""
        return self.buffer.find(bytes((byte,)), self.start, self.end) >= 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Span):
            return NotImplemented
        return _operator._compare_digest(self.view(), other.view())  # in constant time for equal lengths

    __hash__ = None  # type: ignore[assignment]  # a hash would be a trace of the value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Span is not pickled")


def span_of(data: bytes | memoryview) -> Span:
    """A value in a buffer of its own (a token given in the environment, or in what is about to be wiped)."""
    buffer = Buffer(max(1, len(data)), max(1, len(data)))
    buffer.append(data)
    return Span(buffer)


def _memory(size: int) -> Memory:
    try:
        return Memory(size)
    except MemoryError as error:
        fix = "raise RLIMIT_MEMLOCK, or do without CLOUDTASER_REQUIRE_MEMFD_SECRET"
        raise MemoryRefusedError(f"cannot have {size} more bytes: {error}", fix=fix) from None
