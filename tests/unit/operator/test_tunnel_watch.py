"""That no tunnel is up is told once, on the operator's pod, and again when one is; a blink is not told."""

from __future__ import annotations

from typing import Any

from cloudtaser.kube.errors import NotFoundError
from cloudtaser.kube.events import Occurred
from cloudtaser.kube.kinds import Kind
from cloudtaser.operator.tunnel_watch import TunnelWatch


class Rig:
    def __init__(self) -> None:
        self.state: dict[str, Any] = {"tunnels": 2}
        self.now = 0.0
        self.told: list[tuple[str, str, str]] = []
        self.missing = False
        self.watch = TunnelWatch(
            lambda: self.state, self, "ns", "pod-1", self, patience=60, clock=lambda: self.now
        )

    async def get_object(self, kind: Kind, namespace: str | None, name: str) -> dict[str, Any]:
        if self.missing:
            raise NotFoundError("none")
        return {"metadata": {"uid": "u-1"}}

    def record(self, occurrence: Occurred) -> None:
        assert (occurrence.kind, occurrence.name, occurrence.uid) == ("Pod", "pod-1", "u-1")
        self.told.append((occurrence.reason, occurrence.type, occurrence.message))

    async def at(self, now: float, **state: Any) -> None:
        self.now, self.state = now, state
        await self.watch.look()


async def test_it_is_told_once_when_it_lasts_and_when_it_is_over() -> None:
    rig = Rig()
    await rig.at(0, tunnels=2)
    for now in (5, 30, 59):
        await rig.at(now, tunnels=0, parked=True)
    assert rig.told == []
    for now in (60, 65, 500):
        await rig.at(now, tunnels=0, parked=True)
    assert [one[:2] for one in rig.told] == [("TunnelDown", "Warning")]
    assert "no bridge comes" in rig.told[0][2]
    await rig.at(505, tunnels=1)
    await rig.at(510, tunnels=2)
    assert [one[0] for one in rig.told] == ["TunnelDown", "TunnelUp"]


async def test_a_blink_is_not_told_and_a_silent_broker_is_named() -> None:
    rig = Rig()
    for now in range(0, 600, 50):
        await rig.at(now, tunnels=now // 50 % 2)
    assert rig.told == []
    await rig.at(1000)
    assert "container broker does not answer" in rig.told[0][2]


async def test_outside_of_a_pod_nothing_is_recorded_and_nothing_fails() -> None:
    rig = Rig()
    rig.missing = True
    await rig.at(100, tunnels=0)
    assert rig.told == []
