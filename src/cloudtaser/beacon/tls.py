"""The beacon's certificate: loading it, noticing a new one, knowing when it ends.

Used by `server`. A connection keeps the context it was accepted with, so a new certificate drops nobody.
"""

from __future__ import annotations

import calendar
import os
import ssl
import time
from pathlib import Path

from cloudtaser.errors import ConfigError
from cloudtaser.net.stamps import Stamp, stamp

_TIMES = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}


def server_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """A context for the beacon's side. ConfigError names the file that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0  # parties stay for hours: a ticket would cost more than it saves
    for name in (cert_file, key_file):
        if not os.access(name, os.R_OK):
            why = "cannot be read" if os.path.exists(name) else "does not exist"
            raise ConfigError(f"the file {why}", on=name, fix="give --tls-cert and --tls-key")
    try:
        context.load_cert_chain(cert_file, key_file)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "not PEM"
        raise ConfigError(
            f"the certificate and key cannot be loaded: {reason}",
            on=f"{cert_file}, {key_file}",
            fix="give PEM files that belong together; the key must not have a passphrase",
        ) from None
    return context


class Certificate:
    """A certificate on disk and the context made of it."""

    def __init__(self, cert_file: str, key_file: str) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self._loaded: Stamp = ()
        self.context = self._load(self._stamp())

    def reload(self) -> None:
        """Read the files again. ConfigError leaves the old context in use."""
        self.context = self._load(self._stamp())

    def reload_if_changed(self) -> bool:
        """Read the files again if they changed; whether they had. ConfigError as above."""
        seen = self._stamp()
        if seen == self._loaded:
            return False
        self.context = self._load(seen)
        return True

    def _load(self, seen: Stamp) -> ssl.SSLContext:
        context = server_context(self._cert_file, self._key_file)
        self.not_after = not_after(self._cert_file)
        self._loaded = seen  # taken before reading: a change in between is seen the next time
        return context

    def _stamp(self) -> Stamp:
        return stamp(self._cert_file, self._key_file)


def not_after(cert_file: str) -> float:
    """When the first certificate of a PEM file ends, in seconds since 1970; 0 when that cannot be told."""
    try:
        pem = Path(cert_file).read_text()
        begin, end = pem.index("-----BEGIN CERTIFICATE-----"), pem.index("-----END CERTIFICATE-----")
        der = ssl.PEM_cert_to_DER_cert(pem[begin:end] + "-----END CERTIFICATE-----\n")
        return _not_after(der)
    except (OSError, ValueError, IndexError):
        return 0.0


def _not_after(der: bytes) -> float:
    """RFC 5280 §4.1: the TBSCertificate begins [0] version, serial, algorithm, issuer, validity."""
    position, _ = _element(der, _element(der, 0)[0])
    if der[position] == 0xA0:
        position = _after(der, position)
    for _ in range(3):
        position = _after(der, position)
    begin = _after(der, _element(der, position)[0])  # behind notBefore
    start, length = _element(der, begin)
    return float(calendar.timegm(time.strptime(der[start : start + length].decode(), _TIMES[der[begin]])))


def _element(der: bytes, position: int) -> tuple[int, int]:
    """Where an element's content starts, and how long it is."""
    length = der[position + 1]
    if length < 0x80:
        return position + 2, length
    octets = length & 0x7F
    return position + 2 + octets, int.from_bytes(der[position + 2 : position + 2 + octets], "big")


def _after(der: bytes, position: int) -> int:
    start, length = _element(der, position)
    return start + length
