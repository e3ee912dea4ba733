"""Bridge tokens: a bridge's only credential, made by an administrator, shown once.

Used by `cloudtaser-cli source bridge-token`. The token is a periodic orphan of one hour, bound to addresses
where they are given; the bridge renews it, and it is dead an hour after the bridge is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import CloudtaserError, UsageError
from cloudtaser.openbao import policies
from cloudtaser.openbao.client import CasConflict, OpenBao
from cloudtaser.openbao.clusters import not_registered, open_layout, registered_spaces
from cloudtaser.openbao.layout import (
    ADMIN_PROXY_POLICY,
    BRIDGE_POLICY,
    Layout,
    Space,
    bridge_policy_name,
    check_bridge_id,
)
from cloudtaser.openbao.records import Records
from cloudtaser.openbao.roles import PERIOD_SECONDS, bridge_token_role
from cloudtaser.openbao.spaces import ensure_system
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import check_fingerprint


@dataclass(frozen=True, slots=True)
class BridgeToken:
    """A new token (empty in a dry run) and what was done for it. `period` is in seconds."""

    bridge_id: str
    token: Secret
    accessor: str
    policies: tuple[str, ...]
    cidrs: tuple[str, ...]
    period: int
    actions: tuple[Action, ...]


async def make_bridge_token(
    client: OpenBao,
    bridge_id: str,
    *,
    cidrs: Sequence[str] = (),
    clusters: Sequence[str] = (),
    dry_run: bool = False,
    layout: Layout | None = None,
) -> BridgeToken:
    """A token for one bridge: from any address unless `cidrs`, for all clusters unless `clusters`.

    Tokens made for it earlier live on; what they may do follows the policies, which this rewrites.
    """
    check_bridge_id(bridge_id)
    for fingerprint in clusters:
        check_fingerprint(fingerprint)
    bound = networks(cidrs)
    detected, _ = await open_layout(client)
    layout = layout or detected
    steps = Steps(client, dry_run)
    system, own = layout.system_namespace, bridge_policy_name(bridge_id)
    names = await ensure_bridge_policies(steps, layout, bridge_id, clusters)
    role = f"auth/token/roles/{own}"
    await steps.ensure(system, role, bridge_token_role(names, bound), "how its tokens are made")
    body = {"policies": names, "display_name": own, "meta": {"bridge": bridge_id}}
    made = await steps.do("POST", system, f"auth/token/create/{own}", "make the token", body)
    auth = made.get("auth") or {}
    return BridgeToken(
        bridge_id=bridge_id,
        token=Secret(str(auth.get("client_token", ""))),
        accessor=str(auth.get("accessor", "")),
        policies=tuple(names),
        cidrs=tuple(bound),
        period=PERIOD_SECONDS,
        actions=tuple(steps.actions),
    )


async def ensure_bridge_policies(
    steps: Steps, layout: Layout, bridge_id: str, clusters: Sequence[str]
) -> list[str]:
    """Have the policies of one bridge, for all clusters unless `clusters`; their names, sorted."""
    system, own = layout.system_namespace, bridge_policy_name(bridge_id)
    policy = policies.bridge_own_policy(layout, bridge_id, clusters or ("+",))
    names = [own]
    if clusters:
        spaces = [
            (fingerprint, await space_of(steps.client, layout, fingerprint)) for fingerprint in clusters
        ]
        policy = {"path": policies.bridge_policy_for(layout, spaces)["path"] | policy["path"]}
    else:
        names.append(BRIDGE_POLICY)
        await ensure_system(steps, layout)
        await bridge_rights(steps, layout)
    await steps.policy(system, own, policy, f"what bridge {bridge_id} may do")
    return sorted(names)


def networks(cidrs: Sequence[str]) -> list[str]:
    """The networks in the form in which OpenBao answers them; UsageError for what is none."""
    return [_network(cidr) for cidr in cidrs]


async def bridge_rights(
    steps: Steps, layout: Layout, *, beside: tuple[str, Space] | None = None, without: str = ""
) -> None:
    """Have the policies that all bridges' tokens share.

    Without namespaces they name the space of each registered cluster: `beside` that of one which is about to
    be, `without` not that of one which is going. Of several that write them at once none undoes another's.
    """
    system = layout.system_namespace
    for name, make, why in _SHARED:
        for _ in range(_TIMES):
            version, served = None, {}
            if not layout.has_namespaces:  # the version first: whoever registers meanwhile changes it
                version = await steps.policy_version(system, name)
                served = dict(await registered_spaces(steps.client, layout, without=without))
                served |= dict([beside]) if beside else {}
            try:
                await steps.policy(system, name, make(layout, sorted(served.items())), why, version=version)
            except CasConflict:
                continue
            break
        else:
            raise CloudtaserError("the policy is being changed over and over", on=name, fix="run it again")


_TIMES: Final = 8  # others who register at the same moment
_SHARED: Final = (
    (BRIDGE_POLICY, policies.bridge_policy, "what a bridge may do"),
    (ADMIN_PROXY_POLICY, policies.admin_proxy_policy, "what a bridge may do for an administrator"),
)


async def space_of(client: OpenBao, layout: Layout, fingerprint: str) -> Space:
    """The space of a registered cluster; CloudtaserError when it is not registered."""
    recorded = await Records(client, layout).registered(fingerprint)
    if recorded is None:
        raise not_registered(fingerprint)
    return layout.space(recorded.space)


def _network(text: str) -> str:
    """A network in the form in which OpenBao answers it: a single host without its length."""
    try:
        network = ipaddress.ip_network(text, strict=True)
    except ValueError:
        raise UsageError(
            f"not a network: {text[:80]!r}", on="--cidr", fix="give it as 10.1.2.3/32 or 10.1.0.0/16"
        ) from None
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)
