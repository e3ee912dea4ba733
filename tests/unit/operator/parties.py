"""Parties for the operator's tests: CAs, leaves, a manager in memory, a scripted dialogue."""

from __future__ import annotations

import datetime as dt
from collections import deque
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from cloudtaser.net.tls import Identity
from cloudtaser.operator.certificates import der
from cloudtaser.operator.manager import Introduction
from cloudtaser.operator.trust import Trust, TrustDiffersError
from cloudtaser.secret import Secret
from cloudtaser.wire.names import BRIDGE_NAME, bridge_uri, broker_uri, successor_uri

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"
OTHER_FINGERPRINT = "1bd50c05-1153-4508-9237-4cb2912e2c23"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")
TOKEN = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln"


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass
class Leaf:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def identity(self) -> Identity:
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Identity(self.pem.encode(), Secret(key))

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message, ec.ECDSA(hashes.SHA256()))


@dataclass
class Authority:
    """A CA like those that registration makes: P-256, path length 0."""

    name: str = "tunnel"
    is_ca: bool = True
    lifetime: dt.timedelta = dt.timedelta(days=3650)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        self.subject = name
        self.certificate = (
            _builder(name, name, self.key.public_key(), min(now(), now() + self.lifetime), self.lifetime)
            .add_extension(x509.BasicConstraints(self.is_ca, 0 if self.is_ca else None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def trust(self) -> Trust:
        return Trust.from_pem(self.pem)

    def issue(
        self,
        uris: list[str],
        usage: ObjectIdentifier,
        *,
        public: ec.EllipticCurvePublicKey | None = None,
        dns: tuple[str, ...] = (),
        start: dt.timedelta = dt.timedelta(),
        lifetime: dt.timedelta = dt.timedelta(hours=24),
        is_ca: bool = False,
    ) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(name) for name in dns]
        builder = _builder(x509.Name([]), self.subject, public or key.public_key(), now() + start, lifetime)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        return Leaf(builder.sign(self.key, hashes.SHA256()), key)

    def bridge(self, instance: str = "b1", fingerprint: str = FINGERPRINT) -> Leaf:
        return self.issue([bridge_uri(fingerprint, instance)], CLIENT)

    def broker(
        self, instance: str = "k1", public: ec.EllipticCurvePublicKey | None = None, **more: object
    ) -> Leaf:
        return self.issue([broker_uri(FINGERPRINT, instance)], SERVER, public=public, **more)  # type: ignore[arg-type]

    def endorse(self, successor: Authority, fingerprint: str = FINGERPRINT) -> Leaf:
        """What a rotation from this CA to the next leaves."""
        return self.issue([successor_uri(fingerprint, der(successor.certificate))], DOCUMENT_SIGNING)

    def pod_server(self) -> Leaf:
        return self.issue([], SERVER, dns=(BRIDGE_NAME, f"*.{BRIDGE_NAME}"))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    start: dt.datetime,
    lifetime: dt.timedelta,
) -> x509.CertificateBuilder:
    start -= dt.timedelta(seconds=30)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(start, start + lifetime))
        .not_valid_after(start + abs(lifetime) if lifetime > dt.timedelta() else start)
    )


@dataclass
class FakeManager:
    """ManagerApi in memory; replicas of one cluster share a `FakeManager`."""

    trust: Trust | None = None
    pod_ca: str | None = None
    former_pod_cas: str = ""
    asked: list[tuple[bytes, bytes]] = field(default_factory=list)
    broken: Exception | None = None

    async def introduction(self) -> Introduction:
        return Introduction(
            "https://kubernetes.default.svc", {"keys": [{"kty": "EC"}]}, Authority("cluster").pem, "sub"
        )

    async def channel_token(self, handshake_hash: bytes, spki: bytes) -> Secret:
        self.asked.append((handshake_hash, spki))
        return Secret(TOKEN)

    async def read_trust(self) -> Trust | None:
        if self.broken:
            raise self.broken
        return self.trust

    async def keep(self, trust: Trust, pod_ca: str, former_pod_cas: str = "") -> None:
        pinned = self.trust
        if pinned is not None and pinned.tunnel_ca_der != trust.tunnel_ca_der and not trust.succeeds(pinned):
            raise TrustDiffersError("another tunnel CA is pinned")
        self.trust, self.pod_ca, self.former_pod_cas = trust, pod_ca, former_pod_cas


class ScriptedDialogue:
    """A dialogue whose other side is a list of answers; each may be made from what was sent so far."""

    def __init__(self, *answers: object, handshake_hash: bytes = b"h" * 32) -> None:
        self._answers = deque(answers)
        self.handshake_hash = handshake_hash
        self.sent: list[bytes] = []

    async def establish(self, timeout: float) -> None:
        assert timeout > 0

    async def receive(self, timeout: float) -> bytes:
        assert timeout > 0
        answer = self._answers.popleft()
        if callable(answer):
            answer = answer(self)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, bytes)
        return answer

    def send(self, payload: bytes) -> None:
        self.sent.append(payload)
