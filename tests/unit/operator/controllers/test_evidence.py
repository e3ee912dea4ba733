"""Evidence: the first broken hop is named, with the fix, and nothing behind it is blamed."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.kube.errors import KubeUnavailableError, NotFoundError
from cloudtaser.kube.kinds import Kind
from cloudtaser.kube.verbs import Page
from cloudtaser.net.http import Response
from cloudtaser.operator.controllers.evidence import OperatorEvidence
from cloudtaser.operator.incidents import Incident, Incidents
from tests.unit.operator.parties import Authority

Json = dict[str, Any]
CA = Authority()
STATE: Json = {
    "tunnels": 2,
    "bridges": ["b1"],
    "beacons": ["beacon.example.com:443"],
    "logins_open": 1,
    "bridge_versions": {"b1": "0.1.0"},
    "certificate_expires": 4102444800,
}


class World:
    """API server, broker and bridge as the manager sees them."""

    def __init__(self) -> None:
        self.state: Json = dict(STATE)
        self.status = 200
        self.down: CloudtaserError | None = None
        self.bridge_error: CloudtaserError | None = None
        self.webhooks: list[Json] | None = []
        self.told = [Incident(1.0, "beacon", "unavailable", "cannot reach the beacon")]
        self.queries: list[tuple[str | None, str]] = []

    async def version(self) -> str:
        if self.down:
            raise self.down
        return "v1.34.4"

    async def patch_object(
        self, kind: Kind, namespace: str | None, name: str, patch: Any, *, dry_run: bool = False
    ) -> Json:
        assert (patch, dry_run) == ({}, True)
        if self.webhooks is None:
            raise NotFoundError("none")
        return {"webhooks": self.webhooks}

    async def list_page(
        self, kind: Kind, namespace: str | None = None, *, field_selector: str = "", limit: int = 0
    ) -> Page:
        self.queries.append((namespace, field_selector))
        return Page(({"reason": "x"},), "1")

    async def incidents(self) -> list[Incident]:
        return self.told

    async def request(self, method: str, path: str) -> Response:
        if self.bridge_error:
            raise self.bridge_error
        return self.status, (), b"{}"


def evidence(world: World, *, direct: bool = False, ca: str = CA.pem) -> OperatorEvidence:
    own = Incidents(now=lambda: 2.0)
    own.note("tunnel", "x", "of the manager")
    part = None if direct else world
    return OperatorEvidence(
        world,
        part,
        part,
        certificates=lambda: [("pod CA", CA.pem), ("webhook", ""), ("odd", "nonsense")],
        webhook_name="cloudtaser-operator-webhook",
        webhook_ca=lambda: ca,
        incidents=own,
    )


@pytest.mark.parametrize(
    ("change", "verdicts", "words"),
    [
        ({}, [True] * 6, ""),
        ({"down": KubeUnavailableError("the API server did not answer")}, [False, *[True] * 5], "not answer"),
        ({"state": {}}, [True, False, None, None, None, None], "its container does not answer"),
        (
            {"state": STATE | {"tunnels": 0}},
            [True, True, False, None, None, None],
            "cannot reach the beacon",
        ),
        (
            {"state": STATE | {"tunnels": 0, "parked": True}},
            [True, True, False, None, None, None],
            "no bridge comes",
        ),
        ({"bridge_error": UnavailableError("no answer")}, [True, True, True, False, None, None], "no answer"),
        ({"status": 503}, [True, True, True, True, False, True], "sealed"),
        ({"state": STATE | {"logins_open": 0}}, [*[True] * 5, False], "no bridge says"),
    ],
)
async def test_the_broken_hop_is_named(change: Json, verdicts: list[bool | None], words: str) -> None:
    world = World()
    for name, value in change.items():
        setattr(world, name, value)
    hops = await evidence(world).hops()
    assert [hop.ok for hop in hops] == verdicts
    assert [hop.name for hop in hops] == ["API server", "broker", "beacon", "bridge", "OpenBao", "logins"]
    bad = [hop for hop in hops if hop.ok is False]
    if bad:
        assert words in bad[0].detail


async def test_without_a_broker_there_is_nothing_to_try() -> None:
    hops = await evidence(World(), direct=True).hops()
    assert [(hop.name, hop.ok) for hop in hops] == [("API server", True), ("broker", None)]


async def test_versions_and_certificates_of_all_parts() -> None:
    found = evidence(World())
    assert (await found.versions())["bridge b1"] == "0.1.0"
    states = {one.name: one for one in await found.certificates()}
    assert states["pod CA"].not_after is not None
    assert states["webhook"].problem == "there is none yet"
    assert "not a PEM certificate" in states["odd"].problem
    assert states["tunnel certificate"].not_after is not None


@pytest.mark.parametrize("ends", [10**18, -(10**18), 10**400, "soon"])
async def test_a_broker_that_says_nonsense_of_itself_costs_no_section(ends: Any) -> None:
    world = World()
    world.state |= {"certificate_expires": ends, "beacons": 5, "bridges": None}
    found = evidence(world)
    assert [hop.ok for hop in await found.hops()] == [True] * 6
    assert (await found.certificates())[-1].problem == "there is none yet"


async def test_a_ca_bundle_without_our_ca_is_a_problem() -> None:
    world = World()
    bundle = base64.b64encode((Authority().pem + CA.pem).encode()).decode()
    world.webhooks = [{"name": "a", "failurePolicy": "Fail", "clientConfig": {"caBundle": bundle}}]
    assert (await evidence(world).webhook()).trusted is True
    world.webhooks.append({"name": "b", "clientConfig": {"caBundle": "LS0tCg=="}})
    state = await evidence(world).webhook()
    assert (state.trusted, "pods are not injected" in state.problem) == (False, True)
    assert (await evidence(world, ca="").webhook()).trusted is None
    world.webhooks = None
    assert (await evidence(world).webhook()).configured is False


async def test_only_our_events_of_one_namespace_or_all_are_asked_for() -> None:
    world = World()
    await evidence(world).events("shop")
    await evidence(world).events("")
    selector = "reportingController=cloudtaser.io/operator"
    assert world.queries == [("shop", selector), (None, selector)]


async def test_incidents_are_those_of_both_containers() -> None:
    messages = [one.message for one in await evidence(World()).incidents()]
    assert messages == ["of the manager", "cannot reach the beacon"]
