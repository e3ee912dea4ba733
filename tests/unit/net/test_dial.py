"""Addresses are read as people write them, waits are jittered, connects are bounded."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from cloudtaser.errors import ConfigError, UnavailableError
from cloudtaser.net.dial import Address, Backoff, dial_tcp
from cloudtaser.wire.hashes import route_key
from tests.unit.net.wires import Recorder

ROOM = bytes(range(32))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("beacon.example:443", Address("beacon.example", 443)),
        (" 127.0.0.1:8443 ", Address("127.0.0.1", 8443)),
        ("[::1]:1", Address("::1", 1)),
        ("*.beacons.example:65535", Address("beacons.example", 65535, wildcard=True)),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", "host:", ":443", "host:0", "host:65536", "host:٣", "::1:443", "[::1:443", "[host]:443"),
        *(
            "*.127.0.0.1:443",
            "*.[::1]:443",
            "*:443",
            "a b:443",
            "-a:443",
            "a..b:443",
            "https://a:443",
            "a/b:443",
        ),
    ],
)
def test_a_bad_address_is_named_with_its_source(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Address.parse(text, source="--beacon-address")
    assert repr(text) in caught.value.diagnostic()
    assert "--beacon-address" in caught.value.diagnostic()


def test_a_list_keeps_order_and_each_address_once() -> None:
    assert Address.parse_list("b:2, a:1,b:2,") == (Address("b", 2), Address("a", 1))
    for text in ("", " , "):
        with pytest.raises(ConfigError):
            Address.parse_list(text)


def test_a_wildcard_puts_the_route_key_before_the_host_and_nothing_more_of_the_room() -> None:
    name = Address.parse("*.beacons.example:443").server_name(ROOM)
    assert name == f"{route_key(ROOM)}.beacons.example"
    assert ROOM.hex()[:8] not in name
    assert Address.parse("one.example:443").server_name(ROOM) == "one.example"


def test_waits_double_to_their_limit_with_full_jitter_and_start_again() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return random.uniform(low, high)

    backoff = Backoff(uniform=uniform)
    waits = [backoff.next() for _ in range(7)]
    assert [high for _, high in asked] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 4.0, 4.0])
    assert all(low == 0 for low, _ in asked)
    assert all(0 <= wait <= high for wait, (_, high) in zip(waits, asked, strict=True))
    backoff.reset()
    backoff.next()
    assert asked[-1][1] == pytest.approx(0.2)


async def test_nobody_there_is_one_line_that_names_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(UnavailableError) as caught:
            await dial_tcp(address, Recorder)
    assert caught.value.diagnostic() == f"cannot connect: connection refused ({address})"


async def test_a_host_that_does_not_answer_costs_no_more_than_the_timeout() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = Address("127.0.0.1", full.getsockname()[1])
        blockers = [socket.socket() for _ in range(4)]
        for blocker in blockers:
            blocker.setblocking(False)
            blocker.connect_ex(("127.0.0.1", address.port))
        with pytest.raises(UnavailableError, match=r"no connection within 0\.1 s"):
            await dial_tcp(address, Recorder, 0.1)
        for blocker in blockers:
            blocker.close()


async def test_a_connection_is_kept_alive_by_the_kernel() -> None:
    listener = await asyncio.get_running_loop().create_server(Recorder, "127.0.0.1", 0)
    transport, _ = await dial_tcp(Address("127.0.0.1", listener.sockets[0].getsockname()[1]), Recorder)
    assert transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    transport.abort()
    listener.close()
