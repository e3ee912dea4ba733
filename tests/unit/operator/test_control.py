"""The control stream: what a broker says of itself, what it hears from a bridge, and what it does not put up
with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from cloudtaser.bridge.control import Control as BridgeControl
from cloudtaser.net.tunnel import Tunnel
from cloudtaser.operator.control import Controls
from cloudtaser.operator.metrics import Metrics
from cloudtaser.operator.tunnels import Link
from cloudtaser.version import VERSION
from cloudtaser.wire.control_lines import LINES_LIMIT, MAX_LINE
from cloudtaser.wire.opening import Kind, Opening
from tests.unit.operator.rig import BridgeHalf, Echo, eventually, tunnel_pair


class Lines(Echo):
    """A bridge's end that says what a test tells it to."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in bytes(self.heard).split(b"\n")[:-1]]

    def say(self, fields: object) -> None:
        assert self.transport is not None
        self.transport.write(json.dumps(fields).encode() + b"\n")


@dataclass(eq=False)
class Stub:
    """A link as far as a control stream sees it."""

    tunnel: Tunnel
    bridge: str
    leaving: asyncio.Future[None]


class Rig:
    def __init__(self) -> None:
        self.half = BridgeHalf()
        self.half.others[Kind.CONTROL] = self.accept
        self.ends: list[Lines] = []
        self.metrics = Metrics()
        self.parked = False
        self.hints: list[Link] = []
        self.controls = Controls(
            self.metrics, parked=lambda: self.parked, on_renew=self.hints.append, report_seconds=0.05
        )
        self.links: list[Link] = []

    def accept(self, opening: Opening) -> asyncio.Protocol:
        self.ends.append(Lines())
        return self.ends[-1]

    async def link(self, bridge: str = "b1") -> Link:
        mine, _ = await tunnel_pair(self.half)
        leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.links.append(cast("Link", Stub(mine, bridge, leaving)))
        self.controls.serve(self.links[-1])
        return self.links[-1]

    async def end(self, number: int = 0) -> Lines:
        await eventually(
            lambda: len(self.ends) > number and self.ends[number].lines != [], "a control stream"
        )
        return self.ends[number]

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def stop(self) -> None:
        await self.controls.close()
        for link in self.links:
            link.tunnel.abort()
            await link.tunnel.closed


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.stop()


async def test_the_version_comes_first_and_on_each_tunnel_is_one_stream(rig: Rig) -> None:
    await rig.link()
    await rig.link()
    for number in (0, 1):
        end = await rig.end(number)
        assert end.lines[0] == {"type": "version", "version": VERSION}
    assert [opening.kind for opening in rig.half.openings] == [Kind.CONTROL] * 2
    assert rig.metric("cloudtaser_broker_control_streams") == 2


async def test_parked_is_said_while_we_are_parked_and_again(rig: Rig) -> None:
    await rig.link()
    end = await rig.end()
    await eventually(lambda: {"type": "health"} in end.lines, "a first report")
    assert {"type": "parked"} not in end.lines
    rig.parked = True
    await eventually(lambda: end.lines.count({"type": "parked"}) >= 2, "parked, twice")
    rig.parked = False


async def test_bridges_hear_that_keys_changed(rig: Rig) -> None:
    await rig.link()
    await rig.link()
    ends = [await rig.end(number) for number in (0, 1)]
    rig.controls.keys_changed()
    for end in ends:
        await eventually(lambda end=end: {"type": "keys"} in end.lines, "the hint")  # type: ignore[misc]  # a default that is not inferred
    assert rig.metric("cloudtaser_operator_hints_total", what="keys") == 1


async def test_a_hint_to_renew_names_the_link_that_it_came_on(rig: Rig) -> None:
    await rig.link()
    other = await rig.link("b2")
    end = await rig.end(1)
    end.say({"type": "something new", "with": {"more": 1}})
    end.say({"type": "renew", "later": "fields"})
    await eventually(lambda: rig.hints != [], "the hint")
    assert rig.hints == [other]
    assert rig.metric("cloudtaser_operator_hints_total", what="renew") == 1


async def test_a_bridge_that_lets_nobody_log_in_is_seen_in_the_metrics(rig: Rig) -> None:
    await rig.link()
    end = await rig.end()
    assert rig.metric("cloudtaser_broker_logins_open") == 0
    end.say({"type": "health", "keys": 1, "logins_open": True})
    await eventually(lambda: rig.metric("cloudtaser_broker_logins_open") == 1, "open")
    end.say({"type": "health", "keys": 0, "logins_open": False})
    await eventually(lambda: rig.metric("cloudtaser_broker_logins_open") == 0, "closed")


async def test_a_bridges_version_is_logged_once_and_printable(rig: Rig) -> None:
    with capture_logs() as logs:
        await rig.link()
        await rig.link()
        for number in (0, 1):
            (await rig.end(number)).say({"type": "version", "version": "9.9\n\x1b[31m" + "x" * 100})
            (await rig.end(number)).say({"type": "renew"})
        await eventually(lambda: len(rig.hints) == 2, "both heard")
    said = [entry for entry in logs if "version" in entry]
    assert len(said) == 1
    assert said[0]["version"].isprintable()
    assert len(said[0]["version"]) <= 64


@pytest.mark.parametrize(
    "excess",
    [
        pytest.param(b"x" * (MAX_LINE + 1), id="a line without end"),
        pytest.param(b"{}\n" * (LINES_LIMIT + 1), id="too many lines"),
        pytest.param(b"nonsense\n", id="no JSON"),
        pytest.param(b"[]\n", id="no object"),
    ],
)
async def test_who_is_out_of_bounds_loses_the_stream_but_not_the_tunnel(rig: Rig, excess: bytes) -> None:
    link = await rig.link()
    end = await rig.end()
    assert end.transport is not None
    end.transport.write(excess)
    await asyncio.wait_for(end.lost, 5)
    assert not link.tunnel.closed.done()
    assert rig.hints == []
    await rig.end(1)  # and it is opened anew


async def test_a_bridge_that_refuses_the_stream_is_asked_again_and_not_in_a_storm(rig: Rig) -> None:
    rig.half.others[Kind.CONTROL] = lambda _: None
    await rig.link()
    await eventually(lambda: len(rig.half.openings) >= 2, "asked again")
    assert len(rig.half.openings) < 20


async def test_it_does_not_keep_a_tunnel_open_that_is_being_left(rig: Rig) -> None:
    rig.controls = Controls(rig.metrics, parked=lambda: False, on_renew=rig.hints.append)  # reports are rare
    link = await rig.link()
    await rig.end()
    link.leaving.set_result(None)
    link.tunnel.go_away()
    await asyncio.wait_for(link.tunnel.closed, 5)
    assert link.tunnel.error is None


async def test_broker_and_bridge_understand_each_other(rig: Rig) -> None:
    hints: list[str] = []
    bridge = BridgeControl("b1", lambda: {"logins_open": True}, lambda: hints.append("keys"))
    rig.half.others[Kind.CONTROL] = lambda _: bridge
    rig.parked = True
    await rig.link()
    await eventually(lambda: bridge.broker_version == VERSION, "the version")
    await eventually(lambda: rig.metric("cloudtaser_broker_logins_open") == 1, "the health")
    assert bridge.parked_at > 0
    rig.controls.keys_changed()
    await eventually(lambda: hints == ["keys"], "the hint")
