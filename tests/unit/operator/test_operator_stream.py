"""The operator hands its bridges the reviewer token: under the pod CA, on each link, renewed in time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from cloudtaser.errors import UnavailableError
from cloudtaser.kube.objects import ServiceAccountToken
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tls import Identity, pod_server
from cloudtaser.operator.certificates import der
from cloudtaser.operator.manager import REVIEWER_TOKEN_SECONDS
from cloudtaser.operator.metrics import ManagerMetrics
from cloudtaser.operator.operator_stream import OperatorStreams
from cloudtaser.operator.routes import LinkRoute
from cloudtaser.operator.tunnels import Link
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import pod_ca_label
from cloudtaser.wire.http1 import Body, End, RequestHead, RequestParser, simple_response
from cloudtaser.wire.names import BRIDGE_NAME
from cloudtaser.wire.opening import Kind, Opening
from tests.unit.operator.parties import Authority
from tests.unit.operator.rig import BridgeHalf, eventually, tunnel_pair

POD = Authority("pod")


class Reviewer(asyncio.Protocol):
    """The bridge's end of an operator stream: takes the request, answers with the given status."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.parser = RequestParser()
        self.head: RequestHead | None = None
        self.body = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        for event in self.parser.receive(data):
            if isinstance(event, RequestHead):
                self.head = event
            elif isinstance(event, Body):
                self.body += event.data
            elif isinstance(event, End):
                assert self.head is not None
                assert self.transport is not None
                self.rig.requests.append((self.head, self.body))
                status = self.rig.statuses.pop(0) if self.rig.statuses else 204
                self.transport.write(simple_response(status, b""))
                self.rig.asked.set()


class Rig:
    """Tokens and tunnels; also the `Tokens` of the streams under test."""

    def __init__(self) -> None:
        self.pod_ca: str | None = POD.pem
        self.stored_pod_ca: str | None = POD.pem
        self.identity: Identity = POD.pod_server().identity
        self.made = 0
        self.broken = False
        self.statuses: list[int] = []
        self.requests: list[tuple[RequestHead, bytes]] = []
        self.names: list[str | None] = []
        self.asked = asyncio.Event()
        self.now = time.time()
        self.half = BridgeHalf()
        self.half.others[Kind.OPERATOR] = self.accept
        self.metrics = ManagerMetrics(CollectorRegistry())
        self.streams = OperatorStreams(self, self.metrics, clock=lambda: self.now)
        self.links: list[Link] = []

    async def refresh_pod_ca(self) -> None:
        self.pod_ca = self.stored_pod_ca

    async def operator_token(self) -> Secret:
        return Secret(b"operator-token")

    async def reviewer_token(self) -> ServiceAccountToken:
        if self.broken:
            raise UnavailableError("the API server is away")
        self.made += 1
        return ServiceAccountToken(Secret(f"reviewer-{self.made}"), self.now + REVIEWER_TOKEN_SECONDS)

    def accept(self, opening: Opening) -> asyncio.Protocol:
        context = pod_server(self.identity)
        context.sni_callback = lambda tls, name, _: self.names.append(name)
        return TlsLayer(context, Reviewer(self), server_side=True)

    async def link(self) -> Link:
        mine, _ = await tunnel_pair(self.half)
        link = cast("Link", SimpleNamespace(tunnel=mine, bridge="b1", number=len(self.links) + 1))
        self.links.append(link)
        self.streams.serve(LinkRoute(link))
        return link

    async def request(self, number: int) -> tuple[RequestHead, bytes]:
        while len(self.requests) < number:
            self.asked.clear()
            await asyncio.wait_for(self.asked.wait(), 10)
        return self.requests[number - 1]

    def count(self, outcome: str) -> float:
        name = "cloudtaser_operator_reviewer_tokens_total"
        return self.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0

    async def stop(self) -> None:
        await self.streams.close()
        for link in self.links:
            link.tunnel.abort()
            await link.tunnel.closed


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.stop()


async def test_the_bridge_gets_the_token_under_the_pod_ca_and_knows_who_sends_it(rig: Rig) -> None:
    await rig.link()
    head, body = await rig.request(1)
    headers = dict(head.headers)
    assert (head.method, head.target) == (b"PUT", b"/v1/cloudtaser/reviewer")
    assert headers[b"authorization"] == b"Bearer operator-token"
    assert json.loads(body) == {"token": "reviewer-1"}
    assert rig.names == [f"{pod_ca_label(der(POD.certificate))}.{BRIDGE_NAME}"]


async def test_every_link_gets_it_and_one_token_serves_all(rig: Rig) -> None:
    for _ in range(3):
        await rig.link()
    await rig.request(3)
    assert {body for _, body in rig.requests} == {b'{"token":"reviewer-1"}'}
    assert rig.made == 1


async def test_a_link_that_comes_up_after_two_thirds_of_the_life_gets_a_new_one(rig: Rig) -> None:
    await rig.link()
    await rig.request(1)
    rig.now += REVIEWER_TOKEN_SECONDS * 2 / 3 + 1
    await rig.link()
    assert (await rig.request(2))[1] == b'{"token":"reviewer-2"}'


async def test_a_refusal_is_tried_again(rig: Rig) -> None:
    rig.statuses = [403, 503]
    await rig.link()
    await rig.request(3)
    assert rig.count("failed") == 2


async def test_an_api_server_that_is_away_is_tried_again(rig: Rig) -> None:
    rig.broken = True
    await rig.link()
    await eventually(lambda: rig.count("failed") > 0, "a failure is counted")
    rig.broken = False
    await rig.request(1)


async def test_nothing_is_sent_to_who_is_not_under_the_pod_ca(rig: Rig) -> None:
    rig.identity = Authority("pod").pod_server().identity
    await rig.link()
    await eventually(lambda: rig.count("failed") > 0, "a failure is counted")
    assert rig.requests == []


async def test_the_pod_ca_that_another_replica_stored_is_taken_when_a_bridge_shows_it(rig: Rig) -> None:
    after = Authority("the next pod CA")
    rig.identity = after.pod_server().identity
    rig.stored_pod_ca = after.pem
    await rig.link()
    await rig.request(1)
    assert rig.names[-1] == f"{pod_ca_label(der(after.certificate))}.{BRIDGE_NAME}"


async def test_it_ends_with_its_link(rig: Rig) -> None:
    link = await rig.link()
    await rig.request(1)
    link.tunnel.abort()
    await link.tunnel.closed
    await eventually(lambda: rig.streams.active == 0, "nobody is supplied")
