"""What all stations of a bridge share: OpenBao, the doors, the data plane, and whom to tell what happens.

Made by `service`, given to each `station`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.doors import Door, Ways
from cloudtaser.bridge.leaves import Leaves
from cloudtaser.bridge.session import Session
from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.records import Records, Served
from cloudtaser.wire.opening import Opening


@dataclass(frozen=True, slots=True)
class Shared:
    """What all stations of a bridge share."""

    client: OpenBao
    records: Records
    bridge_id: str
    ways: Ways
    """The doors to each cluster's operator."""
    certificate_ttl: float
    now: Callable[[], float]
    """The wall clock, seconds since the epoch."""
    serve: Callable[[Cluster, Opening], asyncio.Protocol]
    """The data plane: what takes a pod's or the operator's stream."""
    failed: Callable[[str, str, str, CloudtaserError], None]
    """Counts and mentions a failure: what, for whom, where, why."""
    reachable: Callable[[Door], None]
    """A beacon or broker took one of us in."""
    keys_changed: Callable[[Cluster, str], None]
    """An event to audit."""
    retire_pods: Callable[[Cluster, frozenset[str]], list[Session]]
    """Winds up the sessions of pods that pin another CA than these; those that need more time."""
    changed: Callable[[], None]
    """Something that `source status` shows."""
    before: Callable[[str], Served | None] = lambda _: None
    """How an earlier run of this bridge, a moment ago, served that cluster."""
    files: tuple[Leaves, ...] = ()
    """Certificates given in files; none unless the bridge was told of some."""
    drain: float = 30.0
    """Seconds that streams under a retired CA get to end."""
