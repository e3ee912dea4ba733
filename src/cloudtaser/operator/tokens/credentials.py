"""Credentials: the operator's own two certificates of the pod CA, and sealing with one of them.

Used by `door` (its TLS) and `minting` (seals). Keys are made here, live in memory only and change with every
renewal, at two thirds of a certificate's life or when the pod CA changes. What the bridge had signed is
checked before it is used, as a wrapper would check it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.dial import Backoff
from cloudtaser.net.log import get_logger
from cloudtaser.net.tls import Identity as TlsIdentity
from cloudtaser.net.tls import pod_server
from cloudtaser.operator.certificates import BrokerKey, check_own, der, load_ca, load_certificate, now_utc
from cloudtaser.operator.enrolment import Reporter
from cloudtaser.operator.tokens.metrics import TokenMetrics
from cloudtaser.operator.tokens.ports import Identity
from cloudtaser.operator.tokens.vault import Certified, Vault
from cloudtaser.wire.envelope import Recipient, Token, check_leaf, seal
from cloudtaser.wire.names import OPERATOR_NAME

RENEW_AT: Final = 2 / 3
LOOK_EVERY: Final = 15.0
"""Seconds between looks whether the pod CA is another now."""

_log = get_logger("operator.tokens")


@dataclass(frozen=True, slots=True)
class Standing:
    """Both certificates, in use from one renewal to the next."""

    context: ssl.SSLContext
    seal_key: ec.EllipticCurvePrivateKey
    seal_leaf: bytes
    asked_under: str | None
    """The pod CA that was pinned when these were asked for: with another one they are asked for anew."""
    not_after: float
    renew_at: float


class Credentials:
    """`run` keeps them; `context` and `seal` use them. Until the first are there nothing can be heard."""

    def __init__(self, vault: Vault, identity: Identity, fingerprint: str, metrics: TokenMetrics) -> None:
        self._vault = vault
        self._identity = identity
        self._fingerprint = fingerprint
        self._metrics = metrics
        self._standing: Standing | None = None
        self._reporter = Reporter()
        self.ready = asyncio.Event()
        """Set once there are certificates."""

    @property
    def context(self) -> ssl.SSLContext | None:
        """What ends the wrappers' TLS; None before there is a certificate, or when it ended."""
        standing = self._standing
        if standing is None or standing.not_after <= now_utc().timestamp():
            return None
        return standing.context

    @property
    def not_after(self) -> float:
        """When the certificates end, Unix time; 0 without any."""
        return self._standing.not_after if self._standing is not None else 0.0

    def seal(self, token: Token, recipient: Recipient) -> bytes:
        """The envelope. UnavailableError without a certificate, ProtocolError for a key that is none."""
        standing = self._standing
        if standing is None or standing.not_after <= now_utc().timestamp():
            raise UnavailableError("there is no sealing certificate yet")
        return seal(token, recipient, standing.seal_leaf, standing.seal_key)

    async def run(self, *, now: Callable[[], datetime] = now_utc) -> None:
        """For ever: have them signed, wait until they are due or the pod CA changes."""
        backoff = Backoff(first=0.5, limit=30.0)
        while True:
            if not self._is_due(now()):
                await asyncio.sleep(LOOK_EVERY)
                continue
            try:
                await self._renew(now())
            except CloudtaserError as error:
                self._metrics.certificates.labels("failed").inc()
                if self._reporter.due(error.what, asyncio.get_running_loop().time()):
                    _log.warning("no certificates to unseal pods with", error=error.diagnostic())
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()

    def _is_due(self, now: datetime) -> bool:
        standing = self._standing
        if standing is None or now.timestamp() >= standing.renew_at:
            return True
        return self._identity.pod_ca != standing.asked_under

    async def _renew(self, now: datetime) -> None:
        server, sealing = BrokerKey.generate(), BrokerKey.generate()
        certified = await self._vault.certify(server.csr_pem, sealing.csr_pem)
        _check(certified, server, sealing, self._fingerprint, now)
        leaves = [load_certificate(text, "a leaf") for text in (certified.server, certified.seal)]
        context = pod_server(TlsIdentity(certified.server.encode(), server.pem()))
        ends = min(one.not_valid_after_utc.timestamp() for one in leaves)
        due = now.timestamp() + (ends - now.timestamp()) * RENEW_AT
        self._standing = Standing(context, sealing.private, der(leaves[1]), self._identity.pod_ca, ends, due)
        self._metrics.certificates.labels("ok").inc()
        if not self.ready.is_set():
            _log.info("ready to unseal pods", until=int(self._standing.not_after))
        self.ready.set()


def _check(
    certified: Certified, server: BrokerKey, sealing: BrokerKey, fingerprint: str, now: datetime
) -> None:
    """ProtocolError unless a wrapper would believe both."""
    authority = load_ca(certified.pod_ca, "the pod CA", now)
    shown = load_certificate(certified.server, "the server certificate")
    sealed = load_certificate(certified.seal, "the sealing certificate")
    check_own(shown, server)
    check_own(sealed, sealing)
    check_leaf(der(sealed), authority=authority, fingerprint=fingerprint, at=now.replace(tzinfo=None))
    try:
        shown.verify_directly_issued_by(authority)
        names = list(shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise ProtocolError("the server certificate is not one of the pod CA") from None
    if names != [x509.DNSName(OPERATOR_NAME)]:
        raise ProtocolError("the server certificate does not name the operator alone")
