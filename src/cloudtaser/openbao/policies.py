"""Policies: what each party may do in OpenBao, as JSON, with nothing beyond (spec/openbao.md, "Policies").

Pure. Used by `registration`, `grants` and `bridge_token`, which store them. No policy lets its holder write
a policy or a role, to read a secret that is not a pod's own, or to have a certificate signed verbatim.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.pki import PkiRole

Policy = dict[str, Any]
Spaces = Iterable[tuple[str, Space]]

# Tokens are made without OpenBao's own `default` policy, which allows more than this.
_SELF: Final = {
    "auth/token/lookup-self": ["read"],
    "auth/token/renew-self": ["update"],
    "auth/token/revoke-self": ["update"],
}
_POD_SELF: Final = _SELF | {
    "sys/capabilities-self": ["update"],
    "sys/leases/lookup": ["update"],
    "sys/leases/renew": ["update"],
}
# The rest of auth/jwt/config would let a bridge make OpenBao fetch keys from elsewhere.
_JWT_CONFIG: Final = ("jwt_validation_pubkeys", "bound_issuer", "jwt_supported_algs")

# Named one by one: a role that is made for administrators is not a bridge's because it exists.
_SIGNED_BY_BRIDGES: Final = (
    PkiRole.BRIDGE,
    PkiRole.BROKER,
    PkiRole.BRIDGE_POD,
    PkiRole.OPERATOR_POD,
    PkiRole.OPERATOR_SEAL,
)
# While a CA is being rotated a bridge shows itself under the former one too; nobody else gets anything there.
_UNDER_FORMER_CAS: Final = (PkiRole.BRIDGE, PkiRole.BRIDGE_POD)


def bridge_policy(layout: Layout, spaces: Spaces = ()) -> Policy:
    """A bridge's rights in the records and, for every cluster's space, what it does there.

    In namespaces a pattern covers all of them. In the root one would cover other people's mounts too (with
    `auth/+/config` a bridge could open any login of the server), so there each of `spaces` is named.
    """
    if layout.has_namespaces:
        return _policy(_bridge_records(layout, "+") | _bridge_space(_pattern_space("+"), "+/"))
    paths = _bridge_records(layout, "+")
    for _, space in spaces:
        paths |= _bridge_space(space, "")
    return _policy(paths)


def bridge_policy_for(layout: Layout, spaces: Spaces) -> Policy:
    """The same for the clusters (fingerprint, space) alone, without a wildcard."""
    paths: dict[str, Any] = {}
    for fingerprint, space in spaces:
        paths |= _bridge_records(layout, fingerprint)
        paths |= _bridge_space(space, _reach(layout, space))
    return _policy(paths)


def bridge_own_policy(layout: Layout, bridge_id: str, clusters: Iterable[str] = ("+",)) -> Policy:
    """A bridge's rights that no other bridge has: its own sign of life, and what it notes of the paths read
    in the clusters of these fingerprints, all by default."""
    own = [layout.bridge(bridge_id), *(layout.reads(fingerprint, bridge_id) for fingerprint in clusters)]
    return _policy({_record(layout, path): ["create", "read", "update"] for path in own} | _SELF)


def admin_proxy_policy(layout: Layout, spaces: Spaces = ()) -> Policy:
    """A bridge's second token: put secrets in for the first time; neither read nor overwrite one."""
    if layout.has_namespaces:
        return _policy(_first_writes(_pattern_space("+"), "+/") | _SELF)
    return admin_proxy_policy_for(layout, (space for _, space in spaces))


def admin_proxy_policy_for(layout: Layout, spaces: Iterable[Space]) -> Policy:
    """The same in these spaces alone, without a wildcard for the space."""
    paths: dict[str, Any] = {}
    for space in spaces:
        paths |= _first_writes(space, _reach(layout, space))
    return _policy(paths | _SELF)


