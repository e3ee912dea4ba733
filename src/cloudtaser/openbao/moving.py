"""Moving: the space of a cluster that is no more becomes that of the cluster which replaces it.

Used by `cloudtaser-cli source move`. What lies in the space stays where it is: secrets, transit keys,
engines. What was the old cluster's own goes: tokens, CAs, keys. The old registration goes last of all, so
that a run killed anywhere is completed by the next, and it is suspended first, so that no bridge serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloudtaser.errors import CloudtaserError, ProtocolError, UsageError
from cloudtaser.openbao import pregenerated
from cloudtaser.openbao.authorities import Authority, describe
from cloudtaser.openbao.bridge_token import bridge_rights
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clock import server_time
from cloudtaser.openbao.clusters import not_registered, open_layout
from cloudtaser.openbao.grants import restore_grants
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.logins import close
from cloudtaser.openbao.records import Grants, Records, Registered
from cloudtaser.openbao.registration import fresh_record, new_join_code, set_up_space
from cloudtaser.openbao.reset import forget_others, forget_reads, replace_authorities
from cloudtaser.openbao.revocation import cut_off
from cloudtaser.openbao.spaces import find_space, give
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.openbao.suspension import write_suspended
from cloudtaser.wire.hashes import check_fingerprint


@dataclass(frozen=True, slots=True)
class Moved:
    """What a run came to. The CA is None in a dry run."""

    space: Space
    tunnel_ca: Authority | None
    join_code: str
    expires_at: str
    left: tuple[str, ...]
    actions: tuple[Action, ...]
    changed: bool


async def move(
    client: OpenBao,
    old: str,
    new: str,
    *,
    join_code: bool = False,
    dry_run: bool = False,
    layout: Layout | None = None,
    now: float | None = None,
) -> Moved:
    """Register `new` with the space and the grants of `old`, and deregister `old`.

    A cluster that asked for a join code gets a new one. Run again after it was done, it changes nothing.
    Raises UsageError when `new` is registered with a space of its own, CloudtaserError when `old` is not
    registered.
    """
    check_fingerprint(old)
    check_fingerprint(new)
    if old == new:
        raise UsageError("old and new cluster are the same", on=old, fix="give two fingerprints")
    detected, created_by = await open_layout(client)
    layout = layout or detected
    records, steps = Records(client, layout), Steps(client, dry_run)
    moment = await server_time(client) if now is None else now
    leaving, coming = await records.registered(old), await records.registered(new)
    if leaving is None:
        return await _done(records, layout, old, new, coming)
    space = layout.space(leaving.space)
    taken = coming.space if coming is not None else await find_space(client, layout, new)
    if taken is not None and taken != space.name:
        raise UsageError(
            "the new cluster has a space of its own already",
            on=taken,
            fix=f"`source deregister --fingerprint {new} --purge` first, if nothing in it is needed",
        )
    await _check_sole(client, layout, space, old, new)
    code, left = "", tuple[str, ...]()
    tunnel_ca: Authority | None
    if coming is None:
        await write_suspended(steps, records, layout, old, suspended=True)
        closed_with = await close(steps, space)
        left = await cut_off(steps, space, closed_with)
        code = new_join_code() if join_code or leaving.join_psk else ""
        tunnel_ca, coming = await _register(
            steps, records, layout, space, leaving, new, created_by, code, moment
        )
    else:
        tunnel_ca = describe(coming.tunnel_ca)
    await bridge_rights(steps, layout, beside=(new, space), without=old)
    await _forget(steps, layout, old)
    if not dry_run:
        await forget_reads(client, old, layout=layout)
    await steps.remove(
        layout.system_namespace,
        layout.record_path(layout.registered(old), "metadata"),
        "forget the old cluster's registration",
    )
    return Moved(
        space=space,
        tunnel_ca=tunnel_ca,
        join_code="" if dry_run else code,
        expires_at=coming.expires_at,
        left=left,
        actions=tuple(steps.actions),
        changed=steps.changed,
    )


async def _check_sole(client: OpenBao, layout: Layout, space: Space, old: str, new: str) -> None:
    """CloudtaserError if a move to a third cluster has been begun and got as far as its registration."""
    records = Records(client, layout)
    for fingerprint in sorted({*await records.clusters()} - {old, new}):
        try:
            other = await records.registered(fingerprint)
        except ProtocolError:  # a damaged record of another cluster is no reason
            continue
        if other is not None and other.space == space.name:
            raise CloudtaserError(
                f"the space is being moved to {fingerprint} already",
                on=space.shown,
                fix=f"run `source move {old} {fingerprint}` again, which completes that",
            )


async def _done(records: Records, layout: Layout, old: str, new: str, coming: Registered | None) -> Moved:
    """A move that was made before, as far as can be told: the space still bears the old cluster's name."""
    if coming is None or coming.space != layout.space(old).name:
        raise not_registered(old)
    if await records.registered(old) is not None:  # pragma: no cover  # somebody registered it just now
        raise CloudtaserError("both clusters are registered", on=f"{old}, {new}", fix="run it again")
    space = layout.space(coming.space)
    return Moved(space, describe(coming.tunnel_ca), "", coming.expires_at, (), (), False)


