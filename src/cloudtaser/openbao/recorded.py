"""Recorded: a certificate as it stands in a record, read back.

Used by `authorities`, `status` and `usage`. What a record holds may have been changed by hand: the error says
how to look at it and restore it, as `records` says for a whole record.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509

from cloudtaser.errors import ProtocolError

RESTORE: Final = "look at it with `bao kv get`, and restore an earlier version with `bao kv rollback`"
"""What to do about a record that cannot be read."""


def recorded_certificate(pem: str) -> x509.Certificate:
    """A certificate in a record. ProtocolError when it is none."""
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise ProtocolError("a record holds no certificate where one belongs", fix=RESTORE) from None
