"""The responder of bootstrap: who gets a broker certificate, the first time and when coming back.

Used by `reception`, which moves the messages of one Noise dialogue; here they are judged. A refusal is typed
for the operator and logged without the token. The order of steps is that of spec/wire.md, "Bootstrap":
`initialized` is created before any answer leaves, so of any number of racing bridges and brokers one wins.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509

from cloudtaser.bridge import keyset, tokens
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.csr import CertificateRequest, read_csr
from cloudtaser.bridge.tokens import KeySet, TokenRefused
from cloudtaser.errors import CloudtaserError, ProtocolError, RefusedError
from cloudtaser.net.log import get_logger
from cloudtaser.openbao.records import Initialized, Records, Registered, instant, seconds
from cloudtaser.wire import bootstrap as wire
from cloudtaser.wire.bootstrap import (
    InitAnswer,
    InitRequest,
    Refusal,
    RefusalCode,
    ReturnRequest,
    VersionError,
    refusal_in,
)
from cloudtaser.wire.names import return_audience

AGAIN_WITHIN: Final = 600.0
"""Seconds after first initialisation in which the same operator is served again."""
EXCHANGES_LIMIT: Final = 32
"""Requests of one cluster judged at a time."""

_log = get_logger("bridge.bootstrap")


@dataclass(frozen=True, slots=True)
class Signed:
    """A broker certificate: PEM and serial number; in the pre-generated form with its key, PEM."""

    certificate_pem: str
    serial: int
    key: str = field(default="", repr=False)


Certify = Callable[[CertificateRequest, str], Awaitable[Signed]]
"""Signs a broker certificate for the request's key and that broker id."""


class Denied(Exception):
    """The operator asked for what it may not have. It hears `message`; `reason` is for the log."""

    def __init__(
        self, error: RefusalCode, message: str, reason: str = "", speaks: tuple[int, ...] = ()
    ) -> None:
        super().__init__(message)
        self.speaks = speaks
        self.error: RefusalCode = error
        self.message = message
        self.reason = reason or message

    @property
    def answer(self) -> Refusal:
        """What is sent."""
        return Refusal(self.error, self.message, self.speaks)


@dataclass(frozen=True, slots=True)
class Granted:
    """What is sent, for which broker, and whether this was the first initialisation."""

    answer: InitAnswer
    broker: str
    serial: int
    first: bool = False


