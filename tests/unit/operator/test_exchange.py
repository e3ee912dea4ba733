"""Nothing of ours goes to a bridge that did not prove itself, and no answer is used unchecked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloudtaser.errors import CloudtaserError, ProtocolError
from cloudtaser.operator.certificates import BrokerKey, check_signature, der, spki_der
from cloudtaser.operator.exchange import Applicant, BridgeRefusedError, Certified, come_back, introduce
from cloudtaser.operator.trust import TrustDiffersError
from cloudtaser.wire.bootstrap import (
    InitAnswer,
    InitRequest,
    Refusal,
    ReturnProof,
    ReturnRequest,
    init_signature_message,
    return_signature_message,
)
from cloudtaser.wire.names import broker_uri
from tests.unit.operator.parties import (
    CLIENT,
    FINGERPRINT,
    OTHER_FINGERPRINT,
    SERVER,
    TOKEN,
    Authority,
    FakeManager,
    Leaf,
    ScriptedDialogue,
)

TUNNEL, POD = Authority("tunnel"), Authority("pod")


def csr_key(request: bytes) -> ec.EllipticCurvePublicKey:
    try:
        csr = InitRequest.decode(request).csr
    except CloudtaserError:
        csr = ReturnRequest.decode(request).csr
    return cast("ec.EllipticCurvePublicKey", x509.load_pem_x509_csr(csr.encode()).public_key())


def good_answer(request: bytes, ca: Authority = TUNNEL) -> InitAnswer:
    return InitAnswer(
        tunnel_ca=ca.pem,
        pod_ca=POD.pem,
        cert=ca.broker("k1", csr_key(request)).pem,
        info_hash=hashlib.sha256(der(ca.certificate)).hexdigest(),
        space="cloudtaser/0ad50c05",
    )


def answer(make: Callable[[bytes], InitAnswer] = good_answer) -> Callable[[ScriptedDialogue], bytes]:
    return lambda dialogue: make(dialogue.sent[-1]).encode()


def proof(ca: Authority = TUNNEL, h: bytes = b"h" * 32) -> bytes:
    bridge = ca.bridge()
    return ReturnProof(bridge.pem, bridge.sign(return_signature_message(h))).encode()


async def first(dialogue: ScriptedDialogue, manager: FakeManager, pin: str = "") -> Certified:
    applicant = Applicant(FINGERPRINT, manager, BrokerKey.generate(), pin)
    return await introduce(dialogue, applicant, await manager.introduction())


async def again(
    dialogue: ScriptedDialogue, manager: FakeManager, trusted: Authority = TUNNEL, pin: str = ""
) -> Certified:
    return await come_back(
        dialogue, Applicant(FINGERPRINT, manager, BrokerKey.generate(), pin), trusted.trust
    )


async def test_the_first_request_is_signed_and_bound_to_this_channel() -> None:
    dialogue, manager = ScriptedDialogue(answer()), FakeManager()
    certified = await first(dialogue, manager)
    request = InitRequest.decode(dialogue.sent[0])
    csr = x509.load_pem_x509_csr(request.csr.encode())
    own = TUNNEL.broker(public=csr_key(dialogue.sent[0])).certificate
    check_signature(own, request.sig, init_signature_message(b"h" * 32))
    assert manager.asked == [(b"h" * 32, spki_der(csr))]
    assert request.token == TOKEN
    assert request.fingerprint == FINGERPRINT
    assert certified.name == "k1"


async def test_what_was_learnt_is_stored_before_it_is_used() -> None:
    manager = FakeManager()
    certified = await first(ScriptedDialogue(answer()), manager)
    assert manager.trust == certified.trust == TUNNEL.trust
    assert manager.pod_ca == certified.pod_ca == POD.pem


async def test_a_pin_refuses_every_other_bridge() -> None:
    pin = "spki-sha256:" + hashlib.sha256(spki_der(TUNNEL.certificate)).hexdigest()
    await first(ScriptedDialogue(answer()), FakeManager(), pin)
    manager = FakeManager()
    evil = Authority("evil")
    with pytest.raises(ProtocolError, match="not the pinned one"):
        await first(ScriptedDialogue(answer(lambda request: good_answer(request, evil))), manager, pin)
    assert manager.trust is None
    dialogue = ScriptedDialogue(proof(evil), answer())
    with pytest.raises(ProtocolError, match="not the pinned one"):
        await again(dialogue, manager, evil, pin)
    assert dialogue.sent == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda good, request: replace(good, info_hash="0" * 64), "info hash"),
        (lambda good, request: replace(good, pod_ca=TUNNEL.pem), "one CA for both"),
        (lambda good, request: replace(good, pod_ca=TUNNEL.bridge().pem), "pod CA is not a CA"),
        (lambda good, request: replace(good, cert=TUNNEL.broker().pem), "not for our key"),
        (lambda good, request: replace(good, cert=POD.broker(public=csr_key(request)).pem), "not signed by"),
        (lambda good, request: replace(good, cert=good.cert + good.cert), "2 certificates"),
        (lambda good, request: replace(good, tunnel_ca=good.tunnel_ca * 2), "2 certificates"),
        (
            lambda good, request: replace(
                good, cert=TUNNEL.issue([broker_uri(FINGERPRINT, "x")], CLIENT, public=csr_key(request)).pem
            ),
            "not made for that role",
        ),
        (
            lambda good, request: replace(
                good,
                cert=TUNNEL.issue([broker_uri(OTHER_FINGERPRINT, "x")], SERVER, public=csr_key(request)).pem,
            ),
            "names another party",
        ),
    ],
)
async def test_an_answer_that_fails_a_check_is_neither_stored_nor_used(
    change: Callable[[InitAnswer, bytes], InitAnswer], why: str
) -> None:
    manager = FakeManager()
    dialogue = ScriptedDialogue(answer(lambda request: change(good_answer(request), request)))
    with pytest.raises(ProtocolError, match=why):
        await first(dialogue, manager)
    assert manager.trust is None
    manager.trust = TUNNEL.trust
    dialogue = ScriptedDialogue(proof(), answer(lambda request: change(good_answer(request), request)))
    with pytest.raises(ProtocolError, match=why):
        await again(dialogue, manager)
    assert manager.pod_ca is None


async def test_a_refusal_names_its_code_and_a_fix() -> None:
    refusal = Refusal("unregistered", "this cluster is not registered").encode()
    with pytest.raises(BridgeRefusedError, match="source register") as caught:
        await first(ScriptedDialogue(refusal), FakeManager())
    assert caught.value.code == "unregistered"


async def test_another_ca_than_the_one_a_faster_replica_stored_is_refused() -> None:
    manager = FakeManager(trust=Authority("other").trust)
    with pytest.raises(TrustDiffersError):
        await first(ScriptedDialogue(answer()), manager)


async def test_coming_back_works_with_a_bridge_under_the_pinned_ca() -> None:
    dialogue, manager = ScriptedDialogue(proof(), answer()), FakeManager(trust=TUNNEL.trust)
    certified = await again(dialogue, manager)
    request = ReturnRequest.decode(dialogue.sent[0])
    assert request.token == TOKEN
    assert certified.trust == TUNNEL.trust
    assert manager.pod_ca == POD.pem


def stranger() -> bytes:
    bridge = TUNNEL.bridge(fingerprint=OTHER_FINGERPRINT)
    return ReturnProof(bridge.pem, bridge.sign(return_signature_message(b"h" * 32))).encode()


def broker_as_bridge() -> bytes:
    broker = TUNNEL.broker()
    return ReturnProof(broker.pem, broker.sign(return_signature_message(b"h" * 32))).encode()


def init_signature() -> bytes:
    bridge = TUNNEL.bridge()
    return ReturnProof(bridge.pem, bridge.sign(init_signature_message(b"h" * 32))).encode()


@pytest.mark.parametrize(
    ("evil", "why"),
    [
        (lambda: proof(Authority("tunnel")), "not signed by the pinned tunnel CA"),
        (lambda: proof(h=b"g" * 32), "signature over this handshake"),
        (stranger, "names another party"),
        (broker_as_bridge, "not made for that role"),
        (init_signature, "signature over this handshake"),
        (lambda: b"{}", "version"),
        (lambda: good_answer(some_request()).encode(), "bad"),
    ],
)
async def test_nothing_of_ours_is_sent_to_a_bridge_that_proves_nothing(
    evil: Callable[[], bytes], why: str
) -> None:
    dialogue, manager = ScriptedDialogue(evil()), FakeManager(trust=TUNNEL.trust)
    with pytest.raises(ProtocolError, match=why):
        await again(dialogue, manager)
    assert dialogue.sent == []
    assert manager.asked == []


async def test_a_proof_recorded_from_another_handshake_is_a_replay_and_refused() -> None:
    recorded = proof(h=b"a" * 32)
    await again(
        ScriptedDialogue(recorded, answer(), handshake_hash=b"a" * 32), FakeManager(trust=TUNNEL.trust)
    )
    with pytest.raises(ProtocolError, match="signature over this handshake"):
        await again(
            ScriptedDialogue(recorded, answer(), handshake_hash=b"b" * 32), FakeManager(trust=TUNNEL.trust)
        )


async def test_a_proven_bridge_cannot_move_us_to_another_tunnel_ca() -> None:
    manager = FakeManager(trust=TUNNEL.trust)
    evil = Authority("evil")
    dialogue = ScriptedDialogue(proof(), answer(lambda request: good_answer(request, evil)))
    with pytest.raises(ProtocolError, match="another tunnel CA"):
        await again(dialogue, manager)
    assert manager.trust == TUNNEL.trust


NEXT, NEXT_POD = Authority("next"), Authority("next pod")


def rotated(endorsement: str, former_pod_cas: str = POD.pem) -> Callable[[ScriptedDialogue], bytes]:
    """The answer of a bridge during a rotation."""
    return answer(
        lambda request: replace(
            good_answer(request, NEXT),
            pod_ca=NEXT_POD.pem,
            endorsement=endorsement,
            former_pod_cas=former_pod_cas,
        )
    )


async def test_an_endorsed_tunnel_ca_is_followed_with_the_pod_cas_of_both_sides_of_the_rotation() -> None:
    manager = FakeManager(trust=TUNNEL.trust)
    certified = await again(ScriptedDialogue(proof(), rotated(TUNNEL.endorse(NEXT).pem)), manager)
    assert certified.trust.tunnel_ca == NEXT.pem
    assert certified.trust.succeeds(TUNNEL.trust)
    assert manager.trust == certified.trust
    assert (manager.pod_ca, manager.former_pod_cas) == (NEXT_POD.pem, POD.pem)


@pytest.mark.parametrize(
    ("endorsement", "why"),
    [
        (NEXT.endorse(NEXT), "not signed by the pinned one"),
        (Authority("tunnel").endorse(NEXT), "not signed by the pinned one"),
        (TUNNEL.endorse(Authority("x")), "names another one"),
        (TUNNEL.endorse(NEXT, OTHER_FINGERPRINT), "no successor of this cluster"),
        (TUNNEL.bridge(), "no successor of this cluster"),
    ],
)
async def test_without_the_pinned_cas_endorsement_nothing_is_followed_or_stored(
    endorsement: Leaf, why: str
) -> None:
    manager = FakeManager(trust=TUNNEL.trust)
    with pytest.raises(ProtocolError, match=why):
        await again(ScriptedDialogue(proof(), rotated(endorsement.pem)), manager)
    assert manager.trust == TUNNEL.trust
    assert manager.pod_ca is None


async def test_a_pin_of_the_first_ca_fits_after_every_rotation_that_was_followed() -> None:
    pin = "spki-sha256:" + hashlib.sha256(spki_der(TUNNEL.certificate)).hexdigest()
    manager = FakeManager(trust=TUNNEL.trust)
    dialogue = ScriptedDialogue(proof(), rotated(TUNNEL.endorse(NEXT).pem))
    followed = (await again(dialogue, manager, pin=pin)).trust
    applicant = Applicant(FINGERPRINT, manager, BrokerKey.generate(), pin)
    later = ScriptedDialogue(proof(NEXT), rotated(""))
    assert (await come_back(later, applicant, followed)).trust == followed
    with pytest.raises(ProtocolError, match="not the pinned one"):
        await come_back(ScriptedDialogue(proof(NEXT), rotated("")), applicant, NEXT.trust)


async def test_a_first_initialisation_follows_no_endorsement_away_from_the_pin() -> None:
    pin = "spki-sha256:" + hashlib.sha256(spki_der(TUNNEL.certificate)).hexdigest()
    with pytest.raises(ProtocolError, match="not the pinned one"):
        await first(ScriptedDialogue(rotated(TUNNEL.endorse(NEXT).pem)), FakeManager(), pin)


@pytest.mark.parametrize(
    ("formers", "why"),
    [
        (POD.bridge().pem, "not a CA"),
        (NEXT.pem, "one CA for both"),
        (TUNNEL.pem, "one CA for both"),
        (POD.pem * 9, "9 former pod CAs"),
    ],
)
async def test_former_pod_cas_are_cas_for_pods_and_few(formers: str, why: str) -> None:
    manager = FakeManager(trust=TUNNEL.trust)
    with pytest.raises(ProtocolError, match=why):
        await again(ScriptedDialogue(proof(), rotated(TUNNEL.endorse(NEXT).pem, formers)), manager)
    assert manager.trust == TUNNEL.trust


def some_request() -> bytes:
    key = BrokerKey.generate()
    return ReturnRequest(FINGERPRINT, key.csr_pem, TOKEN).encode()
