"""Sessions: order, framing, pressure, time, and OpenBao at its worst (a scripted one)."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.limits import Limits
from cloudtaser.bridge.passage import HELD
from cloudtaser.bridge.session import Session, Times
from cloudtaser.bridge.upstream import MAX_UPLOADS
from cloudtaser.net.rates import Rate
from cloudtaser.wire.opening import Kind, Opening
from tests.integration.bridge_world import Bridge, Pod, Space, bridge_for
from tests.unit.bridge.scripted import OK, Line, Script, Scripted, answers_everything, scripted

TOKEN = "s.0123456789abcdefghijklmn.idAAAA"
SPACE = Space("aaaaaaaa-0000-4000-8000-00000000000a")
GET = f"GET /v1/secret/data/x HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {TOKEN}\r\n\r\n".encode()


@asynccontextmanager
async def stream(script: Script, **settings: Any) -> AsyncIterator[tuple[Pod, Bridge, Scripted]]:
    """A pod's stream, its bridge, and the scripted OpenBao behind it."""
    async with (
        scripted(script) as server,
        bridge_for(SPACE, server.address, **settings) as bridge,
        bridge.pod() as pod,
    ):
        bridge.cluster.namespace_id = "idAAAA"
        yield pod, bridge, server


async def audited(bridge: Bridge, count: int = 1) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        while len(bridge.lines) < count:
            await bridge.audited.wait()
            bridge.audited.clear()
    return bridge.lines


async def test_requests_in_one_write_are_answered_in_their_order() -> None:
    async def echoes(line: Line) -> None:
        while True:
            path = (await line.request()).split()[1]
            await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    async with stream(echoes) as (pod, bridge, server):
        pod.writer.write(b"".join(GET.replace(b"data/x", b"data/%d" % number) for number in range(200)))
        for number in range(200):
            assert (await pod.answer()).body == b"/v1/secret/data/%d" % number
        assert len(server.lines) == 1, "one at a time"
        assert [line["seq"] for line in bridge.lines] == list(range(1, 201))


async def test_a_request_that_comes_byte_by_byte_is_the_same_request() -> None:
    async with stream(answers_everything) as (pod, _, _):
        for index in range(len(GET)):
            pod.writer.write(GET[index : index + 1])
            await asyncio.sleep(0)
        assert (await pod.answer()).status == 200


async def test_openbao_sees_what_the_gate_wrote_and_nothing_else() -> None:
    seen = b""

    async def remembers(line: Line) -> None:
        nonlocal seen
        seen = await line.request()
        await line.say(OK)

    async with stream(remembers) as (pod, _, server):
        extra = [
            ("X-Forwarded-For", "1.2.3.4"),
            ("Cookie", "a=b"),
            ("Accept-Encoding", "gzip"),
            ("User-Agent", "x"),
        ]
        await pod.ask("PUT", "/v1/transit/encrypt/k", token=TOKEN, headers=extra, body={"plaintext": "eA=="})
    head, _, body = seen.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first == b"PUT /v1/transit/encrypt/k HTTP/1.1"
    assert sorted(lines) == [
        b"content-length: 21",
        b"host: " + server.address.removeprefix("http://").encode(),
        b"x-correlation-id: c0ffee.1",
        b"x-vault-namespace: cloudtaser/aaaaaaaa",
        b"x-vault-request: true",
        b"x-vault-token: " + TOKEN.encode(),
    ]
    assert json.loads(body) == {"plaintext": "eA=="}


async def test_the_correlation_id_goes_through_and_comes_back() -> None:
    seen: list[bytes] = []

    async def remembers(line: Line) -> None:
        while True:
            seen.append(await line.request())
            await line.say(OK)

    async with stream(remembers) as (pod, bridge, _):
        own = await pod.ask("GET", "/v1/secret/data/x", headers=[("X-Correlation-Id", "4bf92f35")])
        made = await pod.ask("GET", "/v1/secret/data/x")
        refused = await pod.ask("GET", "/v1/sys/mounts")
    assert own.headers["x-correlation-id"] == "4bf92f35"
    assert b"x-correlation-id: 4bf92f35\r\n" in seen[0]
    assert made.headers["x-correlation-id"] == "c0ffee.1"
    assert b"x-correlation-id: c0ffee.1\r\n" in seen[1]
    assert refused.headers["x-correlation-id"] == "c0ffee.2"
    assert [line["id"] for line in bridge.lines] == ["4bf92f35", "c0ffee.1", "c0ffee.2"]


