"""The webhook's listener: TLS under its own CA, another certificate without a gap, a Lease that says so."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from cloudtaser.kube.errors import ConflictError, KubeUnavailableError, NotFoundError
from cloudtaser.kube.kinds import Kind
from cloudtaser.operator import serving
from cloudtaser.operator.metrics import ManagerMetrics
from cloudtaser.operator.replica import CA_ANNOTATION, Replica
from cloudtaser.operator.rotation import Rotation
from cloudtaser.operator.serving import Serving
from cloudtaser.operator.serving_door import ConnectionLimits
from cloudtaser.operator.serving_keys import make_keys, read_published, service_names
from cloudtaser.operator.settings import Listen
from tests.unit.operator.rig import eventually

NAMES = service_names("hook", "ns")


class Store:
    """Leases as an API server keeps them."""

    def __init__(self) -> None:
        self.leases: dict[str, dict[str, Any]] = {}
        self.version = 0
        self.broken = False

    def check(self, name: str) -> None:
        if self.broken:
            raise KubeUnavailableError("the API server is away")
        if name not in self.leases:
            raise NotFoundError("none")

    async def get_object(self, kind: Kind, namespace: str | None, name: str) -> dict[str, Any]:
        self.check(name)
        return self.leases[name]

    async def create_object(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        if not self.broken and name in self.leases:
            raise ConflictError("it is there")
        self.leases.setdefault(name, {}) if not self.broken else None
        return self._write(body)

    async def replace_object(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        self.check(body["metadata"]["name"])
        return self._write(body)

    async def delete_object(self, kind: Kind, namespace: str | None, name: str) -> None:
        self.check(name)
        del self.leases[name]

    def _write(self, body: dict[str, Any]) -> dict[str, Any]:
        self.check(body["metadata"]["name"])
        self.version += 1
        metadata = body["metadata"] | {"resourceVersion": str(self.version)}
        self.leases[body["metadata"]["name"]] = body | {"metadata": metadata}
        return self.leases[body["metadata"]["name"]]


class Rig:
    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.registry = CollectorRegistry()
        self.store = Store()
        self.known: set[str] = set()
        self.release = asyncio.Event()
        self.rotation = Rotation(
            lambda now: make_keys(NAMES, now, 3600), time.time(), settle=0.0, first_settle=0.0
        )
        self.serving = self.new()
        self.task: asyncio.Task[None] | None = None

    def new(self) -> Serving:
        application = web.Application()
        application.router.add_post("/", self.answer)
        return Serving(
            application,
            Listen("127.0.0.1", 0),
            self.rotation,
            Replica(self.store, "ns", "pod-1"),
            lambda: self.known,
            ManagerMetrics(self.registry),
            limits=self.limits,
        )

    def refused(self, reason: str) -> float:
        name = "cloudtaser_operator_webhook_connections_refused_total"
        return self.registry.get_sample_value(name, {"reason": reason}) or 0.0

    async def answer(self, request: web.Request) -> web.Response:
        if await request.read() == b"wait":
            await self.release.wait()
        return web.Response(text="yes")

    @property
    def published(self) -> str:
        lease = self.store.leases.get("cloudtaser-replica-pod-1")
        return lease["metadata"]["annotations"][CA_ANNOTATION] if lease else ""

    async def ask(self, cas: str, body: bytes = b"") -> str:
        """As an API server, which trusts what the configuration says and calls the Service by its name."""
        context = ssl.create_default_context(cadata=cas)
        connector = aiohttp.TCPConnector(ssl=context)
        url = "https://{}:{}/".format(*self.serving.address)
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.post(url, data=body, server_hostname=NAMES[0]) as answer,
        ):
            return await answer.text()


@pytest.fixture
def limits() -> ConnectionLimits:
    return ConnectionLimits()


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch, limits: ConnectionLimits) -> AsyncIterator[Rig]:
    monkeypatch.setattr(serving, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(serving, "GRACE_SECONDS", 5.0)
    rig = Rig(limits)
    await rig.serving.start()
    rig.task = asyncio.ensure_future(rig.serving.run())
    yield rig
    rig.release.set()
    rig.task.cancel()
    await asyncio.gather(rig.task, return_exceptions=True)
    await rig.serving.stop()


async def until(condition: Callable[[], object], what: str) -> None:
    await eventually(lambda: bool(condition()), what)


async def test_it_publishes_its_ca_and_is_ready_once_that_is_known(rig: Rig) -> None:
    await until(lambda: rig.published, "published")
    assert not rig.serving.ready
    rig.known.add(rig.rotation.current.ca_id)
    await until(lambda: rig.serving.ready, "ready")
    assert await rig.ask(rig.published) == "yes"
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await rig.ask(make_keys(NAMES, time.time(), 60).ca_pem)


async def test_another_certificate_takes_over_while_every_review_is_answered(rig: Rig) -> None:
    rig.known.add(rig.rotation.current.ca_id)
    await until(lambda: rig.published, "published")
    first, slow = rig.published, asyncio.ensure_future(rig.ask(rig.published, b"wait"))
    rig.serving.renew()
    await until(lambda: rig.published.count("BEGIN") == 2, "both are published")
    both = rig.published
    assert await rig.ask(first) == "yes"  # nobody has said yet that the next one is known
    rig.known |= set(read_published(both, rig_now()))
    await until(lambda: rig.serving.ca != first, "the next is served")
    for _ in range(5):
        assert await rig.ask(both) == "yes"
    rig.release.set()
    assert await asyncio.wait_for(slow, 10) == "yes"


async def test_an_api_server_that_is_away_does_not_end_it(rig: Rig) -> None:
    await until(lambda: rig.published, "published")
    rig.store.leases.clear()
    rig.store.broken = True
    rig.serving.renew()
    await asyncio.sleep(0.05)
    rig.store.broken = False
    await until(lambda: rig.published.count("BEGIN") == 2, "said again")
    assert rig.task is not None
    assert not rig.task.done()


async def test_at_its_end_it_answers_what_is_under_way_and_takes_its_lease_away(rig: Rig) -> None:
    await until(lambda: rig.published, "published")
    slow = asyncio.ensure_future(rig.ask(rig.published, b"wait"))
    assert rig.task is not None
    await asyncio.sleep(0.05)
    rig.task.cancel()
    await asyncio.gather(rig.task, return_exceptions=True)
    stopping = asyncio.ensure_future(rig.serving.stop())
    rig.release.set()
    await asyncio.wait_for(stopping, 10)
    assert await slow == "yes"
    assert rig.store.leases == {}


@pytest.mark.parametrize("limits", [ConnectionLimits(request_seconds=1.0)])
async def test_who_sends_no_request_is_cut_off_and_who_sent_one_may_wait(rig: Rig) -> None:
    await until(lambda: rig.published, "published")
    host, port = rig.serving.address
    context = ssl.create_default_context(cadata=rig.published)
    kept = await asyncio.open_connection(host, port, ssl=context, server_hostname=NAMES[0])
    kept[1].write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
    assert b" 200 " in await kept[0].readuntil(b"\r\n\r\nyes")
    silent = [await asyncio.open_connection(host, port) for _ in range(3)]
    half = await asyncio.open_connection(host, port, ssl=context, server_hostname=NAMES[0])
    half[1].write(b"POST / HTTP/1.1\r\nHost: h\r\n")
    await until(lambda: rig.refused("no_request") == 4, "they are cut off")
    await until(lambda: rig.serving.connections == 1, "one is left")
    kept[1].write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
    assert b" 200 " in await kept[0].readuntil(b"\r\n\r\nyes")
    for _, writer in [*silent, half, kept]:
        writer.close()
    await until(lambda: rig.serving.connections == 0, "none is left")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ConnectionLimits(connections=8, connections_per_source=3), "too_many_connections_of_one_source"),
        (ConnectionLimits(connections=3, connections_per_source=8), "too_many_connections"),
    ],
)
async def test_no_more_connections_are_open_than_may_be(rig: Rig, reason: str) -> None:
    await until(lambda: rig.published, "published")
    taken = [await asyncio.open_connection(*rig.serving.address) for _ in range(3)]
    await until(lambda: rig.serving.connections == 3, "three are in")
    with pytest.raises(aiohttp.ClientError):
        await rig.ask(rig.published)
    assert rig.refused(reason) >= 1
    assert rig.registry.get_sample_value("cloudtaser_operator_webhook_connections") == 3
    for _, writer in taken:
        writer.close()
    await until(lambda: rig.serving.connections == 0, "all are out")
    assert await rig.ask(rig.published) == "yes"


def rig_now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)
