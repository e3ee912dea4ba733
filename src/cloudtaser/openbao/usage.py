"""Usage: what bridges report of a cluster, counted by CA, and what of it keeps a rotation from its end.

Pure. Used by `rotation`, and by `source show` and `source status`, from the bridges' signs of life. Their age
is by OpenBao's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from cloudtaser.openbao.recorded import recorded_certificate
from cloudtaser.openbao.records import Registered, Served, Sighting, seconds
from cloudtaser.wire.hashes import operational_room, pod_ca_label

LIVE_SECONDS: Final = 180.0
"""A bridge that gave no sign of life for so long is taken for gone; they give one a minute."""
WINDOW_SECONDS: Final = 600.0
"""For so long a bridge counts a pod after it last came."""
SHORT: Final = 12  # hex digits of a tunnel CA's hash, as in `Served.tunnels`


@dataclass(frozen=True, slots=True)
class CaUse:
    """One CA of a cluster: its short hash as people compare it, and who uses it now."""

    name: str
    short: str
    former: bool
    count: int = 0
    bridges: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the bridges that live report of a cluster. `silent` are those that have not reported lately."""

    tunnel_cas: tuple[CaUse, ...]
    pod_cas: tuple[CaUse, ...]
    live: tuple[Sighting, ...]
    silent: tuple[Sighting, ...]

    @property
    def tunnels(self) -> int:
        """Open tunnels under all CAs."""
        return sum(ca.count for ca in self.tunnel_cas)

    @property
    def pods(self) -> int:
        """Pods seen in the last ten minutes under all CAs."""
        return sum(ca.count for ca in self.pod_cas)


def tunnel_ca_short(pem: str) -> str:
    """The first 12 hex digits of a tunnel CA's SHA-256."""
    return operational_room(_der(pem)).hex()[:SHORT]


def pod_ca_short(pem: str) -> str:
    """The first 8 hex digits of a pod CA's SHA-256, as in the SNI."""
    return pod_ca_label(_der(pem))


def usage(registered: Registered, sightings: Iterable[Sighting], now: float) -> Usage:
    """What bridges report of one cluster at `now`, seconds since the epoch."""
    known = sorted(sightings, key=lambda sighting: sighting.bridge.id)
    live = tuple(sighting for sighting in known if now - sighting.at < LIVE_SECONDS)
    served = {
        sighting.bridge.id: sighting.bridge.served.get(registered.fingerprint, Served()) for sighting in live
    }
    former_tunnel = [registered.former_tunnel_ca.pem] if registered.former_tunnel_ca else []
    former_pod = [former.pem for former in registered.former_pod_cas]
    tunnels = {bridge: one.tunnels for bridge, one in served.items()}
    pods = {bridge: {ca: use.pods for ca, use in one.pod_cas.items()} for bridge, one in served.items()}
    return Usage(
        tunnel_cas=_uses("tunnel CA", tunnel_ca_short, registered.tunnel_ca, former_tunnel, tunnels),
        pod_cas=_uses("pod CA", pod_ca_short, registered.pod_ca, former_pod, pods),
        live=live,
        silent=tuple(sighting for sighting in known if sighting not in live),
    )


def obstacles(registered: Registered, used: Usage, now: float) -> list[str]:
    """Why the rotation under way may not end yet, one line each; none if it may."""
    former = registered.former_tunnel_ca
    assert former is not None
    began = seconds(former.replaced_at)
    if registered.suspended:
        return ["the cluster is suspended: nobody can take up the new CAs"]
    if not used.live:
        return [f"no bridge gave a sign of life in the last {LIVE_SECONDS / 60:.0f} minutes"]
    lines = [
        f"what bridge {sighting.bridge.id} reports cannot be read: {sighting.damage}"
        for sighting in used.live
        if sighting.damage
    ]
    lines += [
        f"bridge {sighting.bridge.id} has not reported since the rotation began"
        for sighting in used.live
        if sighting.at < began
    ]
    lines += [
        f"bridge {bridge} has {_count(count, what)} under the former {ca.name} {ca.short}"
        for cas, what in ((used.tunnel_cas, "tunnel"), (used.pod_cas, "pod"))
        for ca in cas
        if ca.former
        for bridge, count in ca.bridges.items()
    ]
    lines += [
        f"bridge {sighting.bridge.id} started during the rotation and has not yet watched its pods for "
        f"{WINDOW_SECONDS / 60:.0f} minutes"
        for sighting in used.live
        if (started := _started(sighting)) > began and now - started < WINDOW_SECONDS
    ]
    if not any(ca.count for ca in used.tunnel_cas if not ca.former):
        lines.append(
            f"no tunnel under the new tunnel CA {tunnel_ca_short(registered.tunnel_ca)} was seen yet"
        )
    return lines


def _uses(
    name: str,
    short: Callable[[str], str],
    current: str,
    former: Sequence[str],
    counts: Mapping[str, Mapping[str, int]],
) -> tuple[CaUse, ...]:
    found = []
    for pem, is_former in ((current, False), *((pem, True) for pem in former)):
        digits = short(pem)
        bridges = {bridge: by_ca[digits] for bridge, by_ca in counts.items() if by_ca.get(digits)}
        found.append(CaUse(name, digits, is_former, sum(bridges.values()), bridges))
    return tuple(found)


def _started(sighting: Sighting) -> float:
    return seconds(sighting.bridge.started_at) if sighting.bridge.started_at else 0.0


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _der(pem: str) -> bytes:
    return recorded_certificate(pem).public_bytes(Encoding.DER)
