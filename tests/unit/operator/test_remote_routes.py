"""The manager reaches bridges through the broker's socket: it hears of tunnels, and has streams on them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloudtaser.errors import RefusedError, UnavailableError
from cloudtaser.operator.incidents import KEPT, Incidents
from cloudtaser.operator.operator_door import OperatorDoor
from cloudtaser.operator.remote_routes import RemoteRoutes
from cloudtaser.operator.routes import Route
from cloudtaser.operator.seam import frame
from cloudtaser.operator.tunnels import Link, Tunnels
from cloudtaser.wire.opening import Kind, Opening
from tests.unit.operator.rig import BridgeHalf, Echo, eventually, tunnel_pair

UID = os.getuid()


class Said(asyncio.Protocol):
    """Says something once connected; holds the answer."""

    def __init__(self, what: bytes) -> None:
        self.what = what
        self.heard = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.what)

    def data_received(self, data: bytes) -> None:
        self.heard += data


class Rig:
    """Tunnels that stand, the broker's door before them, the manager's routes behind it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "broker.sock")
        self.links: list[Link] = []
        self.watchers: list[Callable[[Link], None]] = []
        self.half = BridgeHalf()
        self.half.others[Kind.OPERATOR] = self.echo
        self.openings: list[Opening] = []
        self.keys = 0
        self.incidents = Incidents()
        self.met: list[Route] = []
        self.routes = RemoteRoutes(self.path, UID)
        self.routes.watch(self.met.append)
        self.task = asyncio.ensure_future(self.routes.run())
        self.door = self.new_door()

    def echo(self, opening: Opening) -> Echo:
        self.openings.append(opening)
        return Echo()

    def new_door(self) -> OperatorDoor:
        self.watchers.clear()
        return OperatorDoor(
            self.path,
            UID,
            cast("Tunnels", self),
            state=lambda: {"tunnels": len(self.live)},
            on_keys=self.on_keys,
            incidents=self.incidents.all,
        )

    def on_keys(self) -> None:
        self.keys += 1

    @property
    def live(self) -> list[Link]:
        return [link for link in self.links if not link.leaving.done()]

    def watch(self, watcher: Callable[[Link], None]) -> None:
        self.watchers.append(watcher)

    async def up(self) -> Link:
        mine, _ = await tunnel_pair(self.half)
        leaving = asyncio.get_running_loop().create_future()
        link: Any = SimpleNamespace(tunnel=mine, bridge="b1", number=len(self.links) + 1, leaving=leaving)
        self.links.append(link)
        for watcher in self.watchers:
            watcher(link)
        return cast("Link", link)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.door.close()
        for link in self.links:
            link.tunnel.abort()
            await link.tunnel.closed


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.door.start()
    yield rig
    await rig.stop()


async def test_tunnels_are_heard_of_those_before_and_those_after(rig: Rig) -> None:
    await rig.up()
    await eventually(lambda: len(rig.routes.live) == 1, "the first")
    await rig.up()
    await eventually(lambda: len(rig.routes.live) == 2, "the second")
    assert [(route.number, route.bridge) for route in rig.met] == [(1, "b1"), (2, "b1")]
    await eventually(lambda: rig.routes.connected, "how the broker is")


async def test_a_stream_on_a_tunnel_carries_bytes_both_ways(rig: Rig) -> None:
    await rig.up()
    await eventually(lambda: bool(rig.met), "a route")
    said = Said(b"x" * 300_000)
    await rig.met[0].open(said)
    await eventually(lambda: len(said.heard) == 300_000, "the echo")
    assert [opening.kind for opening in rig.openings] == [Kind.OPERATOR]
    assert said.transport is not None
    said.transport.close()
    await eventually(
        lambda: len(rig.door.connections) == 1, "the stream is forgotten, the conversation stays"
    )


async def test_a_tunnel_that_leaves_or_ends_is_heard_of(rig: Rig) -> None:
    link = await rig.up()
    await eventually(lambda: bool(rig.met), "a route")
    link.leaving.set_result(None)
    await eventually(lambda: rig.met[0].draining, "it takes no streams")
    with pytest.raises(UnavailableError, match="takes no new streams"):
        await rig.met[0].open(Said(b""))
    assert not rig.met[0].closed.done()
    link.tunnel.abort()
    await asyncio.wait_for(rig.met[0].closed, 10)
    assert rig.routes.live == []


async def test_the_hint_about_keys_arrives(rig: Rig) -> None:
    await eventually(lambda: rig.routes.connected, "the broker is met")
    rig.routes.keys_changed()
    await eventually(lambda: rig.keys == 1, "the hint")


async def test_a_broker_that_is_restarted_is_met_again(rig: Rig) -> None:
    await rig.up()
    await eventually(lambda: bool(rig.met), "a route")
    await rig.door.close()
    await asyncio.wait_for(rig.met[0].closed, 10)
    await eventually(lambda: not rig.routes.connected, "it is away")
    rig.door = rig.new_door()
    await rig.door.start()
    await eventually(lambda: len(rig.routes.live) == 1 and rig.routes.connected, "it is back")
    assert len(rig.met) == 2


async def test_who_has_not_the_managers_uid_is_cut_off(rig: Rig, tmp_path: Path) -> None:
    path = str(tmp_path / "other.sock")
    door = OperatorDoor(path, UID + 1, cast("Tunnels", rig), state=dict, on_keys=rig.on_keys)
    await door.start()
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(frame({"what": "links"}))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 10)
    writer.close()
    await door.close()


async def test_a_broker_with_another_uid_is_not_spoken_to(rig: Rig) -> None:
    await rig.up()
    await eventually(lambda: bool(rig.met), "a route")
    stranger = RemoteRoutes(rig.path, UID + 1)
    task = asyncio.ensure_future(stranger.run())
    with pytest.raises(RefusedError, match=f"has uid {UID}, not {UID + 1}"):
        await stranger._converse(cast("Any", None))
    assert stranger.live == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_no_manager_says_ends_the_connection(rig: Rig) -> None:
    reader, writer = await asyncio.open_unix_connection(rig.path)
    writer.write(frame({"what": "pods"}))
    answer = await asyncio.wait_for(reader.read(-1), 10)
    assert b'"error":"protocol"' in answer
    writer.close()


async def test_the_manager_asks_for_what_went_wrong_at_the_broker(rig: Rig) -> None:
    assert await rig.routes.incidents() == []
    for number in range(KEPT + 5):
        rig.incidents.record("beacon", UnavailableError(f"attempt {number}"), beacon="b:443", delay=0.5)
    told = await rig.routes.incidents()
    assert told == list(rig.incidents.all())
    assert [incident.message for incident in told] == [f"attempt {number}" for number in range(5, KEPT + 5)]
    assert (told[0].code, told[0].beacon, told[0].delay) == ("unavailable", "b:443", 0.5)


async def test_incidents_of_a_broker_that_is_away_are_an_error_and_no_wait(rig: Rig) -> None:
    await rig.door.close()
    with pytest.raises(UnavailableError):
        await rig.routes.incidents()
