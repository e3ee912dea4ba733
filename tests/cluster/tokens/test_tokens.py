"""The token method against a real API server, a real OpenBao and a real bridge: tokens are made for whom they
are for, brought, renewed, and taken back, whoever is killed when."""

from __future__ import annotations

import pytest

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.kinds import PODS
from cloudtaser.openbao.client import OpenBao
from cloudtaser.wire import names
from tests.chain_tools import eventually
from tests.cluster.tokens.stand_in_node import StandInNode, Wrapper
from tests.cluster.tokens.unsealing import unseal
from tests.cluster.tokens.world import PATIENCE, SHOP, Replica, TokenWorld

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]


async def works(world: TokenWorld, wrapper: Wrapper) -> bool:
    """Whether OpenBao takes the token that the wrapper holds."""
    assert wrapper.token is not None
    openbao = world.chain.openbao
    async with OpenBao(
        openbao.address,
        ca_file=openbao.ca_file,
        token=wrapper.token.value,
        namespace=str(world.chain.space.namespace),
    ) as client:
        try:
            await client.request("GET", f"secret/data/{SHOP}/db")
        except CloudtaserError:
            return False
        return True


async def test_a_sealed_pod_gets_a_token_of_its_own_and_loses_it_with_its_life(
    world: TokenWorld, node: StandInNode, replica: Replica
) -> None:
    pod = await world.add_pod(port=node.port)
    wrapper = node.run(pod)
    await unseal(world, node, wrapper, replica)
    ((accessor, token),) = (await world.tokens_of(pod)).items()
    assert await world.annotation(pod) == f"app={accessor}"
    assert token["policies"] == [world.chain.space.pod_policy(SHOP, "web")]
    assert token["meta"] == {
        "pod_uid": pod.uid, "pod": pod.name, "namespace": SHOP, "serviceaccount": "web", "container": "app",
    }  # fmt: skip
    assert (token["orphan"], token["renewable"]) == (True, True)
    assert 0 < token["ttl"] <= 3600
    assert [entry.accessor for entry in await world.ledger() if entry.pod.uid == pod.uid] == [accessor]
    assert await works(world, wrapper)
    await world.delete(pod)
    await world.until_gone(pod)
    assert not await works(world, wrapper)


async def test_a_wrapper_that_is_sealed_again_gets_another_token_and_the_former_one_is_revoked(
    world: TokenWorld, node: StandInNode, replica: Replica
) -> None:
    pod = await world.add_pod(port=node.port)
    wrapper = node.run(pod)
    await unseal(world, node, wrapper, replica)
    first = await world.annotation(pod)
    wrapper.seal()

    async def renewed() -> bool:
        await unseal(world, node, wrapper, replica)
        return await world.annotation(pod) != first and len(await world.tokens_of(pod)) == 1

    await eventually(renewed, "one token is left, the second", timeout=PATIENCE)
    assert await works(world, wrapper)
    assert f"app={next(iter(await world.tokens_of(pod)))}" == await world.annotation(pod)
    await world.delete(pod)
    await world.until_gone(pod)


async def test_a_pod_that_has_run_to_its_end_keeps_no_token(
    world: TokenWorld, node: StandInNode, replica: Replica
) -> None:
    pod = await world.add_pod(port=node.port)
    await unseal(world, node, node.run(pod), replica)
    await world.end(pod)
    await world.until_gone(pod)
    await world.delete(pod)


async def test_without_a_grant_no_token_is_made_and_the_pod_says_how_to_get_one(
    world: TokenWorld, node: StandInNode, replica: Replica
) -> None:
    pod = await world.add_pod(port=node.port, service_account="stranger")
    wrapper = node.run(pod)
    jwt = await world.jwt(pod)
    assert await node.announce(wrapper, jwt, replica.unseal_port) == 202

    async def told() -> bool:
        return any(
            f"source allow {world.fingerprint} --namespace {SHOP} --serviceaccount stranger" in note
            for note in await world.warnings(pod)
        )

    await eventually(told, "an event names the command", timeout=PATIENCE, every=0.3)
    assert wrapper.token is None
    assert await world.tokens_of(pod) == {}
    assert [entry for entry in await world.ledger() if entry.pod.uid == pod.uid] == []
    await world.delete(pod)


@pytest.mark.slow
async def test_whoever_is_not_the_pod_that_he_names_gets_nothing(
    world: TokenWorld, node: StandInNode, replica: Replica
) -> None:
    pod, other = await world.add_pod(port=node.port), await world.add_pod(port=node.port)
    wrapper, stranger = node.run(pod), node.run(other)
    port = replica.unseal_port
    own = await world.jwt(pod)
    head, claims, _ = own.split(".")
    foreign = await world.jwt(other)
    wrong = await world.jwt(pod, names.pod_audience(world.fp8))
    unbound = await world.kube.token_request(SHOP, "web", (names.unseal_audience(world.fp8),), 600)
    for jwt in (f"{head}.{claims}.AAAA", foreign, wrong, unbound.token.reveal_text()):
        assert await node.announce(wrapper, jwt, port) == 403
    assert await node.announce(wrapper, own, port, uid=other.uid) == 403
    # believed, but nobody waits for that key: no token is made
    assert await node.announce(wrapper, own, port, key=stranger.public_key) == 202
    # a pod that was deleted: its token proves nothing any more
    await world.delete(other)

    async def unknown() -> bool:
        return await node.announce(stranger, foreign, port) == 403

    await eventually(unknown, "the token of a deleted pod is refused", timeout=PATIENCE, every=0.3)
    await unseal(world, node, wrapper, replica)
    assert len(await world.tokens_of(pod)) == 1
    # what was announced before is announced again, by whoever saw it
    made = await replica.metric("cloudtaser_operator_pod_tokens_total", what="minted")
    superseded = await replica.metric("cloudtaser_operator_unsealings_total", outcome="superseded")
    assert await node.announce(wrapper, own, port) == 202

    async def looked() -> bool:
        now = await replica.metric("cloudtaser_operator_unsealings_total", outcome="superseded")
        return now > superseded

    await eventually(looked, "the replay was looked at", timeout=PATIENCE)
    assert await replica.metric("cloudtaser_operator_pod_tokens_total", what="minted") == made
    assert stranger.token is None
    assert await world.tokens_of(other) == {}
    await world.delete(pod)
    await world.until_gone(pod)


