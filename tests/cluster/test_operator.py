"""The operator with a real API server, beacon, bridge and OpenBao: it gets in by itself, and comes back."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.kinds import PODS
from cloudtaser.operator.certificates import load_bundle
from cloudtaser.wire.names import OPERATOR_SUBJECT
from tests.chain_tools import eventually
from tests.charts import NAMESPACE
from tests.cluster.accounts import EVERYTHING, account, client, namespace
from tests.cluster.operator_world import NAME, OperatorWorld, Replica, is_injected, pod

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

STRICT = "strict"
"""A namespace where admission fails closed, so that nothing that goes wrong stays unseen."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world(operator_world: OperatorWorld) -> OperatorWorld:
    """One replica, and a namespace in which it has to do its work."""
    await namespace(operator_world.plane, STRICT, {"cloudtaser.io/enforce": "required"})
    return operator_world


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def user(world: OperatorWorld) -> AsyncIterator[KubeApi]:
    """Somebody who makes pods."""
    async with client(world.plane, await account(world.plane, STRICT, "user", EVERYTHING)) as kube:
        yield kube


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def three(world: OperatorWorld) -> list[Replica]:
    """Three replicas, all ready."""
    more = [world.replica() for _ in range(2)]
    await asyncio.gather(*(one.start() for one in more))
    await asyncio.gather(*(one.up() for one in more))
    return world.replicas


async def inject(user: KubeApi) -> bool:
    """Whether a pod that is made now gets the wrapper. Raises when it is refused."""
    return is_injected(await user.create_object(PODS, pod(), STRICT, dry_run=True))


async def injected_in_the_end(user: KubeApi) -> None:
    async def works() -> bool:
        try:
            return await inject(user)
        except CloudtaserError:
            return False

    await eventually(works, "a pod is injected", timeout=90, every=0.2)


async def cas(world: OperatorWorld, kind: str = "mutating") -> list[int]:
    """How many CAs each entry of a configuration names; 0 for one that names none."""
    bundles = [one["clientConfig"].get("caBundle") for one in (await world.configuration(kind))["webhooks"]]
    return [len(load_bundle(base64.b64decode(one).decode(), "CAs")) if one else 0 for one in bundles]


async def test_it_gets_in_from_nothing_but_the_beacons_address(world: OperatorWorld, user: KubeApi) -> None:
    trust = await world.plane.get("configmap", "cloudtaser-trust", "-n", NAMESPACE)
    assert trust["data"]["fingerprint"] == world.fingerprint
    assert (await world.plane.get("configmap", "cloudtaser-ca", "-n", NAMESPACE))["data"]["pod-ca.crt"]
    first = world.replicas[0]
    status, text = await first.readyz()
    assert (status, "+ webhook" in text, "+ pod CA" in text) == (200, True, True)

    async def connected() -> bool:
        return "broker tunnels: 2" in (await first.readyz())[1]

    await eventually(connected, "two tunnels, as the manager knows from its broker")
    assert await inject(user)
    assert await cas(world, "validating") == [1, 1, 1]


async def test_the_bridge_has_its_reviewer_token(world: OperatorWorld) -> None:
    """By a stream that runs from the manager through the broker's socket and the tunnel to the bridge."""

    async def handed_over() -> bool:
        _, text = await world.replicas[0]._get(world.replicas[0].probes, "/metrics")
        return 'cloudtaser_operator_reviewer_tokens_total{outcome="ok"}' in text

    await eventually(handed_over, "the token is handed over")


async def test_three_replicas_serve_and_one_leads(
    world: OperatorWorld, three: list[Replica], user: KubeApi
) -> None:
    assert sum([await one.metric("cloudtaser_operator_leader") for one in three]) == 1
    for _ in range(12):
        assert await inject(user)
    assert min(await cas(world)) >= 3
    for one in three:
        assert "broker tunnels: 0" not in (await one.readyz())[1]


async def test_a_ca_bundle_that_somebody_changed_is_put_right(world: OperatorWorld, user: KubeApi) -> None:
    junk = base64.b64encode(world.plane.identities.ca.read_bytes()).decode()
    for kind in ("mutating", "validating"):
        names = [one["name"] for one in (await world.configuration(kind))["webhooks"]]
        webhooks = [{"name": name, "clientConfig": {"caBundle": junk}} for name in names]
        patch = json.dumps({"webhooks": webhooks})
        resource = f"{kind}webhookconfiguration"
        await world.plane.kubectl("patch", resource, NAME, "--type=strategic", "-p", patch)

    async def right() -> bool:
        found = [await world.configuration(kind) for kind in ("mutating", "validating")]
        return all(one["clientConfig"]["caBundle"] != junk for each in found for one in each["webhooks"])

    await eventually(right, "the bundle is put right", timeout=60)
    await injected_in_the_end(user)


