"""Clusters: which are registered, in which state, and where each has its space.

Used by `cloudtaser-cli source list | show` and by everything that first asks whether a cluster is known.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from cloudtaser.errors import CloudtaserError, NotAuthorisedError, ProtocolError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clock import server_time
from cloudtaser.openbao.form import Form
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.records import Records, Registered
from cloudtaser.openbao.usage import Usage, usage
from cloudtaser.wire.hashes import check_fingerprint


async def open_layout(client: OpenBao, form: Form | None = None) -> tuple[Layout, str]:
    """The server's layout and the display name of the token; NotAuthorisedError if that is not valid.

    `form` is the layout that a first registration wants.
    """
    layout = await Layout.choose(client, form)
    try:
        token = await client.lookup_self()
    except NotAuthorisedError as error:
        raise NotAuthorisedError(
            "OpenBao does not accept the token",
            on=client.address,
            fix="give a valid one in VAULT_TOKEN, BAO_TOKEN or with --vault-token-file",
        ) from error
    return layout, str(token.get("display_name") or "unknown")


@dataclass(frozen=True, slots=True)
class ClusterState:
    """One line of `source list`. `state`: registered, lapsed, initialised, suspended or damaged."""

    fingerprint: str
    space: str
    state: str
    registered_at: str
    initialized_at: str
    tunnel_ca: str


async def list_clusters(
    client: OpenBao, *, layout: Layout | None = None, now: float | None = None
) -> list[ClusterState]:
    """All registered clusters, oldest first."""
    detected, _ = await open_layout(client)
    records = Records(client, layout or detected)
    moment = time.time() if now is None else now
    found = []
    for fingerprint in await records.clusters():
        try:
            recorded = await records.registered(fingerprint)
            if recorded is not None:
                found.append(await _state(records, recorded, moment))
        except ProtocolError:  # of one cluster: it hides no other, and `show` says what it is
            found.append(ClusterState(fingerprint, "", "damaged", "", "", ""))
    return sorted(found, key=lambda cluster: (cluster.registered_at, cluster.fingerprint))


@dataclass(frozen=True, slots=True)
class ClusterView:
    """One registered cluster: as it was registered, in which state it is, and who uses its CAs."""

    registered: Registered
    state: ClusterState
    used: Usage
    layout: Layout


async def show(
    client: OpenBao, fingerprint: str, *, layout: Layout | None = None, now: float | None = None
) -> ClusterView:
    """One registered cluster; CloudtaserError if it is not."""
    check_fingerprint(fingerprint)
    detected, _ = await open_layout(client)
    layout = layout or detected
    records = Records(client, layout)
    recorded = await records.registered(fingerprint)
    if recorded is None:
        raise not_registered(fingerprint)
    state = await _state(records, recorded, time.time() if now is None else now)
    moment = await server_time(client) if now is None else now
    return ClusterView(recorded, state, usage(recorded, await records.sightings(), moment), layout)


def not_registered(fingerprint: str) -> CloudtaserError:
    """The error of every command about a cluster that nobody registered."""
    return CloudtaserError(
        "the cluster is not registered",
        on=fingerprint,
        fix=f"run `cloudtaser-cli source register --fingerprint {fingerprint}`",
    )


async def _state(records: Records, recorded: Registered, now: float) -> ClusterState:
    initialized = await records.initialized(recorded.fingerprint)
    state = "initialised" if initialized else "lapsed" if recorded.lapsed(now) else "registered"
    return ClusterState(
        fingerprint=recorded.fingerprint,
        space=recorded.space,
        state="suspended" if recorded.suspended else state,
        registered_at=recorded.created_at,
        initialized_at=initialized.at if initialized else "",
        tunnel_ca=recorded.info_hash,
    )


async def registered_spaces(client: OpenBao, layout: Layout, *, without: str = "") -> list[tuple[str, Space]]:
    """Fingerprint and space of every registered cluster, in the order of the fingerprints."""
    records = Records(client, layout)
    listed = [fingerprint for fingerprint in sorted(await records.clusters()) if fingerprint != without]
    found = [await records.registered(fingerprint) for fingerprint in listed]
    return [(record.fingerprint, layout.space(record.space)) for record in found if record is not None]
