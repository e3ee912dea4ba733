"""Authorities: the CAs under which one registration is served, and whether a changed record keeps them.

Pure. Read from the record by `station` for `identity` and `tunnels`, and by `registry`, which must tell a
rotation from another cluster under the same fingerprint. During a rotation there are two tunnel CAs and two
or more pod CAs; each is served by itself and none vouches for another.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass

from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.records import Former, Registered
from cloudtaser.wire.hashes import pod_ca_label


@dataclass(frozen=True, slots=True)
class Authority:
    """One CA: its certificate, and the issuer to name when OpenBao is to sign with it ("": the default)."""

    pem: str
    der: bytes
    issuer: str = ""

    @classmethod
    def of(cls, pem: str, issuer: str = "") -> Authority:
        """ProtocolError when `pem` is no certificate."""
        try:
            return cls(pem, ssl.PEM_cert_to_DER_cert(pem.strip()), issuer)
        except ValueError:
            raise ProtocolError(
                "the registration holds no readable CA", fix="run `source register` again"
            ) from None

    @property
    def id(self) -> str:
        """12 hex digits of the SHA-256, by which a tunnel CA is reported."""
        return hashlib.sha256(self.der).hexdigest()[:12]

    @property
    def label(self) -> str:
        """8 hex digits, by which a pod names the pod CA that it pins."""
        return pod_ca_label(self.der)


@dataclass(frozen=True, slots=True)
class Authorities:
    """What one registration is served under, the current CA first and the oldest last."""

    tunnel: tuple[Authority, ...]
    pod: tuple[Authority, ...]


def authorities_of(registered: Registered) -> Authorities:
    """ProtocolError when the record holds something else where a CA belongs."""
    former = (registered.former_tunnel_ca,) if registered.former_tunnel_ca is not None else ()
    return Authorities(
        _with_former(registered.tunnel_ca, former), _with_former(registered.pod_ca, registered.former_pod_cas)
    )


def continues(old: Registered, new: Registered) -> bool:
    """Whether `new` has the CAs of `old`, or says by its former ones that they were rotated."""
    tunnels = {new.tunnel_ca} | ({new.former_tunnel_ca.pem} if new.former_tunnel_ca is not None else set())
    pods = {new.pod_ca} | {former.pem for former in new.former_pod_cas}
    return old.tunnel_ca in tunnels and old.pod_ca in pods


def _with_former(current: str, former: tuple[Former, ...]) -> tuple[Authority, ...]:
    newest_first = sorted(former, key=lambda one: one.replaced_at, reverse=True)
    all_of_them = [Authority.of(current), *(Authority.of(one.pem, one.issuer) for one in newest_first)]
    return tuple({one.der: one for one in reversed(all_of_them)}.values())[::-1]
