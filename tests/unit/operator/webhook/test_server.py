"""Reviews over HTTP: bounded, and answered whatever comes."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from cloudtaser.kube.registry.image import ImageConfig, ImageRequest
from cloudtaser.operator.webhook import configuration
from cloudtaser.operator.webhook.errors import UnreadableReviewError
from cloudtaser.operator.webhook.metrics import WebhookMetrics
from cloudtaser.operator.webhook.review import MAX_WARNING, MAX_WARNINGS, Answer, Review, read, write
from cloudtaser.operator.webhook.server import build, footprint
from cloudtaser.operator.webhook.settings import Limits
from tests.unit.operator.rig import eventually
from tests.unit.operator.webhook.pods_rig import Json, World, container, pod

Client = TestClient[Request, Application]
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
PATHS = [
    configuration.MUTATE,
    configuration.MUTATE_REQUIRED,
    configuration.VALIDATE,
    configuration.VALIDATE_REQUIRED,
    configuration.VALIDATE_WORKLOAD,
]


def asked(subject: object, **more: object) -> Json:
    request = {
        "uid": UID,
        "operation": "CREATE",
        "namespace": "shop",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "object": subject,
    } | more
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with TestClient(TestServer(world.webhook().application())) as running:
        yield running


async def test_a_review_is_answered_in_its_own_form(client: Client, world: World) -> None:
    answer = await client.post(configuration.MUTATE + "?timeout=10s", json=asked(pod()))
    assert answer.status == 200
    said = await answer.json()
    assert (said["apiVersion"], said["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = said["response"]
    assert (response["uid"], response["allowed"], response["patchType"]) == (UID, True, "JSONPatch")
    assert response["auditAnnotations"] == {"injected": "app"}
    patch = json.loads(base64.b64decode(response["patch"]))
    assert {operation["op"] for operation in patch} <= {"add", "replace"}
    assert world.count("cloudtaser_operator_injections_total", namespace="shop") == 1
    assert world.count("cloudtaser_operator_admission_duration_seconds_count", webhook="mutate-v1-pod") == 1


async def test_the_same_review_gets_the_same_bytes(client: Client) -> None:
    first, second = [
        await (await client.post(configuration.MUTATE, json=asked(pod()))).read() for _ in range(2)
    ]
    assert first == second


async def test_a_refusal_says_why(client: Client) -> None:
    bad = pod(annotations={"cloudtaser.io/env-map": "a=1b"})
    response = (await (await client.post(configuration.MUTATE_REQUIRED, json=asked(bad))).json())["response"]
    assert response["allowed"] is False
    assert "'1b' is not a variable name" in response["status"]["message"]
    assert (response["status"]["code"], response["status"]["reason"]) == (422, "Invalid")


async def test_with_failure_policy_fail_every_namespace_is_fail_closed(world: World) -> None:
    async with TestClient(TestServer(world.webhook(failure_policy="Fail").application())) as client:
        subject = asked(pod(container(command=None)))
        response = (await (await client.post(configuration.MUTATE, json=subject)).json())["response"]
    assert response["allowed"] is False


async def test_a_namespace_that_nobody_knows_makes_no_series(client: Client, world: World) -> None:
    await client.post(configuration.MUTATE, json=asked(pod(), namespace="made-up"))
    assert world.count("cloudtaser_operator_injections_total", namespace="unknown") == 1


@pytest.mark.parametrize("path", PATHS)
async def test_only_reviews_are_answered(client: Client, path: str) -> None:
    assert (await client.get(path)).status == 405
    assert (await client.post(path, data=b"{}", headers={"content-type": "text/plain"})).status == 415
    for body in (b"", b"[]", b"{}", b"{" * 5000, b'{"kind":"AdmissionReview"}', b"\xff"):
        answer = await client.post(path, data=body, headers={"content-type": "application/json"})
        assert answer.status == 400
        assert len((await answer.text()).splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"apiVersion": "admission.k8s.io/v1beta1"},
        {"kind": "Other"},
        {"request": None},
        {"request": {}},
        {"request": {"uid": "x"}},
        {"request": {"uid": 5, "object": {}}},
        {"request": {"uid": "x", "object": []}},
    ],
)
async def test_a_review_that_is_none_is_told_apart(client: Client, change: Json) -> None:
    assert (await client.post(configuration.MUTATE, json=asked(pod()) | change)).status == 400


async def test_a_body_beyond_the_limit_is_not_read(world: World) -> None:
    async with TestClient(TestServer(world.webhook(limits=Limits(body_bytes=1000)).application())) as client:
        answer = await client.post(configuration.MUTATE, json=asked(pod(padding="x" * 2000)))
        assert answer.status == 413


class Slow:
    """A registry that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def resolve(self, request: ImageRequest) -> ImageConfig:
        self.asked.set()
        await self.go.wait()
        return ImageConfig("sha256:" + "0" * 64, "sha256:" + "0" * 64, ("e",))


