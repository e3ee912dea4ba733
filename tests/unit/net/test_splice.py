"""A splice passes on bytes, ends and losses, and holds nothing back nor up."""

from __future__ import annotations

import asyncio
import os

import pytest
import uvloop

from cloudtaser.errors import UnavailableError
from cloudtaser.net.splice import Splice
from tests.unit.net.wires import Recorder, plug


def spliced(splice: Splice) -> tuple[Recorder, Recorder]:
    a, b = Recorder(half_open=True), Recorder(half_open=True)
    plug(a, splice.first)
    plug(splice.second, b)
    return a, b


async def over_sockets() -> None:
    """TCP on both sides; the second is dialled after the first has spoken."""
    loop = asyncio.get_running_loop()
    far = Recorder(half_open=True)
    target = await loop.create_server(lambda: far, "127.0.0.1", 0)
    splices: list[Splice] = []
    dials: list[asyncio.Future[object]] = []

    def accept() -> asyncio.Protocol:
        splice = Splice()
        splices.append(splice)
        port = target.sockets[0].getsockname()[1]
        dial = loop.create_connection(lambda: splice.second, "127.0.0.1", port)
        dials.append(asyncio.ensure_future(dial))
        return splice.first

    front = await loop.create_server(accept, "127.0.0.1", 0)
    near = Recorder(half_open=True)
    await loop.create_connection(lambda: near, "127.0.0.1", front.sockets[0].getsockname()[1])
    data = os.urandom(5_000_000)
    await near.send(data)
    near.transport.write_eof()
    assert await far.received(len(data)) == data
    await far.ended.wait()
    await far.send(data[::-1])
    far.transport.write_eof()
    assert await near.received(len(data)) == data[::-1]
    await near.ended.wait()
    near.transport.close()
    far.transport.close()
    await splices[0].ended
    assert (splices[0].bytes_from_first, splices[0].bytes_from_second) == (len(data), len(data))
    assert splices[0].error is None
    await asyncio.gather(*dials)
    front.close()
    target.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_bytes_and_ends_pass_both_ways_between_sockets(run: object) -> None:
    assert callable(run)
    run(over_sockets())


async def test_one_side_that_cannot_take_more_stops_the_other() -> None:
    splice = Splice()
    a, b = Recorder(half_open=True), Recorder(half_open=True)
    near, _ = plug(a, splice.first)
    towards, end = plug(splice.second, b)
    end.reading = False
    for _ in range(200):
        if a.may_write.is_set():
            a.transport.write(bytes(65536))
        await asyncio.sleep(0)
    assert not a.may_write.is_set()
    assert towards.most <= towards.high + near.high + 2 * 65536
    end.resume_reading()
    await a.may_write.wait()
    assert splice.bytes_from_first > 0


async def test_a_cut_is_passed_on_as_a_cut() -> None:
    splice = Splice()
    a, b = spliced(splice)
    a.transport.write(b"half")
    await b.received(4)
    a.transport.abort()
    assert await b.lost is not None
    assert not b.ended.is_set()
    await splice.ended
    assert isinstance(splice.error, UnavailableError)


async def test_an_idle_splice_ends() -> None:
    ends: list[Splice] = []
    splice = Splice(idle_timeout=0.05, on_end=ends.append)
    a, b = spliced(splice)
    await splice.ended
    await asyncio.gather(a.lost, b.lost)
    assert ends == [splice]
    assert splice.error is not None
    assert splice.error.diagnostic() == "nothing was sent for 0.05 s"


async def test_a_second_side_that_never_comes_ends_the_first() -> None:
    splice = Splice()
    a = Recorder()
    plug(a, splice.first)
    splice.abort(UnavailableError("no tunnel"))
    await a.lost
    await splice.ended
    late = Recorder()
    plug(splice.second, late)
    await late.lost
    assert splice.error is not None
    assert splice.error.what == "no tunnel"
