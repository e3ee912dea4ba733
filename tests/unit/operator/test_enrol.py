"""Enrolment through a real beacon, by bridges that behave and in spite of those that do not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.frames import NoiseDialogue
from cloudtaser.net.rendezvous import meet
from cloudtaser.operator.beacons import Beacons
from cloudtaser.operator.certificates import der, spki_der
from cloudtaser.operator.config import Config
from cloudtaser.operator.enrol import Enrol
from cloudtaser.operator.exchange import Certified
from cloudtaser.operator.exchanges import local_exchanges
from cloudtaser.operator.succession import Former
from cloudtaser.operator.trust import Trust
from cloudtaser.secret import Secret
from cloudtaser.wire.bootstrap import (
    InitAnswer,
    InitRequest,
    Mode,
    Refusal,
    RefusalCode,
    ReturnProof,
    ReturnRequest,
    derive_psk,
    prologue,
    return_signature_message,
)
from cloudtaser.wire.hashes import init_room
from cloudtaser.wire.noise import Channel
from cloudtaser.wire.rendezvous import Role
from tests.unit.operator.parties import FINGERPRINT, Authority, FakeManager
from tests.unit.operator.rig import Room, eventually, running_beacon

TUNNEL, POD = Authority("tunnel"), Authority("pod")


class Responder:
    """A bridge in one bootstrap room: answers everybody, or refuses with a code."""

    def __init__(
        self, room: Room, mode: Mode, *, ca: Authority = TUNNEL, code: str = "", refuse: str = ""
    ) -> None:
        self.room, self.mode, self.ca, self.refuse = room, mode, ca, refuse
        self.hash = ca.trust.return_room if mode is Mode.RETURN else init_room(FINGERPRINT)
        self.psk = derive_psk(FINGERPRINT, code)
        self.matches = 0
        self.requests: list[InitRequest | ReturnRequest] = []
        self.failures: list[CloudtaserError] = []
        self._task = asyncio.ensure_future(self._serve())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        while True:
            dialogue = NoiseDialogue(Channel.responder(self.psk, prologue(self.hash, self.mode)))
            await meet(self.room.address, Role.BRIDGE, self.hash, self.room.context, dialogue)
            self.matches += 1
            try:
                await self._talk(dialogue)
            except CloudtaserError as error:
                self.failures.append(error)
            finally:
                dialogue.close()

    async def _talk(self, dialogue: NoiseDialogue) -> None:
        await dialogue.establish(5)
        if self.mode is Mode.RETURN:
            bridge = self.ca.bridge()
            signature = bridge.sign(return_signature_message(dialogue.handshake_hash))
            dialogue.send(ReturnProof(bridge.pem, signature).encode())
            request: InitRequest | ReturnRequest = ReturnRequest.decode(await dialogue.receive(5))
        else:
            request = InitRequest.decode(await dialogue.receive(5))
        self.requests.append(request)
        if self.refuse:
            dialogue.send(Refusal(cast("RefusalCode", self.refuse), "no").encode())
        else:
            dialogue.send(self._answer(request.csr).encode())
        with contextlib.suppress(UnavailableError):
            await dialogue.receive(5)  # nothing: the operator leaves

    def _answer(self, csr: str) -> InitAnswer:
        public = cast("ec.EllipticCurvePublicKey", x509.load_pem_x509_csr(csr.encode()).public_key())
        return InitAnswer(
            tunnel_ca=self.ca.pem,
            pod_ca=POD.pem,
            cert=self.ca.broker("k1", public).pem,
            info_hash=hashlib.sha256(der(self.ca.certificate)).hexdigest(),
            space="cloudtaser/0ad50c05",
        )


class Rig:
    def __init__(self, room: Room) -> None:
        self.room = room
        self.manager = FakeManager()
        self.responders: list[Responder] = []
        self.config = Config(
            fingerprint=FINGERPRINT,
            apiserver="https://127.0.0.1:1",
            apiserver_ca="",
            apiserver_token_file="",
            beacons=(room.address,),
        )

    def responder(self, mode: Mode, ca: Authority = TUNNEL, code: str = "", refuse: str = "") -> Responder:
        self.responders.append(Responder(self.room, mode, ca=ca, code=code, refuse=refuse))
        return self.responders[-1]

    def enrol(self, patience: float = 5.0) -> Enrol:
        async def brief(delay: float) -> None:
            await asyncio.sleep(min(delay, 0.01))

        beacons = Beacons(self.config.beacons, self.room.context)
        exchanges = local_exchanges(self.config, self.manager)
        return Enrol(self.config, self.manager, beacons, exchanges, sleep=brief, patience=patience)

    async def run(self, patience: float = 5.0) -> Certified:
        return await asyncio.wait_for(self.enrol(patience).run(), 20)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running_beacon(tmp_path) as room:
        rig = Rig(room)
        yield rig
        for responder in rig.responders:
            await responder.stop()


async def test_the_first_time_through_the_init_room(rig: Rig) -> None:
    bridge = rig.responder(Mode.INIT)
    certified = await rig.run()
    assert certified.name == "k1"
    assert rig.manager.trust == TUNNEL.trust
    assert rig.manager.pod_ca == POD.pem
    assert len(bridge.requests) == 1


async def test_afterwards_through_the_return_room_and_never_the_init_room(rig: Rig) -> None:
    rig.manager.trust = TUNNEL.trust
    init, back = rig.responder(Mode.INIT), rig.responder(Mode.RETURN)
    await rig.run()
    await rig.run()
    assert init.matches == 0
    assert len(back.requests) == 2


async def test_a_return_that_keeps_failing_does_not_lead_back_to_the_fingerprint(rig: Rig) -> None:
    rig.manager.trust = TUNNEL.trust
    init, denied = rig.responder(Mode.INIT), rig.responder(Mode.RETURN, refuse="denied")
    enrol = asyncio.ensure_future(rig.enrol().run())
    await eventually(lambda: len(denied.requests) >= 4, "asked again and again")
    assert not enrol.done()
    rig.manager.trust = None  # even when the ConfigMap is deleted under a running operator
    denied.refuse = ""
    assert (await asyncio.wait_for(enrol, 10)).trust == TUNNEL.trust
    assert init.matches == 0


async def test_a_join_code_is_used_or_nothing(rig: Rig) -> None:
    rig.config = replace(rig.config, join_code=Secret(b"JOIN"))
    plain = rig.responder(Mode.INIT)
    enrol = asyncio.ensure_future(rig.enrol().run())
    await eventually(lambda: bool(plain.failures), "plain was asked")
    assert plain.requests == []
    await plain.stop()
    strict = rig.responder(Mode.INIT_WITH_CODE, code="JOIN")
    await asyncio.wait_for(enrol, 20)
    assert len(strict.requests) == 1


async def test_who_does_not_know_the_join_code_gets_nothing(rig: Rig) -> None:
    strict = rig.responder(Mode.INIT_WITH_CODE, code="JOIN")
    rig.config = replace(rig.config, join_code=Secret(b"GUESS"))
    enrol = asyncio.ensure_future(rig.enrol().run())
    await eventually(lambda: bool(strict.failures), "strict was asked")
    enrol.cancel()
    await asyncio.gather(enrol, return_exceptions=True)
    assert strict.requests == []
    assert rig.manager.trust is None


async def test_a_second_replica_waits_for_the_first_ones_trust(rig: Rig) -> None:
    init = rig.responder(Mode.INIT, refuse="already_initialized")
    back = rig.responder(Mode.RETURN)
    enrol = asyncio.ensure_future(rig.enrol().run())
    await eventually(lambda: bool(init.requests), "init was asked")
    assert not enrol.done()
    rig.manager.trust = TUNNEL.trust
    await asyncio.wait_for(enrol, 10)
    assert len(back.requests) == 1


async def test_parked_where_nobody_comes_it_still_notices_another_replicas_trust(rig: Rig) -> None:
    back = rig.responder(Mode.RETURN)
    enrol = asyncio.ensure_future(rig.enrol(patience=0.2).run())
    await eventually(lambda: rig.room.beacon.rooms.parked == 2, "parked")
    rig.manager.trust = TUNNEL.trust
    await asyncio.wait_for(enrol, 10)
    assert len(back.requests) == 1


async def test_what_could_not_be_stored_is_asked_for_again_with_the_same_key(rig: Rig) -> None:
    bridge = rig.responder(Mode.INIT)
    failures = iter([UnavailableError("the API server is away"), None])
    keep = rig.manager.keep

    async def flaky(trust: Trust, pod_ca: str, former_pod_cas: str = "") -> None:
        failure = next(failures)
        if failure is not None:
            raise failure
        await keep(trust, pod_ca, former_pod_cas)

    rig.manager.keep = flaky  # type: ignore[method-assign]  # a failure that passes
    await rig.run()
    first, second = bridge.requests
    assert first.csr == second.csr
    assert rig.manager.trust == TUNNEL.trust


async def test_an_evil_bridge_with_the_fingerprint_is_refused_by_the_pin_and_does_not_stop_the_true_one(
    rig: Rig,
) -> None:
    evil = Authority("evil")
    pin = "spki-sha256:" + hashlib.sha256(spki_der(TUNNEL.certificate)).hexdigest()
    rig.config = replace(rig.config, bridge_pin=pin)
    bad = rig.responder(Mode.INIT, ca=evil)
    enrol = asyncio.ensure_future(rig.enrol().run())
    await eventually(lambda: bool(bad.requests), "bad was asked")
    assert rig.manager.trust is None
    await bad.stop()
    rig.responder(Mode.INIT)
    certified = await asyncio.wait_for(enrol, 20)
    assert certified.trust == rig.manager.trust == TUNNEL.trust


async def test_an_unreadable_cluster_is_waited_for(rig: Rig) -> None:
    rig.manager.broken = UnavailableError("the API server is away")
    rig.responder(Mode.INIT)
    enrol = asyncio.ensure_future(rig.enrol().run())
    await asyncio.sleep(0.05)
    assert not enrol.done()
    rig.manager.broken = None
    await asyncio.wait_for(enrol, 10)


async def test_20_replicas_at_once_all_get_in_and_agree(rig: Rig) -> None:
    for _ in range(3):
        rig.responder(Mode.INIT)
    rig.responder(Mode.RETURN)
    results = await asyncio.gather(*(rig.run() for _ in range(20)))
    assert {certified.trust.short for certified in results} == {TUNNEL.trust.short}
    assert len({certified.identity.certificate_pem for certified in results}) == 20


async def test_a_replica_that_slept_through_a_rotation_follows_what_another_stored(rig: Rig) -> None:
    after = Authority("next")
    rig.manager.trust = TUNNEL.trust
    enrol = rig.enrol(patience=0.2)
    waiting = asyncio.ensure_future(enrol.run())
    await eventually(lambda: rig.room.beacon.rooms.parked == 1, "parked where nobody comes any more")
    back = rig.responder(Mode.RETURN, ca=after)
    rig.manager.trust = Trust(
        after.pem, der(after.certificate), (Former(TUNNEL.pem, TUNNEL.endorse(after).pem),)
    )
    certified = await asyncio.wait_for(waiting, 10)
    assert certified.trust.tunnel_ca == after.pem
    assert len(back.requests) == 1


async def test_a_running_replica_is_moved_by_no_config_map_that_its_ca_did_not_endorse(rig: Rig) -> None:
    evil = Authority("evil")
    rig.manager.trust = TUNNEL.trust
    enrol = rig.enrol(patience=0.2)
    waiting = asyncio.ensure_future(enrol.run())
    await eventually(lambda: rig.room.beacon.rooms.parked == 1, "parked")
    squatter = rig.responder(Mode.RETURN, ca=evil)
    rig.manager.trust = evil.trust
    await asyncio.sleep(1.0)
    assert not waiting.done()
    assert squatter.matches == 0
    assert enrol.trust == TUNNEL.trust
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
