"""Exchange: what operator and bridge say to each other inside a Noise channel, and what the operator checks.

Used by `enrol` (in the init and return rooms) and `renewal` (in a stream of kind `renew`). Moves no bytes of
its own: it is given a dialogue. Nothing of ours is sent in the return exchange before the bridge has proven
itself under the pinned tunnel CA, and no answer is used before it was checked and stored. (spec/wire.md,
"Bootstrap".)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from cryptography import x509

from cloudtaser.errors import CloudtaserError, ProtocolError, RefusedError
from cloudtaser.net.log import get_logger
from cloudtaser.net.tls import Identity
from cloudtaser.operator.certificates import (
    BrokerKey,
    check_ca,
    check_info_hash,
    check_leaf,
    check_own,
    check_pin,
    check_room,
    check_signature,
    der,
    load_bundle,
    load_ca,
    load_certificate,
    now_utc,
    pem,
)
from cloudtaser.operator.manager import Introduction, ManagerApi
from cloudtaser.operator.succession import LINEAGE_LIMIT, succeed
from cloudtaser.operator.trust import Trust
from cloudtaser.wire.bootstrap import (
    InitAnswer,
    InitRequest,
    Refusal,
    ReturnProof,
    ReturnRequest,
    VersionError,
    decode_answer,
    init_signature_message,
    return_signature_message,
)

HANDSHAKE_SECONDS: Final = 5.0
PROOF_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
"""The bridge reads the cluster's keys, signs, and writes its record before it answers."""
MAX_FORMER_POD_CAS: Final = 8

_log = get_logger("operator.exchange")


class Dialogue(Protocol):
    """An encrypted conversation of whole messages, as `net.frames.NoiseDialogue` offers it."""

    @property
    def handshake_hash(self) -> bytes:
        """h, once established."""

    async def establish(self, timeout: float) -> None:
        """Finish the Noise handshake within `timeout` seconds."""

    async def receive(self, timeout: float) -> bytes:
        """The next message."""

    def send(self, payload: bytes) -> None:
        """Send one message."""


class BridgeRefusedError(RefusedError):
    """The bridge answered with a refusal; `code` is one of spec/wire.md's."""

    def __init__(self, refusal: Refusal) -> None:
        fixes = {
            "unregistered": "register it with `cloudtaser-cli source register --fingerprint …`",
            "already_initialized": "run `cloudtaser-cli source reset` if it never got a certificate",
            "expired": "register the cluster again: an unused registration lapses after 24 h",
            "version": "see docs/compatibility.md",
        }
        super().__init__(
            f"the bridge refused: {refusal.message or refusal.error}",
            on=refusal.error,
            fix=fixes.get(refusal.error, ""),
        )
        self.code = refusal.error
        self.message = refusal.message


@dataclass(frozen=True, slots=True)
class Certified:
    """A checked answer: our certificate, the tunnel CA that it is under, the pod CA."""

    identity: Identity
    trust: Trust
    pod_ca: str
    name: str
    not_before: datetime
    not_after: datetime
    former_pod_cas: str = ""
    """Those that the bridge still serves beside `pod_ca`, PEM."""


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who asks: the cluster, its manager, the key of this attempt, the bridge pin and info hash if any."""

    fingerprint: str
    manager: ManagerApi
    key: BrokerKey
    bridge_pin: str = ""
    info_hash: str = ""


async def introduce(dialogue: Dialogue, applicant: Applicant, introduction: Introduction) -> Certified:
    """The first exchange of a cluster's life. Stores what it learnt before returning it.

    Raises BridgeRefusedError, ProtocolError (an answer that fails a check), TrustDiffersError,
    UnavailableError.
    """
    try:
        await dialogue.establish(HANDSHAKE_SECONDS)
    except CloudtaserError as error:
        error.fix = (
            error.fix
            or "check fingerprint and join code: a code is needed exactly if the registration has one"
        )
        raise
    h, key = dialogue.handshake_hash, applicant.key
    token = await applicant.manager.channel_token(h, key.spki)
    request = InitRequest(
        fingerprint=applicant.fingerprint,
        csr=key.csr_pem,
        sig=key.sign(init_signature_message(h)),
        token=token.reveal_text(),
        issuer=introduction.issuer,
        jwks=introduction.jwks,
        cluster_ca=introduction.cluster_ca,
        subject=introduction.subject,
    )
    dialogue.send(request.encode())
    answer = await _answer(dialogue)
    certified = _check(answer, applicant, None, now_utc())
    await applicant.manager.keep(certified.trust, certified.pod_ca, certified.former_pod_cas)
    return certified


async def come_back(dialogue: Dialogue, applicant: Applicant, trust: Trust) -> Certified:
    """A further certificate for a cluster that knows its tunnel CA. The bridge proves itself first.

    The certificate may be under the CA that takes the place of the pinned one, if that endorsed it. Raises as
    `introduce`.
    """
    await dialogue.establish(HANDSHAKE_SECONDS)
    h, key = dialogue.handshake_hash, applicant.key
    ca = load_ca(trust.tunnel_ca, "the pinned tunnel CA", now_utc())
    check_pin(ca, applicant.bridge_pin, trust.formers)
    check_room(ca, applicant.info_hash, trust.formers)
    proof = _proof(dialogue, await dialogue.receive(PROOF_SECONDS))
    bridge = load_certificate(proof.cert, "the bridge's certificate")
    check_leaf(bridge, ca, fingerprint=applicant.fingerprint, role="bridge", now=now_utc())
    check_signature(bridge, proof.sig, return_signature_message(h))
    token = await applicant.manager.channel_token(h, key.spki)
    dialogue.send(ReturnRequest(applicant.fingerprint, key.csr_pem, token.reveal_text()).encode())
    answer = await _answer(dialogue)
    certified = _check(answer, applicant, trust, now_utc())
    await applicant.manager.keep(certified.trust, certified.pod_ca, certified.former_pod_cas)
    if certified.trust.tunnel_ca_der != trust.tunnel_ca_der:
        _log.warning("the tunnel CA was rotated", former=trust.short, tunnel_ca=certified.trust.short)
    return certified


def _proof(dialogue: Dialogue, payload: bytes) -> ReturnProof:
    """The bridge's proof; one of another version is refused in words that the bridge can log."""
    try:
        return ReturnProof.decode(payload)
    except VersionError as error:
        dialogue.send(Refusal.of_version(error, "operator", "bridge").encode())
        raise


