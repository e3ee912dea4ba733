"""A pod's second login before a real OpenBao: seen in the audit, refused when the bridge is told so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from cloudtaser.bridge.migration import Admin
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.seats import Seats
from cloudtaser.demo.tokens import PodReference
from cloudtaser.openbao.client import OpenBao
from tests.integration.bridge_world import Answer, Bridge, Pod, World, bridge_for, build_world

LOGIN = "/v1/auth/jwt/login"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = build_world(tmp_path_factory.mktemp("openbao"))
    yield made
    made.server.stop()


@pytest.fixture
async def bridge(world: World) -> AsyncIterator[Bridge]:
    async with bridge_for(world.a, world.server.address) as made:
        yield made


@pytest.fixture
async def single(bridge: Bridge) -> Bridge:
    """The same, told `--single-login`."""
    bridge.services.seats = Seats(single=True)
    return bridge


async def again(world: World, pod: Pod) -> Answer:
    return await pod.ask("POST", LOGIN, body={"role": "all", "jwt": world.a.jwt()})


async def logged_in(world: World, pod: Pod) -> str:
    """A token that its pod has and uses."""
    token = await pod.login(world.a)
    assert (await pod.ask("GET", "/v1/secret/data/shop/db", token=token)).status == 200
    return token


async def test_a_second_login_is_let_through_and_audited(world: World, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        await pod.login(world.a)
        await pod.login(world.a)
    assert [(line["verdict"], line.get("reason", "")) for line in bridge.lines] == [
        ("allowed", ""),
        ("allowed", "second_login"),
    ]


async def test_a_thief_of_a_pods_token_gets_no_second_one(world: World, single: Bridge) -> None:
    async with single.pod() as pod, single.pod() as thief:
        token = await logged_in(world, pod)
        answer = await again(world, thief)
        assert answer.status == 429
        assert 3000 < int(answer.headers["retry-after"]) <= 3600
        assert "--single-login" in answer.errors
        assert token not in answer.body.decode()
        assert (await pod.ask("GET", "/v1/secret/data/shop/db", token=token)).status == 200
    refused = next(line for line in single.lines if line["status"] == 429)
    assert (refused["verdict"], refused["reason"], refused["pod"]) == ("refused", "second_login", "web-5c9f")


async def test_another_pod_is_not_in_its_way(world: World, single: Bridge) -> None:
    async with single.pod() as pod:
        await logged_in(world, pod)
        assert await pod.login(world.a, pod=PodReference("web-2", "0f0f0f0f-0000-4000-8000-000000000002"))


async def test_a_pod_that_gave_its_token_back_logs_in_again(world: World, single: Bridge) -> None:
    async with single.pod() as pod:
        token = await logged_in(world, pod)
        answer = await pod.ask("POST", "/v1/auth/token/revoke-self", token=token, body={})
        assert answer.status == 204
        assert (await again(world, pod)).status == 200


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/secret/data/shop/db"), ("POST", "/v1/auth/token/renew-self")]
)
async def test_a_pod_whose_token_was_revoked_by_others_logs_in_again(
    world: World, single: Bridge, method: str, path: str
) -> None:
    async with single.pod() as pod:
        token = await logged_in(world, pod)
        async with OpenBao(world.server.address, token=world.server.root_token) as admin:
            await admin.request(
                "POST", "auth/token/revoke", namespace=world.a.namespace, body={"token": token}
            )
        assert (await again(world, pod)).status == 429, "the bridge cannot know yet"
        body: dict[str, str] | None = {} if method == "POST" else None
        answer = await pod.ask(method, path, token=token, body=body)
        assert answer.status == 403, answer.body
        assert (await again(world, pod)).status == 200


async def test_being_denied_a_path_frees_no_seat(world: World, single: Bridge) -> None:
    async with single.pod() as pod:
        token = await pod.login(world.a, role="default")
        assert (await pod.ask("GET", "/v1/secret/data/shop/db", token=token)).status == 200
        assert (await pod.ask("GET", "/v1/secret/data/billing/card", token=token)).status == 403
        assert (await again(world, pod)).status == 429


async def test_a_renewal_passes_whole_and_holds_the_seat(world: World, single: Bridge) -> None:
    async with single.pod() as pod:
        token = await logged_in(world, pod)
        answer = await pod.ask("POST", "/v1/auth/token/renew-self", token=token, body={"increment": "30m"})
        assert answer.json["auth"]["client_token"] == token
        answer = await again(world, pod)
        assert answer.status == 429
        assert 1700 < int(answer.headers["retry-after"]) <= 1800


async def test_a_login_that_openbao_refused_takes_no_seat(world: World, single: Bridge) -> None:
    async with single.pod() as pod:
        answer = await pod.ask("POST", LOGIN, body={"role": "nobody", "jwt": world.a.jwt()})
        assert answer.status == 400
        assert (await again(world, pod)).status == 200


async def test_the_operator_needs_no_seat(world: World) -> None:
    async with bridge_for(world.a, world.server.address, operator=True) as bridge:
        bridge.services.seats = Seats(single=True)
        body = {"role": "cloudtaser-operator", "jwt": world.a.operator_jwt()}
        async with bridge.pod() as operator:
            for _ in range(2):
                assert (await operator.ask("POST", LOGIN, body=body)).status == 200
        assert len(bridge.services.seats) == 0


async def test_in_strict_mode_nobody_gets_past_a_review_that_says_no(world: World, bridge: Bridge) -> None:
    """The operator's login and an administrator's migration are asked about too."""
    asked: list[str] = []

    async def review(_: object, jwt: str, identity: object) -> None:
        asked.append(jwt)
        raise RequestRefused(403, "it does not hold", "review_refused")

    bridge.services.review = review
    async with bridge.pod() as pod:
        answer = await again(world, pod)
    assert (answer.status, answer.errors) == (403, "it does not hold")
    assert (bridge.lines[0]["reason"], bridge.lines[0]["pod"]) == ("review_refused", "web-5c9f")
    assert len(bridge.services.seats) == 0
    async with bridge_for(world.a, world.server.address, admin=Admin()) as admin:
        admin.services.review = review
        async with admin.pod() as caller:
            bearer = [("Authorization", f"Bearer {world.a.admin_jwt()}")]
            answer = await caller.ask("POST", "/migrate", headers=bearer, body={})
    assert (answer.status, admin.lines[0]["reason"]) == (403, "review_refused")
    async with bridge_for(world.a, world.server.address, operator=True) as operator:
        operator.services.review = review
        async with operator.pod() as caller:
            body = {"role": "cloudtaser-operator", "jwt": world.a.operator_jwt()}
            assert (await caller.ask("POST", LOGIN, body=body)).status == 403
    assert len(asked) == 3


async def test_a_token_that_the_bridge_refuses_itself_is_not_asked_about(
    world: World, bridge: Bridge
) -> None:
    async def review(*_: object) -> None:
        pytest.fail("asked")

    bridge.services.review = review
    async with bridge.pod() as pod:
        jwt = world.a.jwt(audiences=["cloudtaser:ffffffff"])
        assert (await pod.ask("POST", LOGIN, body={"role": "all", "jwt": jwt})).status == 403
    assert bridge.lines[0]["reason"] == "wrong_audience"
