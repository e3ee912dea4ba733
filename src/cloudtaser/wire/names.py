"""Names: every certificate name, URI, audience and Kubernetes object that two parts must spell alike.

Used by bridge, operator and CLI. A party's certificate carries one URI,
`cloudtaser://<fingerprint>/<role>/<instance>` (spec/wire.md, "Tunnel"), which `parse_uri` reads strictly:
a URI that another reader could take for a different party is refused.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Literal, cast

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.hashes import is_fingerprint

BRIDGE_NAME: Final = "bridge.cloudtaser.internal"
OPERATOR_NAME: Final = "operator.cloudtaser.internal"
BROKER_SERVICE: Final = "cloudtaser-broker.cloudtaser-system.svc"

SYSTEM_NAMESPACE: Final = "cloudtaser-system"
OPERATOR_SERVICE_ACCOUNT: Final = "cloudtaser-operator"
REVIEWER_SERVICE_ACCOUNT: Final = "cloudtaser-reviewer"
ADMIN_SERVICE_ACCOUNT: Final = "cloudtaser-admin"
OPERATOR_SUBJECT: Final = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{OPERATOR_SERVICE_ACCOUNT}"
ADMIN_SUBJECT: Final = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{ADMIN_SERVICE_ACCOUNT}"
WEBHOOK_SERVICE: Final = "cloudtaser-operator-webhook"
"""Of the Service, and of the webhook configurations that name it."""
LEADER_LEASE: Final = "cloudtaser-operator-leader"
TRUST_CONFIGMAP: Final = "cloudtaser-trust"
POD_CA_CONFIGMAP: Final = "cloudtaser-ca"
REVIEWER_PATH: Final = "/v1/cloudtaser/reviewer"
POD_CA_PATH: Final = "/v1/cloudtaser/pod-ca"
OPERATOR_CERTIFICATES_PATH: Final = "/v1/cloudtaser/operator-certificates"

PartyRole = Literal["bridge", "broker", "operator"]

_SCHEME: Final = "cloudtaser://"
_SUCCESSOR: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_INSTANCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PartyName:
    """Who a certificate says its holder is. `instance` is empty for an operator, which has none."""

    fingerprint: str
    role: PartyRole
    instance: str = ""


def bridge_uri(fingerprint: str, bridge_id: str) -> str:
    """The URI of one bridge of a cluster. ProtocolError when the id cannot stand in a URI."""
    return f"{_SCHEME}{fingerprint}/bridge/{_instance(bridge_id)}"


def broker_uri(fingerprint: str, broker_id: str) -> str:
    """The URI of one broker of a cluster. ProtocolError when the id cannot stand in a URI."""
    return f"{_SCHEME}{fingerprint}/broker/{_instance(broker_id)}"


def operator_uri(fingerprint: str) -> str:
    """The URI of a cluster's operator, which seals for its wrappers."""
    return f"{_SCHEME}{fingerprint}/operator"


def successor_uri(fingerprint: str, tunnel_ca_der: bytes) -> str:
    """The URI of an endorsement: a certificate under a tunnel CA that names the one which replaces it.

    It is no party's name: `parse_uri` refuses it, so an endorsement opens no tunnel.
    """
    return f"{_SCHEME}{fingerprint}/successor/{hashlib.sha256(tunnel_ca_der).hexdigest()}"


def parse_successor(uri: str, fingerprint: str) -> bytes:
    """SHA-256 of the tunnel CA (DER) that an endorsement of the cluster names. ProtocolError unless `uri` is
    exactly of the form that `successor_uri` makes."""
    start = f"{_SCHEME}{fingerprint}/successor/"
    digest = uri.removeprefix(start)
    if not uri.startswith(start) or not _SUCCESSOR.fullmatch(digest):
        raise ProtocolError("a certificate names no successor of this cluster's tunnel CA")
    return bytes.fromhex(digest)


def parse_uri(uri: str) -> PartyName:
    """The party that `uri` names. ProtocolError unless it is exactly one of the three forms above."""
    if not uri.startswith(_SCHEME):
        raise ProtocolError("a certificate's URI does not name a party of cloudtaser")
    fingerprint, *rest = uri[len(_SCHEME) :].split("/")
    if not is_fingerprint(fingerprint):
        raise ProtocolError("a certificate's URI holds no cluster fingerprint")
    if rest == ["operator"]:
        return PartyName(fingerprint, "operator")
    if len(rest) == 2 and rest[0] in ("bridge", "broker") and _INSTANCE.fullmatch(rest[1]):
        return PartyName(fingerprint, cast("PartyRole", rest[0]), rest[1])
    raise ProtocolError("a certificate's URI names no role that takes part in a tunnel")


def _instance(text: str) -> str:
    if not _INSTANCE.fullmatch(text):
        raise ProtocolError(
            f"not an instance name: {text[:80]!r}",
            fix="use up to 128 letters, digits, dots, dashes and underscores, a letter or digit first",
        )
    return text


def pod_audience(fp8: str) -> str:
    """Audience of the token with which a pod logs in."""
    return f"cloudtaser:{fp8}"


def operator_audience(fp8: str) -> str:
    """Audience of the operator's own token on its stream to the bridge."""
    return f"cloudtaser-operator:{fp8}"


def admin_audience(fp8: str) -> str:
    """Audience of an administrator's token on an admin stream."""
    return f"cloudtaser-admin:{fp8}"


def unseal_audience(fp8: str) -> str:
    """Audience of the token with which a wrapper asks its operator for an envelope."""
    return f"cloudtaser-unseal:{fp8}"


def return_audience(fp8: str, handshake_hash: bytes, spki_der: bytes) -> str:
    """Audience of a token that fits one Noise handshake and one key only.

    `spki_der` is the CSR's SubjectPublicKeyInfo. (spec/wire.md, "Coming back".)
    """
    bound = hashlib.sha256(handshake_hash + hashlib.sha256(spki_der).digest()).hexdigest()
    return f"cloudtaser-return:{fp8}:{bound}"
