"""Status: all bridges and clusters of a server at a glance, and what of it needs a person.

Used by `cloudtaser-cli source status`. It reads records, the bridges' signs of life and which keys OpenBao
checks logins with; it asks no bridge and no cluster. `look` gathers, `judge` is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import ProtocolError
from cloudtaser.openbao import logins, usage
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clock import server_time
from cloudtaser.openbao.clusters import open_layout
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.recorded import recorded_certificate
from cloudtaser.openbao.records import (
    Initialized,
    Keys,
    Records,
    Registered,
    Served,
    Sighting,
    seconds,
)

EXPIRY_SECONDS: Final = 4 * 3600.0
"""A bridge renews its certificates eight hours before their end: with four left it cannot."""
AUTHORITY_SECONDS: Final = 60 * 24 * 3600.0
FORGOTTEN_SECONDS: Final = 24 * 3600.0
"""A bridge that was not seen for a day was taken away on purpose."""
LONG_ROTATION_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Looked:
    """One cluster as it is recorded. `logins_open` is None where the keys in OpenBao cannot be compared."""

    registered: Registered
    initialized: Initialized | None
    keys: Keys | None
    logins_open: bool | None


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """One cluster. `state`: registered, lapsed, initialised, suspended or rotating."""

    fingerprint: str
    state: str
    used: usage.Usage
    certificate_ends: str
    keys_pending: bool
    rotating_since: str
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BridgeStatus:
    """One bridge, and how long ago it gave its last sign of life."""

    sighting: Sighting
    age: float
    live: bool


@dataclass(frozen=True, slots=True)
class Status:
    """The whole. `needs` says what needs a person, one line each, those of the clusters included."""

    bridges: tuple[BridgeStatus, ...]
    clusters: tuple[ClusterStatus, ...]
    needs: tuple[str, ...]


async def look(client: OpenBao, *, layout: Layout | None = None, now: float | None = None) -> Status:
    """The state of everything registered, at OpenBao's time."""
    detected, _ = await open_layout(client)
    layout = layout or detected
    records = Records(client, layout)
    moment = await server_time(client) if now is None else now
    looked: list[Looked] = []
    damaged: dict[str, str] = {}
    sightings = await records.sightings()
    for fingerprint in await records.clusters():
        try:
            registered = await records.registered(fingerprint)
            if registered is not None:
                one = await _look(client, records, layout, registered)
                _cluster(one, sightings, moment)
                looked.append(one)
        except ProtocolError as error:  # of one cluster: it hides no other
            damaged[fingerprint] = error.diagnostic()
    return judge(looked, sightings, moment, damaged)


async def _look(client: OpenBao, records: Records, layout: Layout, registered: Registered) -> Looked:
    fingerprint = registered.fingerprint
    space = layout.space(registered.space)
    initialized = await records.initialized(fingerprint)
    keys, _ = await records.keys(fingerprint)
    wanted = await logins.login_settings(records, fingerprint)
    current = await client.find(space.login_config, namespace=space.namespace)
    opened = logins.holds(current, wanted) if current is not None and wanted is not None else None
    return Looked(registered, initialized, keys, opened)


def judge(
    looked: Sequence[Looked],
    sightings: Sequence[Sighting],
    now: float,
    damaged: Mapping[str, str] | None = None,
) -> Status:
    """What of all this needs a person at `now`, seconds since the epoch. `damaged` says by fingerprint why a
    cluster's records cannot be read."""
    bridges = tuple(
        BridgeStatus(sighting, max(0.0, now - sighting.at), now - sighting.at < usage.LIVE_SECONDS)
        for sighting in sorted(sightings, key=lambda sighting: sighting.bridge.id)
    )
    clusters = tuple(
        _cluster(one, sightings, now)
        for one in sorted(looked, key=lambda one: (one.registered.created_at, one.registered.fingerprint))
    )
    needs = [
        f"bridge {bridge.sighting.bridge.id} has given no sign of life for {bridge.age / 60:.0f} minutes"
        for bridge in bridges
        if not bridge.live and bridge.age < FORGOTTEN_SECONDS
    ]
    if clusters and not any(bridge.live for bridge in bridges):
        needs.append("no bridge is running")
    needs += [
        f"what bridge {sighting.bridge.id} reports cannot be read: {sighting.damage}"
        for sighting in sightings
        if sighting.damage and now - sighting.at < FORGOTTEN_SECONDS
    ]
    needs += [f"{fingerprint}: {why}" for fingerprint, why in sorted((damaged or {}).items())]
    for cluster in clusters:
        needs += [f"{cluster.fingerprint}: {need}" for need in cluster.needs]
    return Status(bridges, clusters, tuple(needs))


