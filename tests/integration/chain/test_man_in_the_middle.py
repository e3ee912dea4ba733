"""Whoever owns a beacon, or poses as a bridge, gets nothing out of a bootstrap: played again, passed on or
bent."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloudtaser.demo.chain import Chain
from cloudtaser.net.dial import Address
from cloudtaser.net.frames import NoiseDialogue
from cloudtaser.net.tls import Identity, beacon_client
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.wire.bootstrap import (
    Mode,
    Refusal,
    ReturnProof,
    ReturnRequest,
    decode_answer,
    derive_psk,
    prologue,
    return_signature_message,
)
from cloudtaser.wire.hashes import init_room
from cloudtaser.wire.names import bridge_uri
from cloudtaser.wire.noise import Channel
from cloudtaser.wire.rendezvous import Hello, Role
from tests.chain_attackers import (
    Heard,
    certified,
    evil_beacon,
    failures,
    frame,
    frames,
    leaf,
    match,
    rooms,
    visit,
)
from tests.chain_tools import eventually
from tests.unit.net.parties import authority

pytestmark = pytest.mark.asyncio(loop_scope="session")

HANDSHAKE_FRAME = 2 + 32 + 16
"""A Noise handshake message of NNpsk0: a key and a tag, behind its length."""


def recorded(chain: Chain, side: str, room: bytes) -> list[bytes]:
    """The messages that one side sent in a room, as the beacon saw them."""
    paths = sorted(chain.records.glob(f"beacon-{side}-{room[:4].hex()}-*"), key=lambda p: p.stat().st_mtime)
    return frames(b"".join(path.read_bytes() for path in paths))


async def come_back_once(chain: Chain) -> None:
    """Have a replica come back, so that there is a recording of it."""
    replica, ports = chain.new_operator()
    replica.start()

    async def connected() -> bool:
        return await chain.tunnels(ports) > 0

    await replica.wait_until(connected, "connected")
    await replica.stop()


async def played(chain: Chain, room: bytes, messages: list[bytes]) -> bytes:
    """What the true bridge answers to a broker that says these bytes."""
    heard = Heard(b"".join(messages))
    transport = await visit(chain, Role.BROKER, room, heard)
    async with asyncio.timeout(20):
        await heard.ended
    transport.abort()
    return bytes(heard.data)


async def test_a_first_bootstrap_recorded_at_the_beacon_and_played_again_is_refused(chain: Chain) -> None:
    room = init_room(chain.fingerprint)
    messages = recorded(chain, "broker", room)[:2]
    assert [len(messages[0]), len(messages[1]) > 2000] == [HANDSHAKE_FRAME, True], (
        "the whole bootstrap is there"
    )
    before, failed = certified(chain), await failures(chain)
    answer = await played(chain, room, messages)
    assert len(answer) <= HANDSHAKE_FRAME, "a fresh handshake of the bridge's own, and no word behind it"
    assert certified(chain) == before

    async def counted() -> bool:
        return await failures(chain) > failed

    await eventually(counted, "the bridge counts the attempt")


async def test_a_return_recorded_at_the_beacon_and_played_again_is_refused(chain: Chain) -> None:
    await come_back_once(chain)
    room = rooms(chain)[1]
    messages = recorded(chain, "broker", room)[-2:]
    assert [len(messages[0]), len(messages[1]) > 1000] == [HANDSHAKE_FRAME, True]
    before = certified(chain)
    answer = frames(await played(chain, room, messages))
    assert [len(one) for one in answer][:1] in ([], [HANDSHAKE_FRAME])
    assert len(answer) <= 2, "a handshake, the bridge's proof for that very channel, and no certificate"
    assert certified(chain) == before


async def test_a_bridges_half_played_again_gets_no_word_out_of_an_operator(
    chain: Chain, tmp_path: Path
) -> None:
    await come_back_once(chain)
    room = rooms(chain)[1]
    messages = recorded(chain, "bridge", room)[-3:]
    assert len(messages[0]) == HANDSHAKE_FRAME
    said: asyncio.Queue[bytes] = asyncio.Queue()

    async def play(hello: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (hello.role, hello.room) == (Role.BROKER, room)
        match(writer)
        writer.write(b"".join(messages))
        said.put_nowait(await reader.read())

    async with evil_beacon(tmp_path, play) as beacon:
        replica, ports = chain.new_operator(*beacon.arguments)
        replica.start()
        for _ in range(2):
            async with asyncio.timeout(30):
                assert len(await said.get()) == HANDSHAKE_FRAME, "the operator said more than hello"
        assert await chain.tunnels(ports) == 0
        await replica.stop()
    assert "enrolled" not in replica.log.read_text()


async def pose_as_bridge(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    identity: Identity,
    fingerprint: str,
    room: bytes,
) -> tuple[Channel, bytes]:
    """The bridge's part of the return exchange under some certificate. The channel, and what the operator
    sent after the proof; nothing when it hung up."""
    channel = Channel.responder(derive_psk(fingerprint), prologue(room, Mode.RETURN))
    channel.receive(await frame(reader))
    key = load_pem_private_key(identity.key.reveal(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = key.sign(return_signature_message(channel.handshake_hash), ec.ECDSA(hashes.SHA256()))
    channel.send(ReturnProof(identity.certificate_pem.decode(), signature).encode())
    writer.write(channel.data_to_send())
    try:
        payloads = channel.receive(await frame(reader))
    except asyncio.IncompleteReadError:
        return channel, b""
    return channel, payloads[0]


async def test_a_return_request_passed_on_by_a_proven_bridge_fits_no_other_channel(
    chain: Chain, tmp_path: Path
) -> None:
    """Even a bridge with a certificate of the cluster can use an operator's token for nothing else."""
    assert chain.bridge is not None
    room = rooms(chain)[1]
    identity, _ = await leaf(chain, PkiRole.BRIDGE, bridge_uri(chain.fingerprint, "evil"))
    requests: asyncio.Queue[bytes] = asyncio.Queue()

    async def pose(hello: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match(writer)
        _, request = await pose_as_bridge(reader, writer, identity, chain.fingerprint, room)
        requests.put_nowait(request)

    async with evil_beacon(tmp_path, pose) as beacon:
        replica, ports = chain.new_operator(*beacon.arguments)
        replica.start()
        async with asyncio.timeout(30):
            request = await requests.get()
        assert await chain.tunnels(ports) == 0
        await replica.stop()
    assert ReturnRequest.decode(request).token, "the operator trusted the certificate and sent its token"
    before, logged = certified(chain), len(chain.bridge.log.read_text())
    dialogue = NoiseDialogue(Channel.initiator(derive_psk(chain.fingerprint), prologue(room, Mode.RETURN)))
    await visit(chain, Role.BROKER, room, dialogue)
    await dialogue.establish(5)
    await dialogue.receive(5)  # the true bridge's proof
    dialogue.send(request)
    answer = decode_answer(await dialogue.receive(10))
    dialogue.close()
    assert isinstance(answer, Refusal)
    assert answer.error == "denied"
    assert certified(chain) == before
    text = chain.bridge.log.read_text()[logged:]
    assert ReturnRequest.decode(request).token not in text


async def test_to_a_bridge_without_the_pinned_ca_an_operator_says_nothing(
    chain: Chain, tmp_path: Path
) -> None:
    room = rooms(chain)[1]
    foreign = authority("another tunnel CA").issue(uris=[bridge_uri(chain.fingerprint, "b1")])
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def pose(hello: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match(writer)
        _, request = await pose_as_bridge(reader, writer, foreign, chain.fingerprint, room)
        heard.put_nowait(request)

    async with evil_beacon(tmp_path, pose) as beacon:
        replica, ports = chain.new_operator(*beacon.arguments)
        replica.start()
        async with asyncio.timeout(30):
            assert await heard.get() == b""
        assert await chain.tunnels(ports) == 0
        await replica.stop()
    assert "does not chain" in replica.log.read_text() or "signed" in replica.log.read_text()


@pytest.mark.slow
async def test_a_bit_bent_anywhere_in_a_bootstrap_ends_it(chain: Chain, tmp_path: Path) -> None:
    """The beacon passes all on, but for one bit of one message; only the visit that it leaves alone works."""
    room = rooms(chain)[1]
    # from the operator: handshake, request; from the bridge: handshake, proof, answer
    plans = [("operator", 0), ("operator", 1), ("bridge", 0), ("bridge", 1), ("bridge", 2), ("nobody", 0)]
    visits = itertools.count()
    bent: list[str] = []

    async def carry(
        source: asyncio.StreamReader, target: asyncio.StreamWriter, plan: int | None, name: str
    ) -> None:
        try:
            for number in itertools.count():
                message = bytearray(await frame(source))
                if number == plan:
                    message[-1] ^= 1
                    bent.append(name)
                target.write(bytes(message))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            target.close()

    async def between(hello: Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if hello.room != room:
            return  # it got in
        who, number = plans[min(next(visits), len(plans) - 1)]
        context = beacon_client(str(chain.beacon_ca), False)
        host = Address.parse(chain.beacon_address)
        bridge_reader, bridge_writer = await asyncio.open_connection(host.host, host.port, ssl=context)
        bridge_writer.write(hello.encode())
        while (answer := await bridge_reader.readexactly(1)) == b"W":
            pass
        assert answer == b"M"
        match(writer)
        await asyncio.gather(
            carry(reader, bridge_writer, number if who == "operator" else None, f"operator {number}"),
            carry(bridge_reader, writer, number if who == "bridge" else None, f"bridge {number}"),
        )

    async with evil_beacon(tmp_path, between) as beacon:
        replica, _ = chain.new_operator(*beacon.arguments)
        replica.start()

        async def enrolled() -> bool:
            return "enrolled" in replica.log.read_text()

        await eventually(enrolled, "the untouched visit works", timeout=60)
        await replica.stop()
    assert bent == [f"{who} {number}" for who, number in plans[:-1]]
    assert next(visits) == len(plans)
