"""Layout: where everything of cloudtaser lies in OpenBao. The only place that spells a path.

Used by every module of this package; through them by bridge and CLI. It follows spec/openbao.md, "Layout", in
the form for a server with namespaces, which OpenBao is; `detect` refuses a server without them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from cloudtaser.errors import CloudtaserError, UsageError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.errors import OpenBaoError
from cloudtaser.wire.hashes import short_fingerprint

SYSTEM_NAMESPACE: Final = "cloudtaser"

BRIDGE_POLICY: Final = "cloudtaser-bridge"
ADMIN_PROXY_POLICY: Final = "cloudtaser-admin-proxy"
OPERATOR_POLICY: Final = "cloudtaser-operator"
DEFAULT_POD_POLICY: Final = "cloudtaser-default"
POD_POLICY_PREFIX: Final = "ct-pod_"

DEFAULT_ROLE: Final = "default"
OPERATOR_ROLE: Final = "cloudtaser-operator"
POD_TOKEN_ROLE: Final = "cloudtaser-pod"  # noqa: S105  # a role's name

_NO_NAMESPACE: Final = "cloudtaser-no-such-namespace"
_SPACE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_BRIDGE_ID: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
# names that OpenBao keeps for itself, and the mounts beside which no namespace of that name can be
_TAKEN: Final = frozenset(
    {"root", "sys", "audit", "auth", "cubbyhole", "identity", "state", "shared", "bridges", "clusters"}
)


@dataclass(frozen=True, slots=True)
class Space:
    """One cluster's own corner of OpenBao: a namespace and the mounts in it."""

    name: str
    namespace: str
    secret: str = "secret"  # noqa: S105  # a mount's name
    transit: str = "transit"
    pki_tunnel: str = "pki-tunnel"
    pki_pod: str = "pki-pod"
    jwt: str = "jwt"

    @property
    def mounts(self) -> tuple[str, ...]:
        """Every mount of the space in the form in which OpenBao lists it."""
        return (self.secret, self.transit, self.pki_tunnel, self.pki_pod, f"auth/{self.jwt}")


class Layout:
    """Paths of the records (in `state_mount` of `system_namespace`) and of the spaces."""

    state_mount: Final = "state"
    shared_mount: Final = "shared"
    clusters: Final = "clusters"
    bridges: Final = "bridges"

    def __init__(self, system_namespace: str = SYSTEM_NAMESPACE) -> None:
        self.system_namespace = system_namespace

    @classmethod
    async def detect(cls, client: OpenBao) -> Self:
        """Ask the server which layout it can hold; CloudtaserError if it has no namespaces.

        A server with namespaces refuses one that does not exist; one without ignores the header.
        """
        try:
            await client.request("GET", "auth/token/lookup-self", namespace=_NO_NAMESPACE)
        except OpenBaoError as error:
            if error.status == 404 and any("namespace" in message for message in error.messages):
                return cls()
            if error.status not in (403, 404):
                raise
        raise CloudtaserError(
            "this server has no namespaces", on=client.address, fix="use OpenBao 2.3 or newer"
        )

    # Records, as paths inside the state mount

    def registered(self, fingerprint: str) -> str:
        """What `source register` recorded of a cluster."""
        return f"{self.clusters}/{fingerprint}/registered"

    def initialized(self, fingerprint: str) -> str:
        """Who came first, and the cluster's keys as he showed them. Created once, never changed."""
        return f"{self.clusters}/{fingerprint}/initialized"

    def keys(self, fingerprint: str) -> str:
        """The cluster's signing keys as last read by a bridge."""
        return f"{self.clusters}/{fingerprint}/keys"

    def revoked(self, fingerprint: str) -> str:
        """Serials that no longer open a tunnel."""
        return f"{self.clusters}/{fingerprint}/revoked"

    def grants(self, fingerprint: str) -> str:
        """Which roles exist, for whom, and for which paths."""
        return f"{self.clusters}/{fingerprint}/grants"

    def all_reads(self, fingerprint: str) -> str:
        """Folder of what each bridge noted of the paths read."""
        return f"{self.clusters}/{fingerprint}/reads"

    def reads(self, fingerprint: str, bridge_id: str) -> str:
        """Which paths one bridge let be read since the cluster was initialised."""
        return f"{self.all_reads(fingerprint)}/{check_bridge_id(bridge_id)}"

    def cluster_records(self, fingerprint: str) -> tuple[str, ...]:
        """All records of one cluster, in the order in which a deregistration removes them."""
        return (
            self.registered(fingerprint),
            self.initialized(fingerprint),
            self.keys(fingerprint),
            self.grants(fingerprint),
            self.revoked(fingerprint),
        )

    def bridge(self, bridge_id: str) -> str:
        """A bridge's heartbeat."""
        return f"{self.bridges}/{check_bridge_id(bridge_id)}"

    # Spaces

    def space(self, name_or_fingerprint: str) -> Space:
        """The space of that name; of a fingerprint, the one it gets when no name is given."""
        name = name_or_fingerprint
        if len(name) == 36:  # a fingerprint; no space name is that long by default
            name = short_fingerprint(name)
        return Space(name, f"{self.system_namespace}/{check_space_name(name)}")


def check_space_name(name: str) -> str:
    """`name` itself if a namespace and everything derived from it can bear it; else UsageError."""
    if not _SPACE_NAME.fullmatch(name) or name in _TAKEN or len(name) == 36:
        raise UsageError(
            f"not a name for a space: {name[:80]!r}",
            fix="use up to 63 lower-case letters, digits and dashes, and no name that OpenBao keeps",
        )
    return name


def check_bridge_id(bridge_id: str) -> str:
    """`bridge_id` itself if it is one label; else UsageError."""
    if not _BRIDGE_ID.fullmatch(bridge_id):
        raise UsageError(
            f"not a name for a bridge: {bridge_id[:80]!r}",
            fix="use up to 63 lower-case letters, digits and dashes",
        )
    return bridge_id


def pod_policy_name(namespace: str, service_account: str) -> str:
    """Policy of one namespace and ServiceAccount ("" for any). `_` occurs in no Kubernetes name."""
    return f"{POD_POLICY_PREFIX}{namespace}_{service_account}"


def pod_role_name(namespace: str, service_account: str) -> str:
    """JWT role of one namespace and ServiceAccount ("" for any)."""
    return f"{namespace}_{service_account}"


def bridge_policy_name(bridge_id: str) -> str:
    """Policy and token role of one bridge. `_` occurs in no bridge's name."""
    return f"{BRIDGE_POLICY}_{bridge_id}"


def admin_policy_name(bridge_id: str) -> str:
    """Token role of one bridge's second token, and its policy where it is limited to clusters."""
    return f"{ADMIN_PROXY_POLICY}_{bridge_id}"