async def test_too_many_at_once_are_turned_away_and_the_others_answered() -> None:
    slow = Slow()
    world = World(images=slow)  # type: ignore[arg-type]  # all that is used of it
    webhook = world.webhook(limits=Limits(requests=1))
    async with TestClient(TestServer(webhook.application())) as client:
        subject = asked(pod(container(command=None)))
        first = asyncio.ensure_future(client.post(configuration.MUTATE, json=subject))
        await slow.asked.wait()
        assert (await client.post(configuration.MUTATE, json=subject)).status == 503
        slow.go.set()
        assert (await (await first).json())["response"]["allowed"] is True


async def test_reviews_under_way_take_no_more_memory_than_they_may() -> None:
    slow = Slow()
    world = World(images=slow)  # type: ignore[arg-type]
    world.settings = replace(world.settings, limits=Limits(bytes_in_flight=100_000))
    async with TestClient(TestServer(world.webhook().application())) as client:
        subject = asked(pod(container(command=None), padding="x" * 60_000))
        first = asyncio.ensure_future(client.post(configuration.MUTATE, json=subject))
        await slow.asked.wait()
        assert 60_000 < world.count("cloudtaser_operator_admission_bytes") < 100_000
        assert (await client.post(configuration.MUTATE, json=subject)).status == 503
        assert world.count("cloudtaser_operator_admission_unanswered_total", reason="memory") == 1
        slow.go.set()
        assert (await (await first).json())["response"]["allowed"] is True
        assert (await client.post(configuration.MUTATE, json=subject)).status == 200
        await eventually(
            lambda: world.count("cloudtaser_operator_admission_bytes") == 0, "all of it is given back"
        )


async def test_what_grows_when_it_is_read_counts_as_what_it_becomes(world: World) -> None:
    world.settings = replace(world.settings, limits=Limits(bytes_in_flight=1_000_000))
    async with TestClient(TestServer(world.webhook().application())) as client:
        assert (await client.post(configuration.MUTATE, json=asked(pod(padding="x" * 60_000)))).status == 200
        answer = await client.post(configuration.MUTATE, json=asked(pod(padding=[[]] * 20_000)))
        assert answer.status == 503
    assert world.count("cloudtaser_operator_admission_unanswered_total", reason="memory") == 1


@pytest.mark.parametrize("text", ["[[],[]]", '[{"ab":"cd"},{"ab":"cd"}]', "[1.5,2.5]", '["äöü","ßäö"]', "{}"])
def test_the_footprint_of_a_text_is_no_less_than_what_it_takes(text: str) -> None:
    body = ("[" + ",".join([text] * 5000) + "]").encode()
    tracemalloc.start()
    try:
        kept = msgspec.json.decode(body)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept
    assert taken <= len(body) + footprint(body)


