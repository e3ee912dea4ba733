"""Layout: where everything of cloudtaser lies in OpenBao. The only place that spells a path.

Used by every module of this package; through them by bridge and CLI. It follows spec/openbao.md, "Layout", in
both forms: with namespaces, which OpenBao has, and with mounts in the root for a server that has none.
`Layout.detect` asks the server which one it holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from cloudtaser.errors import CloudtaserError, UsageError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.errors import OpenBaoError
from cloudtaser.openbao.form import Form
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

PARTIES: Final = ("bridge", "broker", "bridge-pod")
"""Whose pairs are stored in the pre-generated form."""

_NO_NAMESPACE: Final = "cloudtaser-no-such-namespace"
_RECORDS_MOUNT: Final = "cloudtaser"
OURS: Final = f"{_RECORDS_MOUNT}-"  # how the mounts and roles of a server without namespaces begin
_MOUNT_INFO: Final = f"sys/internal/ui/mounts/{_RECORDS_MOUNT}"
_SECRET_MOUNT: Final = re.compile(rf"{OURS}([a-z0-9-]+)/secret/", re.ASCII)
_SPACE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_BRIDGE_ID: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
# names that OpenBao keeps for itself, and the mounts beside which no namespace of that name can be
_TAKEN: Final = frozenset(
    {"root", "sys", "audit", "auth", "cubbyhole", "identity", "state", "shared", "bridges", "clusters"}
)

Info = TypeVar("Info")


@dataclass(frozen=True, slots=True)
class Space:
    """One cluster's own corner of OpenBao.

    With namespaces it is one (`namespace`), and what is in it bears plain names. Without, `namespace` is the
    root, `prefix` stands before the path of every mount, and each policy and role carries the space's name.
    Pods and grants speak in the plain names either way (`secret/data/…`, role `default`); `path`, `role` and
    the others give OpenBao's.
    """

    name: str
    namespace: str
    prefix: str = ""

    @classmethod
    def recorded(cls, name: str, namespace: str) -> Self:
        """The space that a registration names; it tells by the namespace which form it has."""
        return cls(name, namespace, "" if namespace else f"{OURS}{name}/")

    # Mounts

    @property
    def secret(self) -> str:
        """KV version 2."""
        return f"{self.prefix}secret"

    @property
    def transit(self) -> str:
        """Keys that encrypt for the cluster."""
        return f"{self.prefix}transit"

    @property
    def pki_tunnel(self) -> str:
        """The tunnel CA."""
        return f"{self.prefix}pki-tunnel"

    @property
    def pki_pod(self) -> str:
        """The pod CA."""
        return f"{self.prefix}pki-pod"

    @property
    def jwt(self) -> str:
        """The login of pods and operator, below `auth/`."""
        return f"{self.prefix.rstrip('/')}-jwt" if self.prefix else "jwt"

    @property
    def shown(self) -> str:
        """Where it is, for a person."""
        return self.namespace or self.prefix

    @property
    def mounts(self) -> tuple[str, ...]:
        """Every mount of the space in the form in which OpenBao lists it."""
        return (self.secret, self.transit, self.pki_tunnel, self.pki_pod, f"auth/{self.jwt}")

    def path(self, asked: str) -> str:
        """OpenBao's path for what a pod or a grant calls `asked`."""
        return self.prefix + asked

    def asked(self, path: str) -> str:
        """What a pod calls OpenBao's `path`."""
        return path.removeprefix(self.prefix)

    def own(self, mounts: Mapping[str, Info]) -> dict[str, Info]:
        """Of everything mounted where the space is (`sys/mounts`), what is the space's, by plain name."""
        return {self.asked(path): info for path, info in mounts.items() if path.startswith(self.prefix)}

    # Policies and roles

    @property
    def default_policy(self) -> str:
        """Policy of any pod."""
        return self._named(DEFAULT_POD_POLICY)

    @property
    def operator_policy(self) -> str:
        """Policy of the cluster's operator."""
        return self._named(OPERATOR_POLICY)

    @property
    def pod_policies(self) -> str:
        """How the policies of all grants begin, and no other policy."""
        return POD_POLICY_PREFIX + self._tag

    def pod_policy(self, namespace: str, service_account: str) -> str:
        """Policy of one Kubernetes namespace and ServiceAccount ("" for any)."""
        return self.own_pod_policy(pod_policy_name(namespace, service_account))

    def own_pod_policy(self, plain: str) -> str:
        """OpenBao's name of a grant's policy; what is none stays as it is."""
        if not plain.startswith(POD_POLICY_PREFIX):
            return plain
        return self.pod_policies + plain.removeprefix(POD_POLICY_PREFIX)

    @property
    def policies(self) -> tuple[str, str]:
        """The policies that every space has."""
        return (self.default_policy, self.operator_policy)

    def role(self, plain: str) -> str:
        """OpenBao's name of the JWT role that pods and records call `plain`."""
        return self._tag + plain

    def role_path(self, plain: str) -> str:
        """Where that JWT role is."""
        return f"auth/{self.jwt}/role/{self.role(plain)}"

    @property
    def login_config(self) -> str:
        """Where the keys are that logins are checked with."""
        return f"auth/{self.jwt}/config"

    @property
    def pod_token_role(self) -> str:
        """Token role under which the operator makes tokens for its pods."""
        return self._named(POD_TOKEN_ROLE)

    @property
    def login_origins(self) -> tuple[str, ...]:
        """Prefixes of the leases of all tokens that were issued to the cluster by login or token role."""
        if not self.prefix:
            return ("auth",)
        return (f"auth/{self.jwt}", f"auth/token/create/{self.pod_token_role}")

    @property
    def _tag(self) -> str:
        return f"{self.name}_" if self.prefix else ""

    def _named(self, plain: str) -> str:
        return f"{plain}_{self.name}" if self.prefix else plain


