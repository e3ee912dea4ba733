"""Reset: a registered cluster comes in for the first time once more, as if nobody ever had.

Used by `cloudtaser-cli source reset`, when the wrong one came first. New CAs, no keys, no initialisation,
nothing issued lives on; secrets, grants and space stay. The initialisation goes last, as it is what keeps
everybody out until all is clean; a run killed anywhere is completed by the next, which makes no harm of
beginning again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from cloudtaser.errors import CloudtaserError, ProtocolError
from cloudtaser.openbao import pregenerated
from cloudtaser.openbao.authorities import Authority, describe, ensure_successor
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clock import server_time
from cloudtaser.openbao.clusters import not_registered, open_layout
from cloudtaser.openbao.issuers import forget_issuers, stays, use_issuer
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.logins import close, still_closed
from cloudtaser.openbao.records import PathRead, Reads, Records, Registered, instant
from cloudtaser.openbao.registration import UNUSED_SECONDS, new_join_code
from cloudtaser.openbao.revocation import cut_off, revoke_all
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.openbao.usage import usage
from cloudtaser.wire.bootstrap import derive_psk
from cloudtaser.wire.hashes import check_fingerprint

CLOSING_SECONDS: Final = 7.0
"""A poll of the bridges, and a second."""


@dataclass(frozen=True, slots=True)
class Reset:
    """What a run came to. `paths` are those read since the initialisation: what is exposed if that was an
    impostor's; `dropped` counts reads that found a bridge's record full; `unreadable` are the bridges whose
    record of them is damaged. A CA is None in a dry run."""

    registered: Registered
    tunnel_ca: Authority | None
    pod_ca: Authority | None
    join_code: str
    paths: dict[str, PathRead]
    dropped: int
    unreadable: tuple[str, ...]
    left: tuple[str, ...]
    actions: tuple[Action, ...]


async def reset(
    client: OpenBao,
    fingerprint: str,
    *,
    join_code: bool = False,
    dry_run: bool = False,
    layout: Layout | None = None,
    now: float | None = None,
    wait: float = CLOSING_SECONDS,
) -> Reset:
    """Make the registration new, with 24 hours from now. The paths read are told and not yet forgotten: see
    `forget_reads`.

    A cluster that asked for a join code gets a new one, and `join_code` asks for one from now on. Bridges
    that live have `wait` seconds to close its tunnels and to note what was read last. Raises CloudtaserError
    for a cluster that is not registered, CasConflict.
    """
    check_fingerprint(fingerprint)
    detected, _ = await open_layout(client)
    layout = layout or detected
    records, steps = Records(client, layout), Steps(client, dry_run)
    recorded, version = await records.registered_version(fingerprint)
    if recorded is None:
        raise not_registered(fingerprint)
    space = layout.space(recorded.space)
    moment = await server_time(client) if now is None else now
    bridges = usage(recorded, await records.sightings(), moment).live
    code = new_join_code() if join_code or recorded.join_psk else ""
    closed_with = await close(steps, space)
    tunnel_ca, pod_ca = await replace_authorities(steps, space, recorded, moment)
    wanted = replace(
        recorded,
        expires_at=instant(moment + UNUSED_SECONDS),
        join_psk=derive_psk(fingerprint, code).hex() if code else "",
        info_hash=tunnel_ca.fingerprint if tunnel_ca else "",
        tunnel_ca=tunnel_ca.pem if tunnel_ca else recorded.tunnel_ca,
        pod_ca=pod_ca.pem if pod_ca else recorded.pod_ca,
        former_tunnel_ca=None,
        former_pod_cas=(),
        endorsement="",
        rotated_at="",
    )
    if wanted.pregenerated:
        both = pregenerated.Authorities(wanted.tunnel_ca, wanted.pod_ca) if tunnel_ca and pod_ca else None
        await pregenerated.pregenerate(steps, layout, space, fingerprint, both, now=moment)
    path = layout.record_path(layout.registered(fingerprint))
    why = "record the new CAs: bridges leave the former and close their tunnels"
    steps.actions.append(Action("POST", layout.system_namespace, path, why, True))
    if not dry_run:
        await records.write_registered(wanted, version)
    left = await revoke_all(steps, space)
    if bridges and not dry_run and not recorded.suspended:
        await asyncio.sleep(wait)
    for mount, authority in ((space.pki_tunnel, tunnel_ca), (space.pki_pod, pod_ca)):
        await forget_others(steps, space, mount, authority)
    if not await still_closed(steps, space, closed_with):
        # a bridge put the former keys back before it saw the record
        left = await cut_off(steps, space, await close(steps, space))
    if not dry_run:
        await _check_alone(records, wanted)
    for record in (layout.keys(fingerprint), layout.revoked(fingerprint), layout.initialized(fingerprint)):
        path = layout.record_path(record, "metadata")
        await steps.remove(layout.system_namespace, path, f"forget the record {record.rsplit('/', 1)[-1]}")
    noted, unreadable = await _noted(records, fingerprint)
    paths, dropped = merged(noted)
    return Reset(
        registered=wanted,
        tunnel_ca=tunnel_ca,
        pod_ca=pod_ca,
        join_code="" if dry_run else code,
        paths=paths,
        dropped=dropped,
        unreadable=unreadable,
        left=left,
        actions=tuple(steps.actions),
    )


async def _check_alone(records: Records, wanted: Registered) -> None:
    """CloudtaserError if another run made the registration anew: somebody may have come in since."""
    now = await records.registered(wanted.fingerprint)
    if now is None or (now.tunnel_ca, now.pod_ca) != (wanted.tunnel_ca, wanted.pod_ca):
        raise CloudtaserError(
            "somebody else changed the registration meanwhile", on=wanted.fingerprint, fix="run it again"
        )


async def _noted(records: Records, fingerprint: str) -> tuple[list[Reads], tuple[str, ...]]:
    """What bridges noted, and those whose record cannot be read: no bridge can keep a reset from its end."""
    noted, unreadable = [], []
    for bridge in await records.readers(fingerprint):
        try:
            one, _ = await records.reads_of(fingerprint, bridge)
        except ProtocolError:
            unreadable.append(bridge)
        else:
            noted += [one] if one is not None else []
    return noted, tuple(unreadable)


async def forget_reads(client: OpenBao, fingerprint: str, *, layout: Layout | None = None) -> None:
    """Forget which paths were read: call it once somebody was told."""
    check_fingerprint(fingerprint)
    layout = layout or (await open_layout(client))[0]
    records = Records(client, layout)
    for bridge in await records.readers(fingerprint):
        await records.forget(layout.reads(fingerprint, bridge))


async def replace_authorities(
    steps: Steps, space: Space, recorded: Registered, now: float
) -> tuple[Authority | None, Authority | None]:
    """Have both mounts sign with a CA that follows the recorded one; (None, None) in a dry run."""
    made: list[Authority | None] = []
    for mount, name, pem in (
        (space.pki_tunnel, "tunnel CA", recorded.tunnel_ca),
        (space.pki_pod, "pod CA", recorded.pod_ca),
    ):
        successor = await ensure_successor(steps, space.namespace, mount, name, recorded=pem, now=now)
        why = f"sign under the new {name} from now on"
        if successor is None:
            await steps.do("POST", space.namespace, f"{mount}/config/issuers", why)
            made.append(None)
        else:
            await use_issuer(steps, space.namespace, mount, successor, why)
            made.append(describe(successor.pem))
    return made[0], made[1]


async def forget_others(steps: Steps, space: Space, mount: str, authority: Authority | None) -> None:
    """Delete every CA of the mount but this one, and one that another run has follow it just now; in a dry
    run all that are there."""
    keep = stays(authority.pem, authority.fingerprint) if authority is not None else lambda _: False
    why = "nothing is signed under the former CA any more"
    await forget_issuers(steps, space.namespace, mount, keep, why)


def merged(reads: Iterable[Reads]) -> tuple[dict[str, PathRead], int]:
    """What all bridges noted, by path in their order, and how many reads found a record full."""
    paths: dict[str, PathRead] = {}
    dropped = 0
    for noted in reads:
        dropped += noted.dropped
        for path, read in noted.paths.items():
            known = paths.get(path)
            if known is not None:
                first, last = min(known.first, read.first), max(known.last, read.last)
                paths[path] = PathRead(first, last, known.count + read.count)
            else:
                paths[path] = read
    return dict(sorted(paths.items())), dropped
