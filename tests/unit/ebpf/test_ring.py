"""The ring buffer's reader, on pages laid out as the kernel's."""

from __future__ import annotations

import mmap
import os
import struct

from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.ebpf.ring import Ring

SIZE = mmap.PAGESIZE
BUSY, DISCARDED = 1 << 31, 1 << 30


class Kernel:
    """The producer's side; the kernel maps the data twice, so records run on past its end."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * mmap.PAGESIZE + 2 * SIZE)
        self.at = 0

    def put(self, data: bytes, flags: int = 0) -> None:
        record = (struct.pack("<II", len(data) | flags, 0) + data).ljust((len(data) + 15) & ~7, b"\0")
        for n, byte in enumerate(record):
            where = (self.at + n) % SIZE
            for copy in (0, SIZE):
                os.pwrite(self.fd, bytes([byte]), 2 * mmap.PAGESIZE + copy + where)
        self.at += len(record)
        os.pwrite(self.fd, struct.pack("<Q", self.at), mmap.PAGESIZE)


@given(st.lists(st.tuples(st.binary(max_size=40), st.booleans()), max_size=40))
def test_records_come_in_order_round_the_end_without_those_given_up(
    records: list[tuple[bytes, bool]],
) -> None:
    kernel = Kernel()
    ring = Ring(kernel.fd, SIZE)
    for start in range(0, len(records), 20):
        part = records[start : start + 20]
        for data, kept in part:
            kernel.put(data, 0 if kept else DISCARDED)
        assert ring.read() == [data for data, kept in part if kept]
    assert ring.read() == []
    ring.close()
    os.close(kernel.fd)


def test_a_record_that_is_being_written_is_waited_for() -> None:
    kernel = Kernel()
    ring = Ring(kernel.fd, SIZE)
    kernel.put(b"one")
    kernel.put(b"two", BUSY)
    assert ring.read() == [b"one"]
    assert ring.read() == []
    ring.close()
    os.close(kernel.fd)


def test_no_more_is_read_than_asked_for() -> None:
    kernel = Kernel()
    ring = Ring(kernel.fd, SIZE)
    for n in range(5):
        kernel.put(bytes([n]))
    assert [len(ring.read(2)) for _ in range(4)] == [2, 2, 1, 0]
    ring.close()
    os.close(kernel.fd)
