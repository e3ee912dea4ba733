"""A dialogue is encrypted between two who share a key, bounded, and over at the first fault."""

from __future__ import annotations

import asyncio

import pytest

from cloudtaser.errors import ProtocolError, UnavailableError
from cloudtaser.net.frames import NoiseDialogue
from cloudtaser.wire.noise import Channel
from tests.unit.net.wires import Recorder, Wire, plug

PSK = bytes(range(32))


async def dialogue(psk: bytes = PSK) -> tuple[NoiseDialogue, NoiseDialogue, Wire]:
    a, b = NoiseDialogue(Channel.initiator(PSK, b"p")), NoiseDialogue(Channel.responder(psk, b"p"))
    wire, _ = plug(a, b)
    return a, b, wire


async def test_two_who_share_a_key_talk_and_nobody_between_reads() -> None:
    a, b, wire = await dialogue()
    await asyncio.gather(a.establish(1), b.establish(1))
    assert a.handshake_hash == b.handshake_hash
    a.send(b"the certificate request")
    assert await b.receive(1) == b"the certificate request"
    b.send(b"the certificate")
    b.close()
    assert await a.receive(1) == b"the certificate"
    with pytest.raises(UnavailableError, match="ended the dialogue"):
        await a.receive(1)
    assert not any(b"certificate" in data for data in wire.writes)


async def test_another_key_ends_it_on_both_sides() -> None:
    a, b, _ = await dialogue(psk=bytes(32))
    with pytest.raises(ProtocolError, match="does not share our key"):
        await b.establish(1)
    with pytest.raises(UnavailableError):
        await a.establish(1)


async def test_silence_is_bounded() -> None:
    a = NoiseDialogue(Channel.initiator(PSK, b"p"))
    wire, _ = plug(a, Recorder())
    with pytest.raises(UnavailableError, match=r"no handshake within 0\.02 s"):
        await a.establish(0.02)
    assert wire.closing


async def test_a_tampered_message_is_refused() -> None:
    a, b, wire = await dialogue()
    await asyncio.gather(a.establish(1), b.establish(1))
    wire.cork()
    a.send(b"x")
    wire.flight[-1] = wire.flight[-1][:-1] + bytes([wire.flight[-1][-1] ^ 1])
    wire.uncork()
    with pytest.raises(ProtocolError):
        await b.receive(1)


async def test_a_peer_that_never_stops_talking_is_cut_off() -> None:
    a, b, _ = await dialogue()
    await asyncio.gather(a.establish(1), b.establish(1))
    for _ in range(10):
        a.send(b"and another thing")
    await b.closed
    with pytest.raises(ProtocolError, match="out of turn"):
        b.send(b"x")
