"""Accepting keys: a person confirms a set of signing keys that shares none with the recorded one.

Used by `cloudtaser-cli source accept-keys`. A bridge puts such a set aside (`Keys.pending`); here it becomes
the set that logins are checked with, and bridges take it up with their next poll (spec/wire.md, "Keys of the
cluster").
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cloudtaser.errors import CloudtaserError, DiffersError, UsageError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clock import server_time
from cloudtaser.openbao.clusters import not_registered, open_layout
from cloudtaser.openbao.jwks import SigningKey, digest, signing_keys
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Records, instant
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.wire.hashes import check_fingerprint


@dataclass(frozen=True, slots=True)
class AcceptedKeys:
    """What a run came to: the set that counted, and the one that counts now (would, in a dry run)."""

    fingerprint: str
    old: tuple[SigningKey, ...]
    new: tuple[SigningKey, ...]
    digest: str
    pending_at: str
    changed: bool
    actions: tuple[Action, ...]


async def accept_keys(
    client: OpenBao,
    fingerprint: str,
    *,
    only: str = "",
    dry_run: bool = False,
    layout: Layout | None = None,
    now: float | None = None,
) -> AcceptedKeys:
    """Have the set that waits count. With `only` (its digest) no other set than that one is accepted.

    Nothing happens where none waits. Raises DiffersError when another set waits, or counts, than `only`;
    CasConflict when a bridge wrote meanwhile.
    """
    check_fingerprint(fingerprint)
    if only and not only.startswith("sha256:"):
        raise UsageError("not a digest of a key set", on="--digest", fix="give it as accept-keys prints it")
    detected, _ = await open_layout(client)
    layout = layout or detected
    records, steps = Records(client, layout), Steps(client, dry_run)
    if await records.registered(fingerprint) is None:
        raise not_registered(fingerprint)
    initialized = await records.initialized(fingerprint)
    if initialized is None:
        raise CloudtaserError(
            "the cluster has not come in yet: it has no keys", on=fingerprint, fix="see `source show`"
        )
    keys, version = await records.keys(fingerprint)
    current = keys.jwks if keys is not None else initialized.keys
    pending = keys.pending if keys is not None else None
    wanted = pending if pending is not None else current
    if only and digest(wanted) != only:
        raise DiffersError(
            "another set of keys is waiting" if pending is not None else "no such set of keys is waiting",
            on=digest(wanted) if pending is not None else only,
            fix="see with --dry-run which one is",
        )
    path = layout.record_path(layout.keys(fingerprint))
    if keys is None or pending is None:
        steps.fine(layout.system_namespace, path, "the keys that logins are checked with")
    else:
        moment = await server_time(client) if now is None else now
        why = "check logins with the keys that waited: bridges take them up with their next poll"
        steps.actions.append(Action("POST", layout.system_namespace, path, why, True, {"jwks": pending}))
        if not dry_run:
            record = replace(keys, jwks=pending, read_at=instant(moment), pending=None, pending_at="")
            await records.write_keys(fingerprint, record, version)
    return AcceptedKeys(
        fingerprint=fingerprint,
        old=signing_keys(current),
        new=signing_keys(wanted),
        digest=digest(wanted),
        pending_at=keys.pending_at if keys is not None else "",
        changed=steps.changed,
        actions=tuple(steps.actions),
    )
