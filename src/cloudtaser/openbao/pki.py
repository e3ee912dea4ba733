"""PKI: which certificates a cluster's two authorities sign, as roles in OpenBao, and the signing itself.

`registration` creates the roles, bridges sign. A role lets nothing through but the public key of a CSR: names
come from the signer, within what the role allows (spec/openbao.md, "PKI roles per space").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Space
from cloudtaser.secret import Secret
from cloudtaser.wire.names import BRIDGE_NAME, BROKER_SERVICE, OPERATOR_NAME

LEAF_SECONDS: Final = 24 * 3600
AUTHORITY_SECONDS: Final = 3650 * 24 * 3600
ENDORSEMENT_SECONDS: Final = 365 * 24 * 3600
BACKDATE_SECONDS: Final = 60  # for clocks that are a little behind
_DOCUMENT_SIGNING: Final = "1.3.6.1.5.5.7.3.36"  # RFC 9336: no TLS peer accepts it


class PkiRole(StrEnum):
    """What a leaf is for. The value is the role's name in OpenBao."""

    BRIDGE = "bridge"
    BROKER = "broker"
    BRIDGE_POD = "bridge-pod"
    OPERATOR_POD = "operator-pod"
    OPERATOR_SEAL = "operator-seal"
    SUCCESSOR = "successor"
    """An endorsement of the next tunnel CA: an administrator's alone."""

    def mount(self, space: Space) -> str:
        """The authority that signs it: the tunnel CA or the pod CA."""
        of_tunnel = (PkiRole.BRIDGE, PkiRole.BROKER, PkiRole.SUCCESSOR)
        return space.pki_tunnel if self in of_tunnel else space.pki_pod


BRIDGE_POD_NAMES: Final = (BRIDGE_NAME, f"*.{BRIDGE_NAME}", BROKER_SERVICE)


@dataclass(frozen=True, slots=True)
class Issued:
    """A signed leaf. `chain_pem` is what goes between it and the authority (nothing, as the CAs are roots);
    `serial` is hex with colons, as OpenBao's `revoke` wants it; `not_after` is in seconds since the epoch;
    `authority_pem` is the CA that OpenBao says it signed with."""

    certificate_pem: bytes
    chain_pem: bytes
    serial: str
    not_after: int
    authority_pem: bytes = b""


def role_settings(role: PkiRole, fingerprint: str) -> dict[str, Any]:
    """What OpenBao is told to allow under `role` for one cluster."""
    settings: dict[str, Any] = {
        "use_csr_sans": False,
        "use_csr_common_name": False,
        "require_cn": False,
        "allow_localhost": False,
        "allow_ip_sans": False,
        "allow_any_name": False,
        "allow_subdomains": False,
        "allow_glob_domains": False,
        "allow_bare_domains": False,
        "allow_wildcard_certificates": False,
        "allowed_domains": [],
        "allowed_uri_sans": [],
        "allowed_other_sans": [],
        "key_type": "ec",
        "key_bits": 256,
        "signature_bits": 256,
        "key_usage": ["DigitalSignature"],
        "server_flag": False,
        "client_flag": False,
        "code_signing_flag": False,
        "email_protection_flag": False,
        "ext_key_usage_oids": [],
        "ttl": LEAF_SECONDS,
        "max_ttl": LEAF_SECONDS,
        "not_before_duration": BACKDATE_SECONDS,
        # without these two a signer could name dates of its own, beyond max_ttl
        "not_after_bound": "forbid",
        "not_before_bound": "forbid",
    }
    return settings | _own_settings(role, fingerprint)


def _own_settings(role: PkiRole, fingerprint: str) -> dict[str, Any]:
    cluster = f"cloudtaser://{fingerprint}"
    match role:
        case PkiRole.BRIDGE:
            return {"allowed_uri_sans": [f"{cluster}/bridge/*"], "client_flag": True}
        case PkiRole.BROKER:
            return {"allowed_uri_sans": [f"{cluster}/broker/*"], "server_flag": True}
        case PkiRole.BRIDGE_POD:
            names = {"allowed_domains": list(BRIDGE_POD_NAMES), "allow_wildcard_certificates": True}
            return names | {"allow_bare_domains": True, "server_flag": True}
        case PkiRole.OPERATOR_POD:
            return {"allowed_domains": [OPERATOR_NAME], "allow_bare_domains": True, "server_flag": True}
        case PkiRole.OPERATOR_SEAL:
            uris = [f"{cluster}/operator"]
            return {"allowed_uri_sans": uris, "ext_key_usage_oids": [_DOCUMENT_SIGNING]}
        case PkiRole.SUCCESSOR:
            lives = {"ttl": ENDORSEMENT_SECONDS, "max_ttl": ENDORSEMENT_SECONDS}
            uris = [f"{cluster}/successor/*"]
            return lives | {"allowed_uri_sans": uris, "ext_key_usage_oids": [_DOCUMENT_SIGNING]}


class SigningRole(Protocol):
    """What `sign` needs of a role: where it lies, and by `str` its name."""

    def mount(self, space: Space) -> str:
        """The authority's mount."""


async def sign(
    client: OpenBao,
    space: Space,
    role: SigningRole,
    csr_pem: str | bytes,
    *,
    uris: Iterable[str] = (),
    names: Iterable[str] = (),
    ttl: str = "24h",
    issuer: str = "",
) -> Issued:
    """Have the role's authority sign the CSR's public key for exactly these URIs and DNS names.

    `issuer` names one of several authorities of the same mount: during a rotation the former one; the default
    is the current one. Raises OpenBaoError if the CSR is none, or the role does not allow a name.
    """
    body = {
        "csr": csr_pem.decode() if isinstance(csr_pem, bytes) else csr_pem,
        "uri_sans": ",".join(uris),
        "alt_names": ",".join(names),
        "exclude_cn_from_sans": True,
        "ttl": ttl,
    }
    path = f"{role.mount(space)}/{f'issuer/{issuer}/' if issuer else ''}sign/{role}"
    answer = (await client.request("POST", path, namespace=space.namespace, body=body))["data"]
    authority = str(answer["issuing_ca"]).strip()
    between = [link.strip() for link in answer.get("ca_chain") or () if link.strip() != authority]
    return Issued(
        certificate_pem=str(answer["certificate"]).strip().encode() + b"\n",
        chain_pem="".join(f"{link}\n" for link in between).encode(),
        serial=str(answer["serial_number"]),
        not_after=int(answer["expiration"]),
        authority_pem=authority.encode() + b"\n",
    )


def new_key() -> tuple[Secret, str]:
    """A fresh P-256 key (PKCS#8 PEM) and a CSR (PEM) that carries its public key and no name."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Secret(private), csr.public_bytes(pem).decode()
