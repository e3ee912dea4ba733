"""A certificate for trying things out: `cloudtaser-beacon --dev`.

Used by `app`. The one part of the beacon that needs more than uvloop; nothing else imports `cryptography`.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cloudtaser.errors import ConfigError


def self_signed(names: Sequence[str]) -> tuple[bytes, bytes]:
    """A certificate for `names` (host names and addresses), valid for 30 days, and its key; both PEM."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise ConfigError(
            "making a certificate needs the package cryptography",
            on="--dev",
            fix="pip install cryptography, or give --tls-cert and --tls-key",
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cloudtaser-beacon --dev")])
    alternatives: list[x509.GeneralName] = []
    for text in dict.fromkeys(names):
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            alternatives.append(x509.DNSName(text))
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


@contextmanager
def in_memory(*contents: bytes) -> Iterator[list[str]]:
    """Paths under which `contents` can be opened, without a file on any disk."""
    descriptors: list[int] = []
    try:
        for content in contents:
            descriptor = os.memfd_create("cloudtaser-beacon", os.MFD_CLOEXEC)
            descriptors.append(descriptor)
            os.write(descriptor, content)
        yield [f"/proc/self/fd/{descriptor}" for descriptor in descriptors]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
