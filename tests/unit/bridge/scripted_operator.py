"""A cluster with its signing key, and an operator that says whatever a test wants it to say."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from cloudtaser.demo.tokens import SigningKey, service_account_claims
from cloudtaser.net.frames import NoiseDialogue
from cloudtaser.wire.bootstrap import (
    InitRequest,
    Mode,
    ReturnRequest,
    derive_psk,
    init_signature_message,
    prologue,
)
from cloudtaser.wire.names import (
    OPERATOR_SERVICE_ACCOUNT,
    OPERATOR_SUBJECT,
    SYSTEM_NAMESPACE,
    return_audience,
)
from cloudtaser.wire.noise import Channel

_open: list[asyncio.Transport] = []

ISSUER = "https://kubernetes.default.svc.cluster.local"
_SIGNING_KEYS = [SigningKey(), SigningKey()]  # RSA keys take their time; one cluster's and a stranger's


@dataclass
class FakeCluster:
    """What a cluster shows of itself."""

    fingerprint: str = field(default_factory=lambda: str(uuid.uuid4()))
    issuer: str = ISSUER
    key: SigningKey = field(default_factory=lambda: _SIGNING_KEYS[0])
    ca: str = ""

    def __post_init__(self) -> None:
        self.ca = self.ca or self_signed("kubernetes")

    @property
    def fp8(self) -> str:
        return self.fingerprint[:8]

    @property
    def jwks(self) -> dict[str, Any]:
        return {"keys": [self.key.public_jwk()]}

    def token(
        self,
        audience: str,
        *,
        account: str = OPERATOR_SERVICE_ACCOUNT,
        issuer: str = "",
        key: SigningKey | None = None,
        age: int = 0,
        seconds: int = 600,
    ) -> str:
        claims = service_account_claims(
            issuer=issuer or self.issuer,
            namespace=SYSTEM_NAMESPACE,
            service_account=account,
            service_account_uid=str(uuid.uuid4()),
            audiences=[audience],
            issued_at=int(time.time()) - age,
            seconds=seconds,
        )
        return (key or self.key).sign(claims)


def stranger() -> SigningKey:
    """Another cluster's signing key."""
    return _SIGNING_KEYS[1]


def self_signed(name: str) -> str:
    """PEM of a CA whose key is forgotten."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


@dataclass
class ScriptedOperator:
    """One operator process with the key of its CSR."""

    cluster: FakeCluster
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def csr(self) -> str:
        return csr_of(self.key)

    def token(self, handshake_hash: bytes, **changes: Any) -> str:
        audience = return_audience(self.cluster.fp8, handshake_hash, self.spki)
        return self.cluster.token(audience, **changes)

    def init_request(self, handshake_hash: bytes, **changes: Any) -> bytes:
        fields: dict[str, Any] = {
            "fingerprint": self.cluster.fingerprint,
            "csr": self.csr,
            "sig": self.key.sign(init_signature_message(handshake_hash), ec.ECDSA(hashes.SHA256())),
            "issuer": self.cluster.issuer,
            "jwks": self.cluster.jwks,
            "cluster_ca": self.cluster.ca,
            "subject": OPERATOR_SUBJECT,
        }
        fields |= changes
        if "token" not in fields:
            fields["token"] = self.token(handshake_hash)
        return InitRequest(**fields).encode()

    def return_request(self, handshake_hash: bytes, **changes: Any) -> bytes:
        fields = {"fingerprint": self.cluster.fingerprint, "csr": self.csr} | changes
        if "token" not in fields:
            fields["token"] = self.token(handshake_hash)
        return ReturnRequest(**fields).encode()


def csr_of(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *names: x509.GeneralName, common_name: str = ""
) -> str:
    """A CSR (PEM) that asks for whatever it is told to ask for."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


async def dial(responder: asyncio.Protocol, initiator: asyncio.Protocol) -> None:
    """Connect two protocols by a socket pair."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    for protocol, end in ((responder, ours), (initiator, theirs)):
        transport, _ = await loop.create_connection(functools.partial(_itself, protocol), sock=end)
        _open.append(transport)


def _itself(protocol: asyncio.Protocol) -> asyncio.Protocol:
    return protocol


async def hang_up() -> None:
    """Cut every connection that `dial` made."""
    while _open:
        _open.pop().abort()
    for _ in range(3):  # the loop closes an aborted socket a turn later
        await asyncio.sleep(0)


def initiator(room: bytes, mode: Mode, fingerprint: str, join_code: str = "") -> NoiseDialogue:
    """The operator's end of a dialogue."""
    return NoiseDialogue(Channel.initiator(derive_psk(fingerprint, join_code), prologue(room, mode)))


class Recorder(asyncio.Protocol):
    """Stands before a dialogue and keeps every byte that it sends, as a beacon could."""

    def __init__(self, inner: NoiseDialogue) -> None:
        self.inner = inner
        self.sent: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.inner.connection_made(_Tap(cast("asyncio.Transport", transport), self.sent.append))

    def data_received(self, data: bytes) -> None:
        self.inner.data_received(data)

    def eof_received(self) -> bool:
        return bool(self.inner.eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        self.inner.connection_lost(exc)


class _Tap(asyncio.Transport):
    def __init__(self, transport: asyncio.Transport, keep: Callable[[bytes], None]) -> None:
        self._transport = transport
        self._keep = keep

    def write(self, data: Any) -> None:
        self._keep(bytes(data))
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()