async def test_of_openbaos_headers_only_listed_ones_come_back() -> None:
    async def talkative(line: Line) -> None:
        await line.request()
        await line.say(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
            b"Set-Cookie: a=b\r\n"
            b"X-Vault-Namespace: cloudtaser/aaaaaaaa\r\nServer: x\r\nLocation: /x\r\n"
            b"Strict-Transport-Security: y\r\n"
            b"X-Vault-Hostname: db1\r\nContent-Length: 2\r\n\r\n{}"
        )

    async with stream(talkative) as (pod, _, _):
        answer = await pod.say(GET)
    assert set(answer.headers) == {"content-type", "cache-control", "content-length", "x-correlation-id"}


async def test_bodies_stream_both_ways_in_chunks() -> None:
    async def doubles(line: Line) -> None:
        request = await line.request()
        assert b"transfer-encoding: chunked" in request
        await line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (b"one", b"two", b"three"):
            await line.say(b"%x\r\n%b\r\n" % (len(part), part))
        await line.say(b"0\r\n\r\n")

    async with stream(doubles) as (pod, _, _):
        pod.writer.write(
            b"POST /v1/secret/data/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        pod.writer.write(b"2\r\nde\r\n0\r\n\r\n")
        answer = await pod.answer()
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.body == b"onetwothree"


async def test_an_answer_that_ends_with_its_connection_is_framed_for_the_pod() -> None:
    async def old_fashioned(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nabc")
        await line.say(b"def")
        line.writer.write_eof()

    async with stream(old_fashioned) as (pod, _, _):
        assert (await pod.say(GET)).body == b"abcdef"
        assert (await pod.say(GET)).body == b"abcdef"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_has_none(status: int) -> None:
    async def bodiless(line: Line) -> None:
        while True:
            await line.request()
            await line.say(b"HTTP/1.1 %d X\r\n\r\n" % status)

    async with stream(bodiless) as (pod, _, _):
        pod.writer.write(GET + GET)
        for _ in range(2):
            head = await asyncio.wait_for(pod.reader.readuntil(b"\r\n\r\n"), 10)
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert b"content-length" not in head


async def test_continue_is_said_once_the_request_is_let_through() -> None:
    async with stream(answers_everything) as (pod, _, _):
        head = (
            "PUT {} HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {}\r\n"
            "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        pod.writer.write(head.format("/v1/secret/data/x", TOKEN).encode())
        assert (await pod.answer()).status == 100
        assert (await pod.say(b"{}")).status == 200
        refused = await pod.say(head.format("/v1/sys/mounts", TOKEN).encode())
        assert refused.status == 403
        assert refused.headers["connection"] == "close"
        assert await pod.rest() == b""


async def test_a_refused_request_with_a_body_leaves_the_stream_usable() -> None:
    async with stream(answers_everything) as (pod, _, _):
        assert (await pod.ask("PUT", "/v1/sys/mounts", body=b"x" * 10000)).status == 403
        assert (await pod.say(GET)).status == 200


async def test_of_a_refused_body_only_so_much_is_read() -> None:
    async with stream(answers_everything) as (pod, bridge, _):
        pod.writer.write(
            b"PUT /v1/sys/mounts HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100000
        )
        assert (await pod.answer()).status == 403
        try:
            assert await pod.rest() == b""
        except ConnectionError:
            pass
        assert len(bridge.lines) == 1


async def test_a_half_closed_stream_still_gets_its_answers() -> None:
    async with stream(answers_everything) as (pod, _, _):
        pod.writer.write(GET + GET)
        pod.writer.write_eof()
        assert (await pod.rest()).count(b"HTTP/1.1 200 OK") == 2


async def test_connection_close_is_honoured() -> None:
    async with stream(answers_everything) as (pod, _, _):
        pod.writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
        answer = await pod.rest()
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer


@pytest.mark.parametrize("method", ["GET", "LIST", "SCAN"])
async def test_a_read_takes_no_body(method: str) -> None:
    async with stream(answers_everything) as (pod, _, server):
        assert (await pod.ask(method, "/v1/secret/data/x", token=TOKEN, body=b"{}")).status == 400
        assert not server.lines


async def test_bodies_beyond_their_bounds_are_refused() -> None:
    async with stream(answers_everything) as (pod, bridge, _):
        for path, length in (("/v1/auth/jwt/login", 16385), ("/v1/secret/data/x", 32 * 1024 * 1024 + 1)):
            async with bridge.pod() as other:
                head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
                answer = await other.say(head.encode())
                assert (answer.status, "longer" in answer.errors) == (413, True)
        chunked = b"PUT /v1/auth/jwt/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        pod.writer.write(chunked + b"5000\r\n" + b"x" * 0x5000 + b"\r\n0\r\n\r\n")
        assert (await pod.answer()).status == 413
    assert [line["reason"] for line in bridge.lines] == ["body_too_long"] * 3


async def test_heads_beyond_their_bounds_are_refused() -> None:
    async with stream(answers_everything) as (pod, _, _):
        answer = await pod.ask("GET", "/v1/secret/data/x", headers=[("X-Long", "x" * 20000)])
        assert answer.status == 431
        assert await pod.rest() == b""


async def test_a_standby_is_one_clear_line_and_no_redirect() -> None:
    async def redirects(line: Line) -> None:
        await line.request()
        await line.say(
            b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://db2:8200/v1/x\r\nContent-Length: 0\r\n\r\n"
        )

    async with stream(redirects) as (pod, bridge, _):
        answer = await pod.say(GET)
        assert answer.status == 503
        assert "standby" in answer.errors
        assert "db2" not in str(answer)
        assert "location" not in answer.headers
        assert int(answer.headers["retry-after"]) >= 1
        assert bridge.lines[0]["reason"] == "redirect"


async def test_a_sealed_openbao_is_one_clear_line() -> None:
    async def sealed(line: Line) -> None:
        await line.request()
        body = b'{"errors":["Vault is sealed"]}'
        await line.say(b"HTTP/1.1 503 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with stream(sealed) as (pod, _, _):
        answer = await pod.say(GET)
    assert answer.status == 503
    assert answer.json["errors"] == [
        "OpenBao is sealed; unseal it, the application keeps what it has until then"
    ]


async def test_an_openbao_that_is_gone_is_one_clear_line() -> None:
    async with scripted(answers_everything) as server:
        address = server.address
    async with bridge_for(SPACE, address) as bridge, bridge.pod() as pod:
        bridge.cluster.namespace_id = "idAAAA"
        for _ in range(2):
            answer = await pod.say(GET)
            assert (answer.status, "cannot be reached" in answer.errors) == (503, True)
        assert (await pod.ask("GET", "/v1/sys/health")).status == 503
        assert (await pod.ask("GET", "/v1/sys/seal-status")).status == 503


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_an_answer_that_breaks_off_is_never_passed_off_as_whole(framing: bytes) -> None:
    async def breaks_off(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n3\r\nabc\r\n")
        line.hang_up()

    async with stream(breaks_off) as (pod, bridge, _):
        pod.writer.write(GET)
        received = b""
        try:
            received = await pod.rest()
        except ConnectionError:
            pass
        assert b"0\r\n\r\n" not in received.partition(b"\r\n\r\n")[2]
        assert (await audited(bridge))[0]["reason"] == "cut_off"


async def test_nonsense_from_openbao_is_a_bad_gateway() -> None:
    async def nonsense(line: Line) -> None:
        await line.request()
        await line.say(b"ok\r\n\r\n")

    async with stream(nonsense) as (pod, _, _):
        assert (await pod.say(GET)).status == 502


async def test_an_early_answer_ends_a_body_that_goes_on() -> None:
    async def impatient(line: Line) -> None:
        await line.head()
        await line.say(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")

    async with stream(impatient) as (pod, _, _):
        length = HELD + 8
        head = f"PUT /v1/secret/data/x HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
        pod.writer.write(head + b"a" * (length - 4))
        assert (await pod.answer()).status == 413
        pod.writer.write(b"efgh" + GET)
        assert (await pod.answer()).status == 413


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_a_body_that_comes_slowly_holds_no_connection_to_openbao(framing: bytes) -> None:
    async with stream(answers_everything) as (pod, bridge, server):
        pod.writer.write(b"PUT /v1/secret/data/x HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n1\r\na\r\n")
        async with bridge.pod() as other:
            assert (await other.say(GET)).status == 200
        assert len(server.lines) == 1, "the one that the other pod's request used"
        assert bridge.services.upstream.waiting == 0


async def test_of_long_bodies_a_cluster_has_only_so_many_under_way_and_reads_go_on() -> None:
    arrived = asyncio.Semaphore(0)

    async def patient(line: Line) -> None:
        while (await line.head()).startswith(b"GET"):
            await line.say(OK)
        arrived.release()
        await line.reader.read()

    async with stream(patient) as (pod, bridge, server), AsyncExitStack() as stack:
        begun = b"PUT /v1/secret/data/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + b"a" * 50_000
        for _ in range(MAX_UPLOADS + 3):
            one = await stack.enter_async_context(bridge.pod())
            one.writer.write(begun)
        async with asyncio.timeout(10):
            for _ in range(MAX_UPLOADS):
                await arrived.acquire()
        for _ in range(3):
            assert (await pod.say(GET)).status == 200
        assert arrived.locked(), "no further one has reached OpenBao"
        assert bridge.services.upstream.waiting <= 3
        assert len(server.lines) <= MAX_UPLOADS + 4


async def test_strangers_are_limited_by_address_and_told_when_to_come_back() -> None:
    limits = Limits(peer=Rate(1, 3))
    async with stream(answers_everything, limits=limits) as (pod, bridge, server):
        found = [await pod.ask("GET", "/v1/secret/data/x") for _ in range(5)]
        assert [answer.status for answer in found] == [200, 200, 200, 429, 429]
        assert int(found[-1].headers["retry-after"]) >= 1
        assert len(server.lines) == 1
        assert bridge.lines[-1]["reason"] == "rate_limit"


async def test_a_token_that_has_worked_is_counted_by_itself() -> None:
    limits = Limits(peer=Rate(0.001, 1), token=Rate(0.001, 2))
    async with stream(answers_everything, limits=limits) as (pod, _, _):
        assert [(await pod.say(GET)).status for _ in range(4)] == [200, 200, 200, 429]


async def test_a_token_of_one_cluster_is_refused_in_another_even_under_its_suffix() -> None:
    async with stream(answers_everything) as (pod, bridge, _):
        assert (await pod.say(GET)).status == 200
        bridge.cluster.fingerprint = "bbbbbbbb-0000-4000-8000-00000000000b"
        assert (await pod.say(GET)).status == 403


async def test_a_suspended_cluster_gets_nothing() -> None:
    async with stream(answers_everything) as (pod, bridge, server):
        bridge.cluster.registered = replace(bridge.cluster.registered, suspended=True)
        answer = await pod.say(GET)
        assert (answer.status, "suspended" in answer.errors) == (403, True)
        assert not server.lines


async def test_a_slow_head_an_idle_stream_and_a_slow_openbao_have_their_time() -> None:
    async def silent(line: Line) -> None:
        await line.request()
        await line.reader.read()

    times = Times(idle=0.3, head=0.1, request=0.2)
    async with stream(silent, times=times) as (pod, bridge, _):
        answer = await pod.say(GET)
        assert (answer.status, "in time" in answer.errors) == (504, True)
        assert await pod.rest() == b""
        async with bridge.pod() as slow:
            slow.writer.write(b"GET /v1/secret")
            assert await slow.rest() == b""
        async with bridge.pod() as idle:
            assert await idle.rest() == b""
        assert len(bridge.lines) == 1


async def test_a_head_has_its_time_however_its_bytes_trickle_in() -> None:
    async with stream(answers_everything, times=Times(idle=600, head=0.2)) as (pod, _, _):
        assert (await pod.say(GET)).status == 200, "and so has that of a later request"
        ended = asyncio.ensure_future(pod.rest())
        for byte in b"GET /v1/secret/data/x HTTP/1.1" * 100:
            if ended.done():
                break
            pod.writer.write(bytes((byte,)))
            await asyncio.wait([ended], timeout=0.02)
        assert await ended == b""


async def test_a_pod_that_leaves_takes_its_request_along() -> None:
    arrived, left = asyncio.Event(), asyncio.Event()

    async def waits(line: Line) -> None:
        await line.request()
        arrived.set()
        try:
            await line.reader.read()
        finally:
            left.set()

    async with stream(waits) as (pod, bridge, _):
        pod.writer.write(GET)
        await arrived.wait()
        pod.reset()
        await asyncio.wait_for(left.wait(), 10)
        assert (await audited(bridge))[0]["reason"] == "gone"
        assert bridge.services.upstream.connections == 0


async def test_a_pod_that_does_not_read_stops_openbao() -> None:
    progress = asyncio.Event()
    total = 64 * 1024 * 1024

    async def pours(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(1024):
            await line.say(b"x" * 65536)
            progress.set()

    async with stream(pours, times=Times(request=60)) as (pod, _, server):
        pod.reader._limit = 1024  # type: ignore[attr-defined]  # the stream's own buffer counts too
        pod.writer.write(GET)
        await standing_still(progress)
        assert server.tasks, "OpenBao has not got rid of its answer"
        size = 0
        await pod.reader.readuntil(b"\r\n\r\n")
        while size < total:
            size += len(await pod.reader.read(1 << 20))
        assert size == total


async def test_an_openbao_that_does_not_read_stops_the_pod() -> None:
    go_on = asyncio.Event()
    total = 30 * 1024 * 1024

    async def reads_late(line: Line) -> None:
        await line.head()
        await go_on.wait()
        await line.reader.readexactly(total)
        await line.say(OK)

    async with stream(reads_late, times=Times(request=60)) as (pod, bridge, _):
        pod.writer.write(
            f"PUT /v1/secret/data/x HTTP/1.1\r\nHost: x\r\nContent-Length: {total}\r\n\r\n".encode()
        )
        sent = 0
        progress = asyncio.Event()

        async def push() -> None:
            nonlocal sent
            while sent < total:
                pod.writer.write(b"x" * 65536)
                sent += 65536
                await pod.writer.drain()
                progress.set()

        pushing = asyncio.create_task(push())
        await standing_still(progress)
        assert not pushing.done()
        go_on.set()
        assert (await pod.answer()).status == 200
        await pushing
        assert bridge.lines[0]["status"] == 200


async def standing_still(progress: asyncio.Event) -> None:
    """It goes on into the kernel's buffers for a while; then nothing more happens."""
    while True:
        progress.clear()
        try:
            await asyncio.wait_for(progress.wait(), 0.3)
        except TimeoutError:
            return


async def test_many_requests_behind_a_slow_one_are_not_read_on() -> None:
    go_on = asyncio.Event()

    async def slow(line: Line) -> None:
        while True:
            await line.request()
            await go_on.wait()
            await line.say(OK)

    async with stream(slow) as (pod, _, _):
        progress = asyncio.Event()

        async def push() -> None:
            for _ in range(2000):
                pod.writer.write(GET * 100)
                await pod.writer.drain()
                progress.set()

        pushing = asyncio.create_task(push())
        await standing_still(progress)
        assert not pushing.done(), "the pod's bytes wait with the pod"
        pushing.cancel()


async def test_a_failure_of_our_own_is_an_answer_and_a_log_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    async with stream(answers_everything) as (pod, bridge, _):

        async def fails() -> None:
            raise RuntimeError("secret detail")

        monkeypatch.setattr(bridge.services.health, "read", fails)
        answer = await pod.ask("GET", "/v1/sys/health")
        assert answer.status == 500
        assert "secret detail" not in answer.errors
        assert (await pod.say(GET)).status == 200
    assert isinstance(seen[0]["exception"], RuntimeError)


async def test_a_stopping_bridge_closes_idle_streams_at_once() -> None:
    async with stream(answers_everything) as (pod, bridge, _):
        assert (await pod.say(GET)).status == 200
        bridge.services.drain()
        assert await pod.rest() == b""
        assert not bridge.services.sessions


async def test_a_stopping_bridge_answers_what_it_was_asked_and_then_closes() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def waits(line: Line) -> None:
        await line.request()
        asked.set()
        await answer.wait()
        await line.say(OK)

    async with stream(waits) as (pod, bridge, _):
        pod.writer.write(GET + GET)
        await asked.wait()
        bridge.services.drain()
        answer.set()
        assert (await pod.answer()).status == 200
        assert await pod.rest() == b"", "what was pipelined behind it is not begun"
        assert not bridge.services.sessions


async def test_a_request_that_begins_while_the_bridge_stops_is_told_that_it_is_the_last() -> None:
    async with stream(answers_everything) as (pod, bridge, _):
        assert (await pod.say(GET + GET[:20])).status == 200
        bridge.services.drain()
        answer = await pod.say(GET[20:])
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await pod.rest() == b""


# Rotation, and what was read


class OnTls(asyncio.Transport):
    """A pod's stream whose TLS stands under one pod CA, in a tunnel that may be draining."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.tls = type("Tls", (), {"context": context})()
        self.draining = False
        self.closings: list[None] = []
        self.said = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"ssl_object": self.tls, "draining": self.draining}.get(name, default)

    def write(self, data: Any) -> None:
        self.said += bytes(data)

    def close(self) -> None:
        self.closings.append(None)

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""


@asynccontextmanager
async def on_tls(
    peer: str = "10.0.0.7:51324", kind: Kind = Kind.POD
) -> AsyncIterator[tuple[Session, OnTls, Cluster]]:
    async with scripted(answers_everything) as server, bridge_for(SPACE, server.address) as bridge:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        bridge.cluster.pod_cas.serve({"0a1b2c3d": context}, "0a1b2c3d")
        bridge.cluster.pod_ca = "PEM of the next"
        session = Session(bridge.cluster, Opening(kind, peer, "c1"), bridge.services)
        transport = OnTls(context)
        session.connection_made(transport)
        yield session, transport, bridge.cluster
        session.connection_lost(None)


POD_CA = b"GET /v1/cloudtaser/pod-ca HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_pod_is_told_which_ca_to_pin_next_and_counts_for_the_one_it_pins() -> None:
    async with on_tls() as (session, transport, cluster):
        assert cluster.pod_cas.uses(session.services.now())["0a1b2c3d"].pods == 0, "a handshake is no pod yet"
        session.data_received(POD_CA)
        head, _, body = transport.said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert json.loads(body) == {"pod_ca": "PEM of the next"}
        assert cluster.pod_cas.uses(session.services.now())["0a1b2c3d"].pods == 1
        assert not transport.closings


async def test_the_operator_is_no_pod() -> None:
    async with on_tls(kind=Kind.OPERATOR) as (session, transport, cluster):
        session.data_received(POD_CA)
        assert transport.said.startswith(b"HTTP/1.1 200")
        assert cluster.pod_cas.uses(session.services.now())["0a1b2c3d"].pods == 0


async def test_in_a_draining_tunnel_the_next_answer_is_the_last_and_says_so() -> None:
    async with on_tls() as (session, transport, _):
        session.data_received(POD_CA)
        assert b"connection: close" not in transport.said.lower()
        transport.draining = True
        transport.said = b""
        session.data_received(POD_CA)
        assert b"connection: close" in transport.said.lower()
        assert len(transport.closings) == 1


async def test_pods_under_a_retired_ca_are_shown_out_and_others_stay() -> None:
    async with on_tls() as (session, transport, cluster):
        assert session.services.retire(cluster, frozenset({"0a1b2c3d"})) == []
        assert not transport.closings
        assert session.services.retire(cluster, frozenset({"ffffffff"})) == [session]
        assert len(transport.closings) == 1
        assert session.services.retire(SPACE.cluster(), frozenset()) == [], "another cluster's"


async def test_a_request_that_is_half_here_when_its_ca_is_retired_is_answered_and_is_the_last() -> None:
    async with on_tls() as (session, transport, cluster):
        session.data_received(POD_CA[:20])
        assert session.services.retire(cluster, frozenset()) == [session]
        assert not transport.closings
        session.data_received(POD_CA[20:])
        assert transport.said.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in transport.said.lower()
        assert len(transport.closings) == 1


async def test_what_pods_read_is_noted_and_what_they_were_refused_is_not() -> None:
    async def answers(line: Line) -> None:
        while True:
            head = await line.request()
            forbidden = b"/secret/data/x" not in head
            await line.say(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n" if forbidden else OK)

    async with stream(answers) as (pod, bridge, _):
        for path in ("x", "x", "y"):
            await pod.ask("GET", f"/v1/secret/data/{path}", token=TOKEN)
        await pod.ask("GET", "/v1/sys/nothing", token=TOKEN)
        noted = bridge.cluster.reads.record("b1").paths
        assert {path: read.count for path, read in noted.items()} == {"secret/data/x": 2}
