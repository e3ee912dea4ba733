"""Deregistration: take back what registration gave a cluster, and revoke what was issued to it.

Used by `cloudtaser-cli source deregister`.
"""

from __future__ import annotations

from cloudtaser.errors import CloudtaserError, ProtocolError
from cloudtaser.openbao.bridge_token import bridge_rights
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import open_layout
from cloudtaser.openbao.errors import NotFoundError
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.records import Records
from cloudtaser.openbao.spaces import delete, find_space, leased_prefixes
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.wire.hashes import check_fingerprint


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
    try:
        recorded = await records.registered(fingerprint)
    except ProtocolError:  # damaged: it goes all the same, and with it what bridges went on serving
        recorded = None
    name = recorded.space if recorded else await find_space(client, layout, fingerprint)
    for record in layout.cluster_records(fingerprint):
        path = layout.record_path(record, "metadata")
        await steps.remove(layout.system_namespace, path, f"forget the record {record.rsplit('/', 1)[-1]}")
    if recorded is None or recorded.pregenerated:  # None: a run before this one may have been cut off here
        for record in layout.pair_records(fingerprint):
            path = layout.record_path(record, "metadata")
            await steps.remove(layout.system_namespace, path, "forget a stored pair")
    notes = layout.record_path(layout.all_reads(fingerprint), "metadata")
    for bridge in await client.list(notes, namespace=layout.system_namespace):
        why = f"forget which paths were read through bridge {bridge}"
        await steps.remove(layout.system_namespace, f"{notes}/{bridge}", why)
    if name is not None:
        space = layout.space(name)
        if not layout.has_namespaces:  # there the bridges' policies name each space
            await bridge_rights(steps, layout, without=fingerprint)
        await _empty_space(steps, space)
        if purge:
            await delete(steps, layout, space)
    if not any(action.changed and "/revoke-prefix/" not in action.path for action in steps.actions):
        raise CloudtaserError("no such cluster is registered", on=fingerprint, fix="see `source list`")
    return tuple(steps.actions)


async def _empty_space(steps: Steps, space: Space) -> None:
    """Revoke what the space issued and remove all that registration and grants put there, but no secret."""
    where = space.namespace
    for prefix in await leased_prefixes(steps.client, space):
        await steps.revoke_leases(where, prefix, f"revoke every token and lease of {prefix}/")
    if space.prefix:
        await _forget_identities(steps, space)
    await steps.unmount(where, f"auth/{space.jwt}", "no pod logs in any more")
    await steps.unmount(where, space.pki_tunnel, "the tunnel CA goes")
    await steps.unmount(where, space.pki_pod, "the pod CA goes")
    await steps.remove(where, f"auth/token/roles/{space.pod_token_role}", "no token is made for a pod")
    for policy in await steps.policy_names(where):
        if policy in space.policies or policy.startswith(space.pod_policies):
            await steps.remove_policy(where, policy, "nobody holds it any more")


async def _forget_identities(steps: Steps, space: Space) -> None:
    """Remove who logged in; where the space is a namespace, they are in it and hurt nobody."""
    login = await steps.find("", f"sys/auth/{space.jwt}")
    if login is None:
        return
    for entity, aliases in (await _aliases(steps.client)).items():
        own = [alias for alias, accessor in aliases.items() if accessor == login["accessor"]]
        if own and len(own) == len(aliases):
            await steps.do("DELETE", "", f"identity/entity/id/{entity}", "who logged in is forgotten")
        else:  # an administrator joined it with somebody of another login
            for alias in own:
                await steps.do("DELETE", "", f"identity/entity-alias/id/{alias}", "no such login any more")


async def _aliases(client: OpenBao) -> dict[str, dict[str, str]]:
    """By entity its aliases, and the accessor of the login that each is of."""
    try:
        answer = await client.request("LIST", "identity/entity-alias/id", namespace="")
    except NotFoundError:
        return {}
    found: dict[str, dict[str, str]] = {}
    for alias, info in ((answer.get("data") or {}).get("key_info") or {}).items():
        found.setdefault(str(info.get("canonical_id")), {})[alias] = str(info.get("mount_accessor"))
    return found
