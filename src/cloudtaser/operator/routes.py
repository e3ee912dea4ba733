"""Routes: how the manager reaches bridges, by streams of kind `operator` on the broker's tunnels.

`Route` is one tunnel to one bridge, `Routes` all of them. In one process they are the tunnels' links
(`LinkRoutes`, for `standalone`); in a pod of two containers they lie behind a Unix socket (`remote_routes`).
Used by `operator_stream` and `bridge_calls`. The TLS in such a stream is the manager's own and under the pod
CA: the broker passes its bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from cloudtaser.operator.tunnels import Link, Tunnels
from cloudtaser.wire.opening import Kind, Opening


class Route(Protocol):
    """One tunnel. Equal to itself only."""

    @property
    def number(self) -> int:
        """Of the tunnel, in the broker's log."""

    @property
    def bridge(self) -> str:
        """Id of the bridge as its certificate says."""

    @property
    def draining(self) -> bool:
        """Whether it takes no new streams."""

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done once the tunnel is gone."""

    async def open(self, protocol: asyncio.Protocol) -> None:
        """Connect `protocol` to the bridge. UnavailableError when the tunnel takes no stream."""


class Routes(Protocol):
    """All tunnels to bridges."""

    @property
    def live(self) -> Sequence[Route]:
        """Those that take new streams, the ones with the fewest streams first."""

    def watch(self, watcher: Callable[[Route], None]) -> None:
        """`watcher` is called for each that comes up from now on."""

    def keys_changed(self) -> None:
        """Hint to every bridge that the cluster's signing keys changed."""


class LinkRoute:
    """A link of a broker in the same process."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def number(self) -> int:
        """See Route."""
        return self._link.number

    @property
    def bridge(self) -> str:
        """See Route."""
        return self._link.bridge

    @property
    def draining(self) -> bool:
        """See Route."""
        return self._link.tunnel.draining

    @property
    def closed(self) -> asyncio.Future[None]:
        """See Route."""
        return self._link.tunnel.closed

    async def open(self, protocol: asyncio.Protocol) -> None:
        """See Route."""
        self._link.tunnel.open(Opening(Kind.OPERATOR, id=f"operator-{self._link.number}"), protocol)


class LinkRoutes:
    """The tunnels of a broker in the same process."""

    def __init__(self, tunnels: Tunnels, keys_changed: Callable[[], None]) -> None:
        self._tunnels = tunnels
        self._keys_changed = keys_changed

    @property
    def live(self) -> list[Route]:
        """See Routes."""
        links = sorted(self._tunnels.live, key=lambda link: link.tunnel.active)
        return [LinkRoute(link) for link in links]

    def watch(self, watcher: Callable[[Route], None]) -> None:
        """See Routes."""
        self._tunnels.watch(lambda link: watcher(LinkRoute(link)))

    def keys_changed(self) -> None:
        """See Routes."""
        self._keys_changed()