class Layout:
    """Paths of the records (in `state_mount` of `system_namespace`) and of the spaces, in one of two forms.

    Without namespaces `system_namespace` is "", the root.
    """

    shared_mount: Final = "shared"
    clusters: Final = "clusters"
    bridges: Final = "bridges"
    pairs: Final = "system"

    def __init__(self, system_namespace: str = SYSTEM_NAMESPACE, form: Form = Form.NAMESPACES) -> None:
        self.form = form
        self.system_namespace = system_namespace if self.has_namespaces else ""
        self.state_mount = "state" if self.has_namespaces else _RECORDS_MOUNT

    @property
    def has_namespaces(self) -> bool:
        """Whether each space is a namespace."""
        return self.form is Form.NAMESPACES

    @classmethod
    async def detect(cls, client: OpenBao) -> Self:
        """Which layout the server holds or, when it holds none yet, the best it can hold.

        A token of cloudtaser's own names its layout; to any other a mount `cloudtaser` in the root does,
        beside which no namespace of that name can be. CloudtaserError if that mount is something else.
        """
        form = await _form_of_token(client)
        if form is None and await _records_in_root(client):
            form = Form.MOUNTS
        if form is None:
            form = Form.NAMESPACES if await _has_namespaces(client) else Form.MOUNTS
        return cls(form=form)

    @classmethod
    async def choose(cls, client: OpenBao, form: Form | None) -> Self:
        """`detect`, unless the server holds nothing yet and a person wants `form`; UsageError if it cannot
        be had."""
        found = await cls.detect(client)
        if form is None or found.form is form:
            return found
        if found.form is Form.MOUNTS and not await _records_in_root(client):
            raise UsageError(
                "this server has no namespaces", on=client.address, fix="use --layout mounts, or OpenBao"
            )
        if found.form is Form.MOUNTS or await client.find(f"sys/namespaces/{SYSTEM_NAMESPACE}", namespace=""):
            raise UsageError(
                f"this server holds cloudtaser in the layout {found.form} already",
                on=f"--layout {form}",
                fix="leave --layout away: the first registration decides",
            )
        return cls(form=form)

    # Records, as paths inside the state mount

    def record_path(self, record: str, kind: str = "data") -> str:
        """A record's path in OpenBao, below the system namespace; `kind` is data or metadata."""
        return f"{self.state_mount}/{kind}/{record}"

    def shown(self, path: str) -> str:
        """A path of the system namespace as a person finds it from the root."""
        return f"{self.system_namespace}/{path}".lstrip("/")

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

    def pair(self, fingerprint: str, party: str) -> str:
        """A stored pair of certificate and key, in the pre-generated form."""
        return f"{self.pairs}/bridge-{fingerprint}-{party}"

    def pair_records(self, fingerprint: str) -> tuple[str, ...]:
        """All stored pairs of one cluster."""
        return tuple(self.pair(fingerprint, party) for party in PARTIES)

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
        check_space_name(name)
        return Space.recorded(name, f"{self.system_namespace}/{name}" if self.has_namespaces else "")

    def space_of_mount(self, path: str) -> Space | None:
        """The space whose mount `secret` is at `path` of the root; None of any other mount."""
        found = _SECRET_MOUNT.fullmatch(path)
        return Space.recorded(found.group(1), "") if found is not None else None


async def _form_of_token(client: OpenBao) -> Form | None:
    """The layout in which the client's own token was made, if cloudtaser made it."""
    try:
        token: dict[str, Any] = (await client.request("GET", "auth/token/lookup-self")).get("data") or {}
    except OpenBaoError as error:
        if error.status not in (400, 403, 404):
            raise
        return None
    home, origin = str(token.get("namespace_path") or ""), str(token.get("path") or "")
    if f"/{home}".startswith(f"/{SYSTEM_NAMESPACE}/"):
        return Form.NAMESPACES
    if not home and origin.startswith((f"auth/{OURS}", f"auth/token/create/{OURS}")):
        return Form.MOUNTS
    return None


async def _records_in_root(client: OpenBao) -> bool:
    """Whether the records' mount of a server without namespaces is there, and the token may see it."""
    try:
        info = (await client.request("GET", _MOUNT_INFO, namespace="")).get("data") or {}
    except OpenBaoError as error:
        if error.status not in (400, 403, 404):
            raise
        return False
    if info.get("path") != f"{_RECORDS_MOUNT}/":
        return False
    if info.get("type") != "kv" or (info.get("options") or {}).get("version") != "2":
        raise CloudtaserError(
            "something other than kv version 2 is mounted there", on=f"{_RECORDS_MOUNT}/", fix="move it"
        )
    return True


async def _has_namespaces(client: OpenBao) -> bool:
    """A server with namespaces refuses one that does not exist; one without ignores the header."""
    try:
        await client.request("GET", "auth/token/lookup-self", namespace=_NO_NAMESPACE)
    except OpenBaoError as error:
        if error.status == 404 and any("namespace" in message for message in error.messages):
            return True
        if error.status not in (403, 404):
            raise
    return False


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