async def _register(
    steps: Steps,
    records: Records,
    layout: Layout,
    space: Space,
    leaving: Registered,
    new: str,
    created_by: str,
    code: str,
    now: float,
) -> tuple[Authority | None, Registered]:
    """Make the space the new cluster's, and record it. The old cluster's CAs are gone before anybody can use
    a role of the new one."""
    tunnel_ca, pod_ca = await replace_authorities(steps, space, leaving, now)
    await forget_others(steps, space, space.pki_tunnel, tunnel_ca)
    await forget_others(steps, space, space.pki_pod, pod_ca)
    grants = await _copy_grants(steps, records, layout, leaving.fingerprint, new)
    await give(steps, layout, space, new)
    await set_up_space(steps, space, new, None, now)
    await restore_grants(steps, layout, space, new, grants)
    if leaving.pregenerated:
        both = pregenerated.Authorities(tunnel_ca.pem, pod_ca.pem) if tunnel_ca and pod_ca else None
        await pregenerated.pregenerate(steps, layout, space, new, both, now=now)
    await bridge_rights(steps, layout, beside=(new, space), without=leaving.fingerprint)
    wanted = fresh_record(
        new,
        space,
        tunnel_ca,
        pod_ca,
        created_by=created_by,
        code=code,
        broker_addresses=leaving.broker_addresses,
        pregenerate=leaving.pregenerated,
        now=now,
    )
    path = layout.record_path(layout.registered(new))
    why = "record the new cluster: bridges see it from now on"
    steps.actions.append(Action("POST", layout.system_namespace, path, why, True))
    if not steps.dry_run:
        await records.write_registered(wanted, 0)
    return tunnel_ca, wanted


async def _copy_grants(steps: Steps, records: Records, layout: Layout, old: str, new: str) -> Grants:
    """Have the new cluster's record of grants say what the old one's says."""
    grants = await records.grants(old)
    held, version = await records.grants_version(new)
    path = layout.record_path(layout.grants(new))
    why = "the new cluster's pods may read what the old one's might"
    if held == grants:
        steps.fine(layout.system_namespace, path, why)
    else:
        steps.actions.append(Action("POST", layout.system_namespace, path, why, True))
        if not steps.dry_run:
            await records.write_grants(new, grants, version)
    return grants


async def _forget(steps: Steps, layout: Layout, old: str) -> None:
    """Forget the old cluster's records but its registration."""
    for record in (*layout.cluster_records(old), *layout.pair_records(old)):
        if record != layout.registered(old):
            path = layout.record_path(record, "metadata")
            why = f"forget the old cluster's record {record.rsplit('/', 1)[-1]}"
            await steps.remove(layout.system_namespace, path, why)