async def test_a_body_that_is_announced_and_does_not_come_takes_nothing(world: World) -> None:
    world.settings = replace(world.settings, limits=Limits(bytes_in_flight=50_000))
    runner = web.AppRunner(world.webhook().application())  # as `serving` has it: no cancellation
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    idle = [await asyncio.open_connection(host, port) for _ in range(4)]
    for _, writer in idle:
        head = f"POST {configuration.MUTATE} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        writer.write(head.encode() + b"Content-Length: 40000\r\n\r\n{")
    await eventually(lambda: world.count("cloudtaser_operator_admission_queue") == 4, "they are inside")
    url = f"http://{host}:{port}{configuration.MUTATE}"
    async with ClientSession() as client, client.post(url, json=asked(pod())) as answer:
        assert answer.status == 200
    for _, writer in idle:
        writer.close()

    def cut_off() -> bool:
        return world.count("cloudtaser_operator_admission_unanswered_total", reason="cut_off") == 4

    await eventually(cut_off, "they were cut off")
    await runner.cleanup()


async def test_who_does_not_take_his_answer_is_cut_off() -> None:
    registry = CollectorRegistry()

    async def answer(review: Review, seconds: float) -> Answer:
        return Answer(patch=({"op": "add", "path": "/a", "value": "x" * 24_000_000},))

    application = build({"/": answer}, Limits(answer_seconds=0.3), WebhookMetrics(registry))
    async with TestServer(application) as server:
        assert server.port is not None
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(lazy, ("127.0.0.1", server.port))
            body = json.dumps(asked(pod())).encode()
            head = (
                b"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            await loop.sock_sendall(lazy, head % len(body) + body)

            def too_slow() -> bool:
                labels = {"reason": "too_slow"}
                name = "cloudtaser_operator_admission_unanswered_total"
                return registry.get_sample_value(name, labels) == 1

            await eventually(too_slow, "it is cut off")
    await eventually(
        lambda: registry.get_sample_value("cloudtaser_operator_admission_bytes") == 0, "it takes nothing"
    )


async def test_a_registry_that_is_too_slow_is_a_failure_in_good_time() -> None:
    world = World(images=Slow())  # type: ignore[arg-type]
    async with TestClient(TestServer(world.webhook().application())) as client:
        subject = asked(pod(container(command=None)))
        answer = await client.post(configuration.MUTATE_REQUIRED + "?timeout=600ms", json=subject)
        response = (await answer.json())["response"]
    assert response["allowed"] is False
    assert "did not say in time" in response["status"]["message"]


async def test_who_is_slow_with_his_body_is_not_waited_for(world: World) -> None:
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    async with TestClient(TestServer(world.webhook().application())) as client:
        headers = {"content-type": "application/json"}
        answer = await client.post(configuration.MUTATE + "?timeout=600ms", data=body(), headers=headers)
        assert answer.status == 408
    assert world.count("cloudtaser_operator_admission_unanswered_total", reason="too_slow") == 1


def test_warnings_are_as_many_and_as_long_as_a_client_shows() -> None:
    said = json.loads(write("u", Answer(warnings=tuple(f"{number} " + "x" * 500 for number in range(20)))))
    warnings = said["response"]["warnings"]
    assert len(warnings) == MAX_WARNINGS
    assert all(len(warning) <= MAX_WARNING for warning in warnings)
    assert warnings[-1] == "cloudtaser: and 13 more"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "metadata",
                    "annotations",
                    "labels",
                    "spec",
                    "containers",
                    "initContainers",
                    "name",
                    "env",
                    "image",
                    "command",
                    "args",
                    "volumeMounts",
                    "volumes",
                    "value",
                    "securityContext",
                    "ownerReferences",
                    "template",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)
BROKEN = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries({"annotations": st.just(pod()["metadata"]["annotations"])}) | JSON,
        "spec": st.dictionaries(
            st.sampled_from(
                [
                    "containers",
                    "initContainers",
                    "volumes",
                    "hostPID",
                    "securityContext",
                    "imagePullSecrets",
                    "affinity",
                ]
            ),
            JSON
            | st.lists(
                st.dictionaries(
                    st.sampled_from(["name", "image", "command", "env", "volumeMounts", "lifecycle"]),
                    JSON,
                    max_size=4,
                ),
                max_size=3,
            ),
        ),
    }
)


@given(
    BROKEN | st.dictionaries(st.text(max_size=4), JSON, max_size=3),
    st.sampled_from(["Pod", "CronJob", "Deployment", ""]),
    st.booleans(),
)
async def test_whatever_the_object_is_there_is_an_answer(subject: Json, kind: str, required: bool) -> None:
    webhook = World().webhook()
    question = read(json.dumps(asked(subject, kind={"kind": kind})).encode())
    for answer in (
        await webhook.mutate(question, 1.0, required=required),
        await webhook.validate(question, required=required),
        await webhook.validate_workload(question),
    ):
        assert json.loads(write(question.uid, answer))["response"]["uid"] == UID


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_no_review(body: bytes) -> None:
    with pytest.raises(UnreadableReviewError):
        read(body)


def test_a_deeply_nested_object_ends_in_a_refusal() -> None:
    nested: Any = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    with pytest.raises(UnreadableReviewError):
        read(nested)