class Responder:
    """Judges the requests of one cluster."""

    def __init__(
        self,
        cluster: Cluster,
        records: Records,
        certify: Certify,
        *,
        bridge_id: str,
        now: Callable[[], float],
        adopt: Callable[[Initialized], None],
        refetch_keys: Callable[[Cluster], Awaitable[None]],
    ) -> None:
        """`now` is the wall clock, in seconds; `adopt` is told of an initialisation as soon as it is seen."""
        self._cluster = cluster
        self._records = records
        self._certify = certify
        self._bridge_id = bridge_id
        self._now = now
        self._adopt = adopt
        self._refetch_keys = refetch_keys
        self._exchanges = 0

    async def first_time(self, payload: bytes, handshake_hash: bytes) -> Granted | Denied:
        """Judge an InitRequest. ProtocolError when it is none; everything else is an answer."""
        try:
            request = InitRequest.decode(payload)
        except VersionError as error:
            return _of_version(error)
        return await self._judge(self._first_time(request, handshake_hash))

    async def coming_back(
        self, payload: bytes, handshake_hash: bytes, broker: str | None = None
    ) -> Granted | Denied:
        """Judge a ReturnRequest; `broker` is the id that a renewal inside its own tunnel keeps."""
        refusal = refusal_in(payload)
        if refusal is not None:  # of our proof
            raise RefusedError(f"the operator refused, {refusal.error}: {refusal.message}")
        try:
            request = ReturnRequest.decode(payload)
        except VersionError as error:
            return _of_version(error)
        return await self._judge(self._coming_back(request, handshake_hash, broker or new_broker_id()))

    async def _judge(self, exchange: Awaitable[Granted]) -> Granted | Denied:
        self._exchanges += 1
        try:
            granted = await exchange
        except Denied as denied:
            return denied
        except CloudtaserError as error:
            return Denied("busy", "the bridge cannot answer now; try again", error.diagnostic())
        finally:
            self._exchanges -= 1
        _log.info(
            "broker certified",
            cluster=self._cluster.fp8,
            broker=granted.broker,
            serial=f"{granted.serial:x}",
            first=granted.first,
        )
        return granted

    # The first time

    async def _first_time(self, request: InitRequest, handshake_hash: bytes) -> Granted:
        registered = await self._registration(request.fingerprint)
        csr = _checked_csr(request.csr)
        if not csr.proves(request.sig, wire.init_signature_message(handshake_hash)):
            raise Denied("denied", "the signature does not fit the request's key and this channel")
        initialized = await self._records.initialized(self._cluster.fingerprint)
        first = False
        if initialized is None:
            initialized, first = await self._initialize(request, registered, csr, handshake_hash)
        if not first:
            self._check_again(initialized, request, csr, handshake_hash)
        self._adopt(initialized)
        return await self._grant(csr, registered, new_broker_id(), first=first)

    async def _initialize(
        self, request: InitRequest, registered: Registered, csr: CertificateRequest, handshake_hash: bytes
    ) -> tuple[Initialized, bool]:
        if registered.lapsed(self._now()):
            raise Denied("expired", "the registration was not used in time; run `source register` again")
        jwks = self._check_first(request, registered, csr, handshake_hash)
        record = Initialized(
            at=instant(self._now()),
            bridge=self._bridge_id,
            keys=jwks,
            issuer=request.issuer,
            cluster_ca=request.cluster_ca,
            subject=request.subject,
            public_key_sha256=csr.public_key_sha256,
        )
        if await self._records.create_initialized(self._cluster.fingerprint, record):
            return record, True
        winner = await self._records.initialized(self._cluster.fingerprint)
        if winner is None:
            raise Denied("busy", "the registration is being changed; try again")
        return winner, False

    def _check_first(
        self, request: InitRequest, registered: Registered, csr: CertificateRequest, handshake_hash: bytes
    ) -> keyset.Jwks:
        if request.subject != registered.operator_subject:
            raise Denied("denied", "the operator's ServiceAccount is not the registered one")
        try:
            jwks = keyset.normalise(request.jwks)
            x509.load_pem_x509_certificates(request.cluster_ca.encode("ascii"))
        except ProtocolError as error:
            raise Denied("denied", error.what) from None
        except ValueError:
            raise Denied("denied", "the cluster's CA cannot be read") from None
        keys = KeySet.from_jwks(jwks)
        self._check_token(request.token, keys, request.issuer, request.subject, csr, handshake_hash)
        return jwks

    def _check_again(
        self, initialized: Initialized, request: InitRequest, csr: CertificateRequest, handshake_hash: bytes
    ) -> None:
        """Within ten minutes the operator that was first is served again: it may not have got the answer."""
        taken = Denied(
            "already_initialized", "this cluster has been initialised; come back by the return room"
        )
        if not initialisable_again(initialized, self._now()):
            raise taken
        if csr.public_key_sha256 == initialized.public_key_sha256:
            return
        keys = KeySet.from_jwks(initialized.keys)
        try:
            self._check_token(
                request.token, keys, initialized.issuer, initialized.subject, csr, handshake_hash
            )
        except Denied as denied:
            taken.reason = denied.reason
            raise taken from None

    # Coming back

    async def _coming_back(self, request: ReturnRequest, handshake_hash: bytes, broker: str) -> Granted:
        registered = await self._registration(request.fingerprint)
        csr = _checked_csr(request.csr)
        initialized = self._cluster.initialized
        if initialized is None:
            raise Denied("unregistered", "this cluster has not been initialised")
        issuer, subject = initialized.issuer, initialized.subject
        try:
            self._check_token(request.token, self._cluster.keys, issuer, subject, csr, handshake_hash)
        except Denied as denied:
            if denied.reason != tokens.Reason.UNKNOWN_KEY:
                raise
            await self._refetch_keys(self._cluster)
            self._check_token(request.token, self._cluster.keys, issuer, subject, csr, handshake_hash)
        return await self._grant(csr, registered, broker)

    # Both

    async def _registration(self, fingerprint: str) -> Registered:
        if self._exchanges > EXCHANGES_LIMIT:
            raise Denied("busy", "too many operators at a time; try again")
        if fingerprint != self._cluster.fingerprint:
            raise Denied("denied", "the fingerprint is not the one of this room")
        registered = await self._records.registered(fingerprint)
        if registered is None or registered.suspended:
            raise Denied("unregistered", "this cluster is not registered, or suspended")
        if registered.tunnel_ca != self._cluster.registered.tunnel_ca:
            raise Denied("busy", "the registration has just changed; try again")
        return registered

    def _check_token(
        self,
        token: str,
        keys: KeySet,
        issuer: str,
        subject: str,
        csr: CertificateRequest,
        handshake_hash: bytes,
    ) -> None:
        """That the token was made for this handshake and this key, by the operator of this cluster."""
        audience = return_audience(self._cluster.fp8, handshake_hash, csr.spki)
        try:
            identity = tokens.verify(
                token, keys=keys, issuer=issuer, audience=audience, now=self._now(), require_pod=False
            )
        except TokenRefused as error:
            raise Denied("denied", error.what, reason=error.reason) from None
        if identity.subject != subject:
            raise Denied("denied", "the token is not the operator's", reason=tokens.Reason.WRONG_SUBJECT)

    async def _grant(
        self, csr: CertificateRequest, registered: Registered, broker: str, *, first: bool = False
    ) -> Granted:
        signed = await self._certify(csr, broker)
        answer = InitAnswer(
            tunnel_ca=registered.tunnel_ca,
            pod_ca=registered.pod_ca,
            cert=signed.certificate_pem,
            info_hash=registered.info_hash,
            space=registered.space,
            endorsement=registered.endorsement,
            former_pod_cas="".join(f"{former.pem.strip()}\n" for former in registered.former_pod_cas),
            key=signed.key,
        )
        return Granted(answer, broker, signed.serial, first)


def new_broker_id() -> str:
    """A name for one broker, of the bridge's making: 8 random bytes, hex."""
    return secrets.token_hex(8)


def initialisable_again(initialized: Initialized, now: float) -> bool:
    """Whether the ten minutes after first initialisation are not over (`now`: seconds since the epoch)."""
    return now < seconds(initialized.at) + AGAIN_WITHIN


def _of_version(error: VersionError) -> Denied:
    refusal = Refusal.of_version(error, "bridge", "operator")
    return Denied("version", refusal.message, speaks=refusal.speaks)


def _checked_csr(pem: str) -> CertificateRequest:
    try:
        return read_csr(pem)
    except ProtocolError as error:
        raise Denied("denied", error.what) from None