def _cluster(one: Looked, sightings: Sequence[Sighting], now: float) -> ClusterStatus:
    registered = one.registered
    used = usage.usage(registered, sightings, now)
    served = {
        sighting.bridge.id: found
        for sighting in used.live
        if (found := sighting.bridge.served.get(registered.fingerprint)) is not None
    }
    ends = {bridge: found.certificate_ends for bridge, found in served.items() if found.certificate_ends}
    pending = (one.keys is not None and one.keys.pending is not None) or any(
        found.keys_pending for found in served.values()
    )
    former = registered.former_tunnel_ca
    return ClusterStatus(
        fingerprint=registered.fingerprint,
        state=_state(one, now),
        used=used,
        certificate_ends=min(ends.values(), default=""),
        keys_pending=pending,
        rotating_since=former.replaced_at if former is not None else "",
        needs=(
            *_needs_of_state(one, used, served, now),
            *(["its signing keys wait for `source accept-keys`"] if pending else []),
            *_needs_of_certificates(registered, ends, now),
            *_needs_of_rotation(one, used, now),
        ),
    )


def _state(one: Looked, now: float) -> str:
    if one.registered.suspended:
        return "suspended"
    if one.initialized is None:
        return "lapsed" if one.registered.lapsed(now) else "registered"
    return "rotating" if one.registered.former_tunnel_ca is not None else "initialised"


def _needs_of_state(one: Looked, used: usage.Usage, served: dict[str, Served], now: float) -> list[str]:
    if one.registered.suspended:
        lines = [
            f"it is suspended, and bridge {bridge} "
            + ("still has tunnels" if found.suspended else "has yet to report that: look again in a minute")
            for bridge, found in served.items()
            if any(found.tunnels.values())
        ]
        return lines + (["it is suspended, and logins are open: suspend it again"] if one.logins_open else [])
    if one.initialized is None:
        return ["its registration lapsed unused: register it again"] if one.registered.lapsed(now) else []
    lines = ["logins are closed though it is not suspended: `source resume`"] * (one.logins_open is False)
    if used.live and not used.tunnels:
        lines.append("no tunnel is open")
    return lines


def _needs_of_certificates(registered: Registered, ends: dict[str, str], now: float) -> list[str]:
    lines = [
        f"the certificates of bridge {bridge} end {end} and are not renewed"
        for bridge, end in ends.items()
        if seconds(end) < now + EXPIRY_SECONDS
    ]
    for name, pem in (("tunnel CA", registered.tunnel_ca), ("pod CA", registered.pod_ca)):
        end_of_ca = recorded_certificate(pem).not_valid_after_utc
        if end_of_ca.timestamp() < now + AUTHORITY_SECONDS:
            lines.append(f"its {name} ends {end_of_ca:%Y-%m-%d}: `source rotate --ca`")
    return lines


def _needs_of_rotation(one: Looked, used: usage.Usage, now: float) -> list[str]:
    former = one.registered.former_tunnel_ca
    if former is None or one.registered.suspended:
        return []
    waiting = usage.obstacles(one.registered, used, now) if one.initialized is not None else []
    if not waiting:
        return ["the rotation of its CAs can end: `source rotate --ca`"]
    if now - seconds(former.replaced_at) > LONG_ROTATION_SECONDS:
        return [f"the rotation of its CAs waits since {former.replaced_at}: {'; '.join(waiting)}"]
    return []
