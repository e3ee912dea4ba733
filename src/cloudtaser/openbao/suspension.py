"""Suspension: the break-glass of one cluster. Tunnels, tokens and leases end; nothing else is touched.

Used by `cloudtaser-cli source suspend | resume`. The order counts: the registration first, which closes the
tunnels with the bridges' next poll, then OpenBao's logins, then everything issued, as a login that was under
way might otherwise outlive it. Each can be run again and again, also while the other runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.client import CasConflict, OpenBao
from cloudtaser.openbao.clusters import not_registered, open_layout
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.logins import settle
from cloudtaser.openbao.records import Records, Registered
from cloudtaser.openbao.revocation import WAIT, cut_off
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.wire.hashes import check_fingerprint

_TIMES: Final = 8  # others who write the registration at the same time


@dataclass(frozen=True, slots=True)
class Suspension:
    """What a run came to: whether the cluster is suspended now, and what of it could not be revoked yet."""

    fingerprint: str
    suspended: bool
    left: tuple[str, ...]
    actions: tuple[Action, ...]
    changed: bool


async def suspend(
    client: OpenBao,
    fingerprint: str,
    *,
    dry_run: bool = False,
    layout: Layout | None = None,
    wait: float = WAIT,
) -> Suspension:
    """Cut a cluster off: no tunnel, no login, no token, no lease. Its secrets and its registration stay.

    Run again, it does all of it again: it trusts nothing that it finds. CloudtaserError if somebody resumed
    the cluster meanwhile; it is then resumed, and whole.
    """
    check_fingerprint(fingerprint)
    detected, _ = await open_layout(client)
    layout = layout or detected
    records, steps = Records(client, layout), Steps(client, dry_run)
    recorded = await write_suspended(steps, records, layout, fingerprint, suspended=True)
    space = layout.space(recorded.space)
    closed_with = await settle(steps, records, space, recorded)
    left = await cut_off(steps, space, closed_with, wait=wait) if closed_with is not None else ()
    still = recorded if dry_run else await records.registered(fingerprint)
    if still is not None and not still.suspended:
        await settle(steps, records, space, still)  # `cut_off` may have closed what the resumption opened
        raise CloudtaserError("somebody resumed the cluster meanwhile", on=fingerprint, fix="run it again")
    return Suspension(fingerprint, True, left, tuple(steps.actions), steps.changed)


async def resume(
    client: OpenBao, fingerprint: str, *, dry_run: bool = False, layout: Layout | None = None
) -> Suspension:
    """Let a suspended cluster come back: bridges wait for it again, and OpenBao checks logins with its
    recorded keys. CloudtaserError if somebody suspended it meanwhile; it is then suspended."""
    check_fingerprint(fingerprint)
    detected, _ = await open_layout(client)
    layout = layout or detected
    records, steps = Records(client, layout), Steps(client, dry_run)
    recorded = await write_suspended(steps, records, layout, fingerprint, suspended=False)
    if await settle(steps, records, layout.space(recorded.space), recorded) is not None:
        raise CloudtaserError("somebody suspended the cluster meanwhile", on=fingerprint, fix="run it again")
    return Suspension(fingerprint, False, (), tuple(steps.actions), steps.changed)


async def write_suspended(
    steps: Steps, records: Records, layout: Layout, fingerprint: str, *, suspended: bool
) -> Registered:
    """Have the registration say `suspended` or not, whoever else writes it; the registration then."""
    path = layout.record_path(layout.registered(fingerprint))
    for _ in range(_TIMES):
        recorded, version = await records.registered_version(fingerprint)
        if recorded is None:
            raise not_registered(fingerprint)
        if recorded.suspended == suspended:
            steps.fine(layout.system_namespace, path, _why(suspended))
            return recorded
        wanted = replace(recorded, suspended=suspended)
        if not steps.dry_run:
            try:
                await records.write_registered(wanted, version)
            except CasConflict:
                continue
        steps.actions.append(Action("POST", layout.system_namespace, path, _why(suspended), True))
        return wanted
    raise CloudtaserError(
        "the registration is being changed over and over", on=fingerprint, fix="run it again"
    )


def _why(suspended: bool) -> str:
    if suspended:
        return "suspend the cluster: bridges close its tunnels with their next poll"
    return "resume the cluster: bridges wait for it again"
