"""Strict mode on the whole chain: the cluster's API server is asked at each login, through the tunnel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from cloudtaser.bridge.review import AT_A_TIME, PATH
from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain, Pod
from cloudtaser.demo.timing import PodClient
from cloudtaser.wire import names
from tests.chain_tools import delivered, eventually, whole_lines

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

REVIEWED = f"system:serviceaccount:{names.SYSTEM_NAMESPACE}:{names.REVIEWER_SERVICE_ACCOUNT} POST {PATH}"


class Crowded:
    """Stands before the API server's answers to reviews: gives none until as many wait as may."""

    def __init__(self, chain: Chain) -> None:
        self._answer = chain.apiserver._token_review
        self._full = asyncio.Event()
        self.under_way = self.most = 0

    async def review(self, request: web.Request) -> web.StreamResponse:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.under_way >= AT_A_TIME:
            self._full.set()
        try:
            await self._full.wait()
            return await self._answer(request)
        finally:
            self.under_way -= 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chain() -> AsyncIterator[Chain]:
    chain = Chain()
    try:
        await chain.start_openbao()
        await chain.register()
        await asyncio.gather(chain.start_beacon(), chain.start_bridge("--strict"), chain.start_apiserver())
        await chain.start_operator()
        yield chain
    finally:
        await chain.close()


def attempt(chain: Chain, jwt: str) -> tuple[int, str]:
    client = PodClient(chain.broker_address, chain.pod_ca())
    try:
        status, body = client.request("POST", "/v1/auth/jwt/login", {"role": "default", "jwt": jwt})
        return status, "" if status == 200 else json.loads(body)["errors"][0]
    finally:
        client.close()


async def log_in(chain: Chain, pod: Pod, **changes: Any) -> tuple[int, str]:
    """Status and error of a login with a token of `pod` made now."""
    audiences = changes.pop("audiences", [chain.audience])
    jwt = chain.apiserver.issue(pod.namespace, pod.service_account, audiences, pod=pod.reference, **changes)
    return await asyncio.to_thread(attempt, chain, jwt)


def audited(chain: Chain, reason: str, name: str) -> bool:
    assert chain.bridge is not None
    lines = whole_lines(chain.bridge.log)
    return any(f'"reason":"{reason}"' in line and name in line for line in lines)


async def is_audited(chain: Chain, reason: str, name: str = "") -> None:
    async def written() -> bool:
        return audited(chain, reason, name)

    await eventually(written, f"an audit line {reason}")


def reviews(chain: Chain) -> int:
    return sum(line == REVIEWED for line in chain.apiserver.audit)


async def test_a_pod_gets_its_secrets_after_the_api_server_agreed(chain: Chain) -> None:
    async with setup.administrator(chain) as admin:
        await setup.write_secret(admin, "shop/strict", {"value": "reviewed"})
    before = reviews(chain)
    found = await delivered(chain, "secret/data/shop/strict", "value=VALUE")
    assert found["VALUE"] == "reviewed"
    assert reviews(chain) == before + 1


async def test_a_deleted_pods_token_is_refused_though_it_has_not_expired(chain: Chain) -> None:
    pod = chain.pod("shop", "gone")
    assert (await log_in(chain, pod))[0] == 200
    chain.apiserver.delete_pod(pod.reference)
    status, error = await log_in(chain, pod)
    assert (status, "deleted" in error) == (403, True)
    await is_audited(chain, "review_refused", pod.reference.name)


async def test_a_token_for_another_audience_is_refused_before_anybody_is_asked(chain: Chain) -> None:
    before = reviews(chain)
    pod = chain.pod("shop", "thief")
    assert (await log_in(chain, pod, audiences=["cloudtaser:ffffffff"]))[0] == 403
    assert reviews(chain) == before
    await is_audited(chain, "wrong_audience")


async def test_while_the_api_server_is_away_nobody_logs_in_and_then_everybody(chain: Chain) -> None:
    pod = chain.pod("shop", "waiting")
    await chain.apiserver.close()
    try:
        status, error = await log_in(chain, pod)
        assert (status, "cannot be asked" in error) == (503, True)
        await is_audited(chain, "review_unavailable", pod.reference.name)
    finally:
        await chain.apiserver.start()

    async def back() -> bool:
        return (await log_in(chain, pod))[0] == 200

    await eventually(back, "logins are reviewed again")


async def test_a_flood_of_logins_is_reviewed_a_few_at_a_time(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded = Crowded(chain)
    await chain.apiserver.close()
    monkeypatch.setattr(chain.apiserver, "_token_review", crowded.review)
    await chain.apiserver.start()
    pods = [chain.pod("shop", "flood") for _ in range(3 * AT_A_TIME)]
    tokens = [pod.token_file.read_text() for pod in pods]
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(len(pods)) as threads:
        logins = [loop.run_in_executor(threads, attempt, chain, jwt) for jwt in tokens]
        answers = await asyncio.gather(*logins)
    assert {status for status, _ in answers} == {200}
    assert crowded.most == AT_A_TIME
