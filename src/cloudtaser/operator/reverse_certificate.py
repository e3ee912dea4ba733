"""OuterCertificate: what the reverse port shows to whoever connects; read again when its files change.

Made by `standalone` for `reverse_door`. Without files it is a throw-away certificate, made anew at each
start: enough where something in front ends TLS, or where bridges do not check the outer certificate.
"""

from __future__ import annotations

import datetime as dt
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cloudtaser.errors import CloudtaserError
from cloudtaser.net.log import get_logger
from cloudtaser.net.stamps import stamp
from cloudtaser.net.tls import Identity, beacon_server, load_identity
from cloudtaser.operator.reverse_metrics import ReverseMetrics
from cloudtaser.secret import Secret

_LIFETIME = dt.timedelta(days=3650)
_log = get_logger("operator.reverse")


class OuterCertificate:
    """ConfigError when the files cannot be used at start; later the last good ones stay."""

    def __init__(self, cert_file: str | None, key_file: str | None, metrics: ReverseMetrics) -> None:
        self._files = (cert_file, key_file) if cert_file and key_file else None
        self._metrics = metrics
        self._seen = stamp(*self._files or ())
        self._context = self._load()

    @property
    def own(self) -> bool:
        """Whether it comes from files."""
        return self._files is not None

    def context(self) -> ssl.SSLContext:
        """For a new connection. Looks whether the files changed; a connection keeps what it began with."""
        seen = stamp(*self._files or ())
        if seen != self._seen:
            self._seen = seen
            try:
                self._context = self._load()
            except CloudtaserError as error:
                self._metrics.reloads.labels("failed").inc()
                _log.error("the new certificate cannot be used; the old one stays", error=error.diagnostic())
            else:
                self._metrics.reloads.labels("ok").inc()
                _log.info("certificate read again")
        return self._context

    def _load(self) -> ssl.SSLContext:
        if self._files is not None:
            context = beacon_server(*self._files)
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
            load_identity(context, _throw_away())
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["h2"])
        return context


def _throw_away() -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloudtaser broker")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(certificate.public_bytes(Encoding.PEM), Secret(private))