def operator_policy(space: Space) -> Policy:
    """An operator in its space: make tokens for its pods under their own role, renew and take them back.

    Without namespaces an accessor does not show whose it is; the bridge looks first, under this policy.
    """
    paths = {
        f"auth/token/create/{space.pod_token_role}": ["create", "update"],
        "auth/token/renew-accessor": ["update"],
        "auth/token/revoke-accessor": ["update"],
    }
    looks = {"auth/token/lookup-accessor": ["update"]} if space.prefix else {}
    return _policy(paths | looks | _SELF)


def default_pod_policy(space: Space, accessor: str) -> Policy:
    """Any pod: what lies under its own Kubernetes namespace. `accessor` is that of the JWT mount, whose alias
    metadata hold the namespace that the cluster vouched for."""
    namespace = f"{{{{identity.entity.aliases.{accessor}.metadata.namespace}}}}"
    return pod_policy([f"{space.secret}/data/{namespace}/*"], kv_mounts=[space.secret])


def pod_policy(paths: Iterable[str], *, kv_mounts: Iterable[str]) -> Policy:
    """Read exactly these API paths, and of a KV v2 entry its metadata too, by which a change is noticed."""
    allowed: dict[str, Any] = {}
    for path in sorted(paths):
        allowed[path] = ["read"]
        for mount in kv_mounts:
            if path.startswith(f"{mount}/data/"):
                allowed[f"{mount}/metadata/{path.removeprefix(f'{mount}/data/')}"] = ["read"]
    return _policy(allowed | _POD_SELF)


def _bridge_records(layout: Layout, fingerprint: str) -> dict[str, Any]:
    return {
        layout.record_path(layout.clusters, "metadata"): ["list"],
        _record(layout, layout.registered(fingerprint)): ["read"],
        _record(layout, layout.initialized(fingerprint)): ["create", "read"],
        _record(layout, layout.keys(fingerprint)): ["create", "read", "update"],
        _record(layout, layout.grants(fingerprint)): ["read"],
        _record(layout, layout.revoked(fingerprint)): ["read"],
        **{_record(layout, path): ["read"] for path in _pairs(layout, fingerprint)},
    }


def _bridge_space(space: Space, prefix: str) -> dict[str, Any]:
    paths: dict[str, Any] = {
        f"{prefix}{space.login_config}": {
            "capabilities": ["read", "update"],
            "allowed_parameters": {name: [] for name in _JWT_CONFIG},
        }
    }
    paths |= {f"{prefix}{role.mount(space)}/sign/{role}": ["update"] for role in _SIGNED_BY_BRIDGES}
    paths |= {f"{prefix}{role.mount(space)}/issuer/+/sign/{role}": ["update"] for role in _UNDER_FORMER_CAS}
    return paths | {f"{prefix}{mount}/revoke": ["update"] for mount in (space.pki_tunnel, space.pki_pod)}


def _first_writes(space: Space, prefix: str) -> dict[str, Any]:
    """Capability `create` alone: OpenBao asks for `update` where there is a value already."""
    return {f"{prefix}{space.secret}/data/*": ["create"], f"{prefix}{space.secret}/metadata/*": ["read"]}


def _reach(layout: Layout, space: Space) -> str:
    """What stands before a path of the space, seen from where bridges' policies are."""
    return f"{space.name}/" if layout.has_namespaces else ""


def _pairs(layout: Layout, fingerprint: str) -> Iterable[str]:
    """The pairs of a cluster; for any cluster all there are, since `+` stands for a whole segment only."""
    return [f"{layout.pairs}/*"] if fingerprint == "+" else layout.pair_records(fingerprint)


def _pattern_space(name: str) -> Space:
    return Space(name, name)


def _record(layout: Layout, path: str) -> str:
    return layout.record_path(path)


def _policy(paths: dict[str, Any]) -> Policy:
    return {
        "path": {
            path: rule if isinstance(rule, dict) else {"capabilities": rule} for path, rule in paths.items()
        }
    }
