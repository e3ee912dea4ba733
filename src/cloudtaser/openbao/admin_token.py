"""Admin tokens: a bridge's second token, with which it stores for an administrator what nobody stored before.

Used by `cloudtaser-cli source bridge-token --admin`. Like the first a periodic orphan of one hour, but it can
neither read nor overwrite a value, and nothing that the first can; a bridge without it stores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudtaser.openbao import policies
from cloudtaser.openbao.bridge_token import BridgeToken, networks, space_of
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import open_layout, registered_spaces
from cloudtaser.openbao.layout import ADMIN_PROXY_POLICY, Layout, admin_policy_name, check_bridge_id
from cloudtaser.openbao.roles import PERIOD_SECONDS, bridge_token_role
from cloudtaser.openbao.spaces import ensure_system
from cloudtaser.openbao.steps import Steps
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import check_fingerprint


async def make_admin_token(
    client: OpenBao,
    bridge_id: str,
    *,
    cidrs: Sequence[str] = (),
    clusters: Sequence[str] = (),
    dry_run: bool = False,
    layout: Layout | None = None,
) -> BridgeToken:
    """A second token for one bridge: from any address unless `cidrs`, for all clusters unless `clusters`."""
    check_bridge_id(bridge_id)
    for fingerprint in clusters:
        check_fingerprint(fingerprint)
    bound = networks(cidrs)
    detected, _ = await open_layout(client)
    layout = layout or detected
    steps = Steps(client, dry_run)
    system, own = layout.system_namespace, admin_policy_name(bridge_id)
    if clusters:
        spaces = [await space_of(client, layout, fingerprint) for fingerprint in clusters]
        name, policy = own, policies.admin_proxy_policy_for(layout, spaces)
    else:
        registered = [] if layout.has_namespaces else await registered_spaces(client, layout)
        name, policy = ADMIN_PROXY_POLICY, policies.admin_proxy_policy(layout, registered)
        await ensure_system(steps, layout)
    await steps.policy(system, name, policy, "what a bridge may do for an administrator")
    role = bridge_token_role([name], bound)
    await steps.ensure(system, f"auth/token/roles/{own}", role, "how its admin tokens are made")
    body = {"policies": [name], "display_name": own, "meta": {"bridge": bridge_id}}
    made = await steps.do("POST", system, f"auth/token/create/{own}", "make the admin token", body)
    auth = made.get("auth") or {}
    return BridgeToken(
        bridge_id=bridge_id,
        token=Secret(str(auth.get("client_token", ""))),
        accessor=str(auth.get("accessor", "")),
        policies=(name,),
        cidrs=tuple(bound),
        period=PERIOD_SECONDS,
        actions=tuple(steps.actions),
    )