async def test_somebody_elses_accessor_in_a_pods_annotation_revokes_nothing(
    world: TokenWorld, node: StandInNode, replica: Replica
) -> None:
    victim, attacker = await world.add_pod(port=node.port), await world.add_pod(port=node.port)
    target, wrapper = node.run(victim), node.run(attacker)
    await unseal(world, node, target, replica)
    annotation = {"cloudtaser.io/token-accessor": await world.annotation(victim)}
    await world.kube.patch_object(
        PODS, attacker.namespace, attacker.name, {"metadata": {"annotations": annotation}}
    )
    jwt = await world.jwt(attacker)

    async def unsealed() -> bool:
        await node.announce(wrapper, jwt, replica.unseal_port)
        annotations = [await world.annotation(pod) for pod in (attacker, victim)]
        return wrapper.token is not None and annotations[0] != annotations[1]

    await eventually(unsealed, "the attacker has its own", timeout=PATIENCE, every=0.3)
    assert await works(world, target)
    for pod in (attacker, victim):
        await world.delete(pod)
        await world.until_gone(pod)


@pytest.mark.slow
async def test_what_ended_while_no_operator_ran_is_revoked_when_one_is_back(
    world: TokenWorld, node: StandInNode, replica: Replica
) -> None:
    pods = [await world.add_pod(port=node.port) for _ in range(3)]
    for pod in pods:
        await unseal(world, node, node.run(pod), replica)
    await replica.manager.kill()
    for pod in pods[:2]:
        await world.delete(pod)
    assert all([len(await world.tokens_of(pod)) == 1 for pod in pods])
    await world.start(replica)
    for pod in pods[:2]:
        await world.until_gone(pod)
    assert len(await world.tokens_of(pods[2])) == 1, "its pod is still there"
    await world.delete(pods[2])
    await world.until_gone(pods[2])


@pytest.mark.slow
async def test_another_replica_takes_over_when_the_leader_is_killed(
    world: TokenWorld, node: StandInNode, replica: Replica
) -> None:
    second = world.replica()
    await world.start(second)
    pod = await world.add_pod(port=node.port)
    leader = await world.leader()
    other = second if leader is replica else replica
    await unseal(world, node, node.run(pod), leader)
    await leader.manager.kill()
    await world.delete(pod)
    await world.until_gone(pod)
    # and who does not lead serves as well
    another = await world.add_pod(port=node.port)
    await unseal(world, node, node.run(another), other)
    await world.stop(second)
    await world.start(replica)
    await world.delete(another)
    await world.until_gone(another)


@pytest.mark.slow
async def test_tokens_are_renewed_before_they_end_also_by_who_comes_to_lead(
    world: TokenWorld, node: StandInNode, replica: Replica
) -> None:
    role = f"auth/token/roles/{world.chain.space.pod_token_role}"
    before = (await world.admin.request("GET", role))["data"]
    await world.admin.request("POST", role, body=before | {"token_period": 24})
    try:
        pod = await world.add_pod(port=node.port)
        wrapper = node.run(pod)
        await unseal(world, node, wrapper, replica)
        assert wrapper.token is not None
        assert wrapper.token.ttl == 24
        (accessor,) = await world.tokens_of(pod)
        await replica.manager.kill()
        await world.start(replica)

        async def renewed() -> bool:  # the second time is beyond its first life
            return await replica.metric("cloudtaser_operator_pod_tokens_total", what="renewed") >= 2

        await eventually(renewed, "it was renewed twice", timeout=PATIENCE, every=0.2)
        assert await works(world, wrapper)
        assert list(await world.tokens_of(pod)) == [accessor]
    finally:
        await world.admin.request("POST", role, body=before)
    await world.delete(pod)
    await world.until_gone(pod)


async def test_no_token_is_in_any_log(world: TokenWorld, node: StandInNode, replica: Replica) -> None:
    pod = await world.add_pod(port=node.port)
    wrapper = node.run(pod)
    jwt = await world.jwt(pod)
    await unseal(world, node, wrapper, replica)
    assert wrapper.token is not None
    await world.delete(pod)
    await world.until_gone(pod)

    async def told() -> bool:
        return f'"{SHOP}/{pod.name}", "container": "app"' in world.logs()

    await eventually(told, "the log tells of the pod", timeout=PATIENCE)
    logs = world.logs()
    assert wrapper.token.value.reveal_text() not in logs
    assert jwt not in logs
    assert jwt.split(".")[2] not in logs
    assert "PRIVATE KEY" not in logs