async def _answer(dialogue: Dialogue) -> InitAnswer:
    answer = decode_answer(await dialogue.receive(ANSWER_SECONDS))
    if isinstance(answer, Refusal):
        raise BridgeRefusedError(answer)
    return answer


def _check(answer: InitAnswer, applicant: Applicant, pinned: Trust | None, now: datetime) -> Certified:
    """ProtocolError unless the answer is whole, consistent, ours, under the pinned tunnel CA if there is one
    or under its successor, and under the bridge pin if any."""
    ca = load_ca(answer.tunnel_ca, "the tunnel CA", now)
    trust = _trust(ca, answer.endorsement, pinned, applicant.fingerprint, now)
    check_pin(ca, applicant.bridge_pin, trust.formers)
    check_room(ca, applicant.info_hash, trust.formers)
    check_info_hash(ca, answer.info_hash)
    pod_ca = load_ca(answer.pod_ca, "the pod CA", now)
    former_pod_cas = [one for one in _former_pod_cas(answer.former_pod_cas) if one != pod_ca]
    if {ca, *trust.formers} & {pod_ca, *former_pod_cas}:
        raise ProtocolError("the bridge gave one CA for both tunnel and pods")
    certificate = load_certificate(answer.cert, "our certificate")
    party = check_leaf(certificate, ca, fingerprint=applicant.fingerprint, role="broker", now=now)
    # in the pre-generated form the key comes with the certificate
    key = BrokerKey.from_pem(answer.key) if answer.key else applicant.key
    check_own(certificate, key)
    return Certified(
        identity=Identity(pem(certificate).encode(), key.pem()),
        trust=trust,
        pod_ca=pem(pod_ca),
        name=party.instance,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        former_pod_cas="".join(map(pem, former_pod_cas)),
    )


def _trust(
    ca: x509.Certificate, endorsement: str, pinned: Trust | None, fingerprint: str, now: datetime
) -> Trust:
    if pinned is None:
        return Trust(pem(ca), der(ca))
    if der(ca) == pinned.tunnel_ca_der:
        return pinned
    former = load_ca(pinned.tunnel_ca, "the pinned tunnel CA", now)
    step = succeed(former, ca, endorsement, fingerprint, now)
    return Trust(pem(ca), der(ca), (*pinned.lineage, step)[-LINEAGE_LIMIT:])


def _former_pod_cas(text: str) -> list[x509.Certificate]:
    """CA certificates, a few at most; whether they are in time is for those who still use them."""
    found = load_bundle(text, "a former pod CA") if text else []
    if len(found) > MAX_FORMER_POD_CAS:
        raise ProtocolError(
            f"the bridge names {len(found)} former pod CAs; {MAX_FORMER_POD_CAS} are believed"
        )
    for one in found:
        check_ca(one, "a former pod CA")
    return found
