"""The operator's report is read as somebody would who knows the usual causes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.cli.target.diagnosis import DROPS, FAR, Step, read

NOW = 1_790_000_000.0
HOPS = [
    {"name": "API server", "ok": True, "milliseconds": 4.0},
    {"name": "broker", "ok": True, "detail": "3 connections of pods"},
    {"name": "beacon", "ok": True, "detail": "2 tunnels through beacon:443"},
    {"name": "bridge", "ok": True, "detail": "eu-1", "milliseconds": 30.0},
    {"name": "OpenBao", "ok": True},
    {"name": "logins", "ok": True},
]


def stamp(seconds_ago: float) -> str:
    return datetime.fromtimestamp(NOW - seconds_ago, UTC).isoformat()


def error(part: str, code: str, seconds_ago: float = 10.0) -> dict[str, Any]:
    return {"time": stamp(seconds_ago), "part": part, "code": code, "message": "why", "beacon": "b:443"}


def step(name: str, errors: list[dict[str, Any]] | None = None, **changes: Any) -> Step:
    hops = [hop | changes if hop["name"] == name else hop for hop in HOPS]
    return next(one for one in read({"hops": hops, "errors": errors or []}, NOW) if one.name == name)


def test_a_way_that_works_has_nothing_to_fix() -> None:
    steps = read({"hops": HOPS, "errors": []}, NOW)
    assert [one.name for one in steps] == [hop["name"] for hop in HOPS]
    assert all(one.ok and not one.fix and not one.warning for one in steps)


def test_a_broker_that_cannot_reach_the_beacon() -> None:
    found = step("beacon", [error("beacon", "unavailable")], ok=False, detail="connection refused (b:443)")
    assert found.fix == "let the cluster out to that address (TCP 443), if it is the right one"


def test_a_bridge_that_cannot_reach_the_beacon() -> None:
    found = step("beacon", ok=False, detail="parked at b:443, and no bridge comes")
    assert "let the bridge out to that address (TCP 443)" in found.fix
    assert "register this cluster" in found.fix


@pytest.mark.parametrize("code", ["untrusted", "protocol", "tls-handshake"])
def test_a_bridge_with_certificates_of_another_ca(code: str) -> None:
    found = step("beacon", [error("tunnel", code)], ok=False, detail="parked at b:443, and no bridge comes")
    assert "a bridge comes, and no tunnel stands: why" in found.detail
    assert "source register" in found.fix


def test_logins_that_are_not_set_up() -> None:
    assert "source accept-keys" in step("logins", ok=False, detail="no bridge says").fix


def test_a_beacon_far_away() -> None:
    found = step("bridge", milliseconds=FAR + 1)
    assert (found.ok, found.warning) == (True, True)
    assert "run one closer to both sides, or use reverse mode" in found.fix
    assert not step("bridge", milliseconds=FAR).warning


def test_a_beacon_whose_connections_drop() -> None:
    losses = [error("beacon", "unavailable", ago) for ago in range(DROPS)]
    found = step("beacon", losses)
    assert (found.ok, found.warning) == (True, True)
    assert f"{DROPS} losses within the last hour" in found.detail
    old = [error("beacon", "unavailable", 4000.0) for _ in range(DROPS)]
    assert not step("beacon", [*old, *losses[1:]]).warning
    assert not step("beacon", [error("relay", "refused")] * 50).warning


def test_what_was_not_tried_stays_so() -> None:
    assert step("bridge", ok=None, milliseconds=None).ok is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_HOP = st.dictionaries(
    st.sampled_from(["name", "ok", "detail", "fix", "milliseconds"]),
    _JSON | st.sampled_from(["beacon", "bridge", "logins"]),
)


@given(
    st.lists(_HOP, max_size=3), st.lists(st.dictionaries(st.sampled_from(["time", "part", "code"]), _JSON))
)
def test_whatever_the_report_holds_it_is_read(hops: list[Any], errors: list[Any]) -> None:
    assert len(read({"hops": hops, "errors": errors}, NOW)) == len(hops)