async def test_no_review_is_refused_while_certificates_are_replaced(
    world: OperatorWorld, three: list[Replica], user: KubeApi
) -> None:
    before = [await one.certificate() for one in three]
    assert all(before)
    made = 0

    async def replaced() -> bool:
        nonlocal made
        assert await inject(user)
        made += 1
        return all([await one.certificate() != old for one, old in zip(three, before, strict=True)])

    await eventually(replaced, "every replica serves another certificate", timeout=240, every=0.05)
    assert made > 50


async def test_injection_goes_on_while_the_tunnel_is_down(
    world: OperatorWorld, three: list[Replica], user: KubeApi
) -> None:
    async with world.without_bridge():

        async def cut() -> bool:
            return all(["broker tunnels: 0" in (await one.readyz())[1] for one in three])

        await eventually(cut, "no tunnel", timeout=90)
        for one in three:
            assert (await one.readyz())[0] == 200
        assert await inject(user)

    async def back() -> bool:
        return all(["broker tunnels: 0" not in (await one.readyz())[1] for one in three])

    await eventually(back, "tunnels", timeout=120)


async def test_when_the_leader_is_killed_another_leads_and_reviews_go_on(
    world: OperatorWorld, three: list[Replica], user: KubeApi
) -> None:
    leader = await world.leader()
    assert leader is not None
    await leader.kill()
    await world.publish(leader, ready=False)

    async def succeeded() -> bool:
        return await world.leader() not in (None, leader)

    await eventually(succeeded, "another leads", timeout=90)
    await injected_in_the_end(user)
    await leader.start()
    await leader.up()


async def test_when_the_api_server_is_restarted_everything_goes_on(
    world: OperatorWorld, three: list[Replica], user: KubeApi
) -> None:
    await world.plane.apiserver.restart()
    await world.plane.apiserver.wait_until(world.plane.is_ready, "ready", 120)
    await injected_in_the_end(user)

    async def leads() -> bool:
        return await world.leader() is not None

    await eventually(leads, "somebody leads", timeout=60)
    assert all(one.manager.pid for one in three)


async def test_all_at_once_they_come_back_by_themselves(
    world: OperatorWorld, three: list[Replica], user: KubeApi
) -> None:
    await asyncio.gather(*(one.kill() for one in three))
    await asyncio.gather(*(world.publish(one, ready=False) for one in three))
    await asyncio.gather(*(one.start() for one in three))
    await asyncio.gather(*(one.up(180) for one in three))
    await injected_in_the_end(user)

    async def back() -> bool:
        return all(["broker tunnels: 2" in (await one.readyz())[1] for one in three])

    await eventually(back, "tunnels", timeout=120)


async def test_told_to_stop_a_leader_hands_over_and_says_that_it_is_gone(
    world: OperatorWorld, three: list[Replica], user: KubeApi
) -> None:
    leader = await world.leader()
    assert leader is not None
    assert await leader.stop() == (0, 0)
    await world.publish(leader, ready=False)
    leases = await world.plane.get("lease", "-n", NAMESPACE)
    assert f"cloudtaser-replica-{leader.name}" not in [one["metadata"]["name"] for one in leases["items"]]
    assert await world.leader() is not leader
    await injected_in_the_end(user)


async def test_in_all_of_this_no_secret_was_read_or_written(
    world: OperatorWorld, three: list[Replica]
) -> None:
    ours = [one for one in world.plane.audited() if one["user"].get("username") == OPERATOR_SUBJECT]
    assert len(ours) > 100
    touched = [one for one in ours if (one.get("objectRef") or {}).get("resource") == "secrets"]
    assert touched == []
    # an API server that was just started refuses everything, until it has read who may what
    refused, answered = set(), set()
    for one in ours:
        about = one.get("objectRef") or {}
        question = (one["verb"], about.get("resource"), about.get("subresource"), about.get("name"))
        code = (one.get("responseStatus") or {}).get("code", 500)
        if code == 403:
            refused.add(question)
        elif code < 500:
            answered.add(question)
    assert refused - answered == set()
    assert (await world.plane.get("secrets", "-A"))["items"] == []
