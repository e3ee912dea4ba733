"""Deregistration: take back what registration gave a cluster, and revoke what was issued to it.

Used by `cloudtaser-cli source deregister`.
"""

from __future__ import annotations

import asyncio
from typing import Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import find_space, open_layout
from cloudtaser.openbao.layout import (
    DEFAULT_POD_POLICY,
    OPERATOR_POLICY,
    POD_POLICY_PREFIX,
    POD_TOKEN_ROLE,
    Layout,
    Space,
)
from cloudtaser.openbao.records import Records
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.wire.hashes import check_fingerprint

_DELETION_WAIT: Final = 60.0  # seconds
_DELETION_POLL: Final = 0.1
_OF_OPENBAO: Final = ("system", "identity", "cubbyhole")
_WITHOUT_LEASES: Final = (*_OF_OPENBAO, *(f"ns_{kind}" for kind in _OF_OPENBAO), "kv", "transit", "pki")


async def deregister(
    client: OpenBao,
    fingerprint: str,
    *,
    purge: bool = False,
    dry_run: bool = False,
    layout: Layout | None = None,
) -> tuple[Action, ...]:
    """Remove a cluster: its records, what was issued to it, its CAs and roles; with `purge` its secrets too.

    The registration's record goes first, so that bridges close its tunnels; a run killed after that is
    completed by the next. CloudtaserError if nothing of the cluster is there.
    """
    check_fingerprint(fingerprint)
    detected, _ = await open_layout(client)
    layout = layout or detected
    records, steps = Records(client, layout), Steps(client, dry_run)
    recorded = await records.registered(fingerprint)
    name = recorded.space if recorded else await find_space(client, layout, fingerprint)
    system = layout.system_namespace
    for record in layout.cluster_records(fingerprint):
        path = f"{layout.state_mount}/metadata/{record}"
        await steps.remove(system, path, f"forget the record {record.rsplit('/', 1)[-1]}")
    if name is not None:
        await _empty_space(steps, layout.space(name))
        if purge:
            path = f"sys/namespaces/{name}"
            await steps.do("DELETE", system, path, "delete the space with all its secrets")
            if not dry_run:
                await _until_gone(steps, system, path)
    if not any(action.changed and "/revoke-prefix/" not in action.path for action in steps.actions):
        raise CloudtaserError("no such cluster is registered", on=fingerprint, fix="see `source list`")
    return tuple(steps.actions)


async def _until_gone(steps: Steps, namespace: str, path: str) -> None:
    """OpenBao deletes a namespace in the background."""
    try:
        async with asyncio.timeout(_DELETION_WAIT):
            while await steps.find(namespace, path) is not None:  # noqa: ASYNC110  # OpenBao tells nobody
                await asyncio.sleep(_DELETION_POLL)
    except TimeoutError:
        raise CloudtaserError(
            "the space is still being deleted", on=namespace, fix="OpenBao goes on by itself; see its log"
        ) from None


async def _empty_space(steps: Steps, space: Space) -> None:
    """Revoke what the space issued and remove all that registration and grants put there, but no secret."""
    where = space.namespace
    mounts = await steps.client.request("GET", "sys/mounts", namespace=where)
    leased = [path for path, mount in sorted(mounts["data"].items()) if mount["type"] not in _WITHOUT_LEASES]
    for prefix in ["auth", *(path.rstrip("/") for path in leased)]:
        await steps.revoke_leases(where, prefix, f"revoke every token and lease of {prefix}/")
    await steps.unmount(where, f"auth/{space.jwt}", "no pod logs in any more")
    await steps.unmount(where, space.pki_tunnel, "the tunnel CA goes")
    await steps.unmount(where, space.pki_pod, "the pod CA goes")
    await steps.remove(where, f"auth/token/roles/{POD_TOKEN_ROLE}", "no token is made for a pod")
    for policy in await steps.policy_names(where):
        if policy in (DEFAULT_POD_POLICY, OPERATOR_POLICY) or policy.startswith(POD_POLICY_PREFIX):
            await steps.remove_policy(where, policy, "nobody holds it any more")
