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
from cloudtaser.net.tls import Identity
from cloudtaser.operator.certificates import (
    BrokerKey,
    check_info_hash,
    check_leaf,
    check_own,
    check_pin,
    check_signature,
    load_ca,
    load_certificate,
    now_utc,
    pem,
)
from cloudtaser.operator.manager import Introduction, ManagerApi
from cloudtaser.operator.trust import Trust
from cloudtaser.wire.bootstrap import (
    InitAnswer,
    InitRequest,
    Refusal,
    ReturnProof,
    ReturnRequest,
    decode_answer,
    init_signature_message,
    return_signature_message,
)

HANDSHAKE_SECONDS: Final = 5.0
PROOF_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
"""The bridge reads the cluster's keys, signs, and writes its record before it answers."""


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
        }
        super().__init__(
            f"the bridge refused: {refusal.message or refusal.error}",
            on=refusal.error,
            fix=fixes.get(refusal.error, ""),
        )
        self.code = refusal.error


@dataclass(frozen=True, slots=True)
class Certified:
    """A checked answer: our certificate, the tunnel CA that it is under, the pod CA."""

    identity: Identity
    trust: Trust
    pod_ca: str
    name: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who asks: the cluster, its manager, the key of this attempt, the bridge pin if any."""

    fingerprint: str
    manager: ManagerApi
    key: BrokerKey
    bridge_pin: str = ""


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
    certified = _check(answer, applicant, now_utc())
    await applicant.manager.keep(certified.trust, certified.pod_ca)
    return certified


async def come_back(dialogue: Dialogue, applicant: Applicant, trust: Trust) -> Certified:
    """A further certificate for a cluster that knows its tunnel CA. The bridge proves itself first.

    Raises as `introduce`.
    """
    await dialogue.establish(HANDSHAKE_SECONDS)
    h, key = dialogue.handshake_hash, applicant.key
    ca = load_ca(trust.tunnel_ca, "the pinned tunnel CA", now_utc())
    check_pin(ca, applicant.bridge_pin)
    proof = ReturnProof.decode(await dialogue.receive(PROOF_SECONDS))
    bridge = load_certificate(proof.cert, "the bridge's certificate")
    check_leaf(bridge, ca, fingerprint=applicant.fingerprint, role="bridge", now=now_utc())
    check_signature(bridge, proof.sig, return_signature_message(h))
    token = await applicant.manager.channel_token(h, key.spki)
    dialogue.send(ReturnRequest(applicant.fingerprint, key.csr_pem, token.reveal_text()).encode())
    answer = await _answer(dialogue)
    certified = _check(answer, applicant, now_utc())
    if certified.trust.tunnel_ca_der != trust.tunnel_ca_der:
        raise ProtocolError("the bridge answered with another tunnel CA than the pinned one")
    await applicant.manager.keep(certified.trust, certified.pod_ca)
    return certified


async def _answer(dialogue: Dialogue) -> InitAnswer:
    answer = decode_answer(await dialogue.receive(ANSWER_SECONDS))
    if isinstance(answer, Refusal):
        raise BridgeRefusedError(answer)
    return answer


def _check(answer: InitAnswer, applicant: Applicant, now: datetime) -> Certified:
    """ProtocolError unless the answer is whole, consistent, ours, and under the bridge pin if any."""
    ca = load_ca(answer.tunnel_ca, "the tunnel CA", now)
    check_pin(ca, applicant.bridge_pin)
    check_info_hash(ca, answer.info_hash)
    pod_ca = load_ca(answer.pod_ca, "the pod CA", now)
    if pod_ca == ca:
        raise ProtocolError("the bridge gave one CA for both tunnel and pods")
    certificate = load_certificate(answer.cert, "our certificate")
    party = check_leaf(certificate, ca, fingerprint=applicant.fingerprint, role="broker", now=now)
    check_own(certificate, applicant.key)
    return _certified(certificate, ca, pod_ca, applicant.key, party.instance)


def _certified(
    certificate: x509.Certificate, ca: x509.Certificate, pod_ca: x509.Certificate, key: BrokerKey, name: str
) -> Certified:
    return Certified(
        identity=Identity(pem(certificate).encode(), key.pem()),
        trust=Trust.from_pem(pem(ca)),
        pod_ca=pem(pod_ca),
        name=name,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )
