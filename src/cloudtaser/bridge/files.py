"""Certificates in files: read, checked against each other, watched, and swapped in when they change.

Used by `service`, which makes one `FilePairs` at start, and as `leaves` by `identity`, which asks with every
poll. Each thing that does not fit is one line that names the file. New files that are no better are refused
and the old pairs stay; since files are replaced one after another, that is said when it lasts.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloudtaser.bridge.authorities import Authority
from cloudtaser.bridge.config_files import PairFiles
from cloudtaser.bridge.leaves import Leaf, leaf_of
from cloudtaser.errors import CloudtaserError, ConfigError, ProtocolError
from cloudtaser.net.log import get_logger
from cloudtaser.net.stamps import Stamp, stamp
from cloudtaser.net.tls import require_party
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.secret import Secret
from cloudtaser.wire.names import BRIDGE_NAME, parse_uri

MAX_FILE: Final = 65536

_log = get_logger("bridge.files")

"""Of each file: device's inode, time of its last change, size."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """What the files hold, checked."""

    fingerprint: str
    tunnel_ca: str
    tunnel_ca_der: bytes
    tunnel: Leaf
    pod: Leaf
    pod_certificates: tuple[x509.Certificate, ...]
    """The pods' leaf and what stands behind it in its file."""


class FilePairs:
    """The pairs of one cluster as they are in the files now. ConfigError at first if they do not fit."""

    def __init__(
        self,
        files: PairFiles,
        *,
        now: Callable[[], float] = time.time,
        on_failed: Callable[[CloudtaserError], None] = lambda _: None,
    ) -> None:
        """`on_failed` hears once of changed files that cannot be used."""
        self._files = files
        self._now = now
        self._on_failed = on_failed
        self._stamp = _stamp(files)
        self._refused: Stamp | None = None
        self._told: Stamp | None = None
        self.pairs = load(files, now())

    @property
    def fingerprint(self) -> str:
        """Of the cluster, as the certificate names it."""
        return self.pairs.fingerprint

    async def look(self, role: PkiRole, authority: Authority, now: float) -> Leaf | None:
        """The pair that is under that CA; None when the one in the files is under another."""
        await self.refresh()
        if role is PkiRole.BRIDGE:
            return self.pairs.tunnel if self.pairs.tunnel_ca_der == authority.der else None
        leaf = self.pairs.pod_certificates[0]
        return self.pairs.pod if _issued(leaf, x509.load_der_x509_certificate(authority.der)) else None

    async def refresh(self) -> None:
        """Take up files that changed, if they fit."""
        seen = await asyncio.to_thread(_stamp, self._files)
        if seen == self._stamp:
            return
        try:
            fresh = await asyncio.to_thread(load, self._files, self._now())
            if fresh.fingerprint != self.fingerprint:
                raise ConfigError(
                    "the certificate is another cluster's now", on=self._files.tls_cert, fix="restart for it"
                )
        except CloudtaserError as error:
            if self._refused == seen and self._told != seen:
                self._told = seen
                self._on_failed(error)
            self._refused = seen
            return
        self._stamp, self.pairs = seen, fresh
        self._refused = self._told = None
        _log.info(
            "certificates in files taken up", ends=int(min(fresh.tunnel.not_after, fresh.pod.not_after))
        )


def load(files: PairFiles, now: float) -> Pairs:
    """Read and check all files. ConfigError names what does not fit."""
    ca = _certificates(files.tls_ca)[0]
    der = ca.public_bytes(Encoding.DER)
    if hashlib.sha256(der).hexdigest() != files.beacon_info_hash:
        raise ConfigError(
            "the tunnel CA is not the one of --beacon-info-hash",
            on=files.tls_ca,
            fix="give the hash that `source register` prints for it, or that CA's file",
        )
    tunnel, *_ = chain = _certificates(files.tls_cert)
    fingerprint = _cluster(tunnel, files.tls_cert)
    if not _issued(tunnel, ca):
        raise ConfigError(f"the certificate is not signed by the CA in {files.tls_ca}", on=files.tls_cert)
    if not _may(tunnel, ExtendedKeyUsageOID.CLIENT_AUTH):
        raise ConfigError("the certificate is not made for a bridge's tunnel", on=files.tls_cert)
    _check_time(tunnel, files.tls_cert, now)
    tunnel_leaf = _pair(chain, files.tls_cert, files.tls_key)
    pod, *_ = pod_chain = _certificates(files.pod_cert)
    if _issued(pod, ca):
        raise ConfigError(
            "the pods' certificate is signed by the tunnel CA", on=files.pod_cert, fix="give the pod CA's"
        )
    if BRIDGE_NAME not in _dns_names(pod) or not _may(pod, ExtendedKeyUsageOID.SERVER_AUTH):
        raise ConfigError(f"the certificate is not one of {BRIDGE_NAME} for pods", on=files.pod_cert)
    _check_time(pod, files.pod_cert, now)
    pod_leaf = _pair(pod_chain, files.pod_cert, files.pod_key)
    pem = ca.public_bytes(Encoding.PEM).decode()
    return Pairs(fingerprint, pem, der, tunnel_leaf, pod_leaf, tuple(pod_chain))


def _stamp(files: PairFiles) -> Stamp:
    return stamp(files.tls_cert, files.tls_key, files.tls_ca, files.pod_cert, files.pod_key)


def _content(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigError(f"the file cannot be read: {reason}", on=path) from None
    if len(content) > MAX_FILE:
        raise ConfigError(f"the file is longer than {MAX_FILE} bytes", on=path)
    return content


def _certificates(path: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_content(path))
    except ValueError:
        raise ConfigError("the file holds no certificate", on=path, fix="it must be PEM") from None


def _pair(chain: list[x509.Certificate], path: str, key_path: str) -> Leaf:
    content = _content(key_path)
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            "the file holds no private key", on=key_path, fix="it must be PEM, without a passphrase"
        ) from None
    der, form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(der, form) != chain[0].public_key().public_bytes(der, form):
        raise ConfigError(f"the key is not that of the certificate in {path}", on=key_path)
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
    return leaf_of(pem, Secret(content))


def _cluster(certificate: x509.Certificate, path: str) -> str:
    """The cluster of which it names a bridge."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        fingerprint = parse_uri(uris[0]).fingerprint if uris else ""
        return require_party(certificate, fingerprint, "bridge").fingerprint
    except (ProtocolError, x509.ExtensionNotFound, ValueError):
        raise ConfigError(
            "the certificate names no bridge of a cluster", on=path, fix="`source pairs` writes one that does"
        ) from None


def _issued(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _may(certificate: x509.Certificate, usage: x509.ObjectIdentifier) -> bool:
    try:
        return usage in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False


def _dns_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return names.get_values_for_type(x509.DNSName)


def _check_time(certificate: x509.Certificate, path: str, now: float) -> None:
    if certificate.not_valid_after_utc.timestamp() <= now:
        raise ConfigError(
            f"the certificate expired at {certificate.not_valid_after_utc.isoformat()}",
            on=path,
            fix="`source rotate` makes a new pair, `source pairs` writes it",
        )
    if certificate.not_valid_before_utc.timestamp() > now + 60:
        raise ConfigError("the certificate is not valid yet", on=path, fix="compare the clocks")
