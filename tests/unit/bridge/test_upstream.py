"""The pool: reuse, bounds, one careful retry, both directions under pressure."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.bridge.exchange import AnswerEvent
from cloudtaser.bridge.upstream import Upstream
from cloudtaser.errors import CloudtaserError, ConfigError, UnavailableError
from cloudtaser.wire.http1 import Body, End, ResponseHead, encode_request
from tests.unit.bridge.scripted import OK, Line, Script, Scripted, answers_everything, scripted


class Answer:
    """A Receiver that waits for the whole answer."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.paused = 0
        self.resumed = asyncio.Event()
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun = asyncio.Event()

    def answered(self, events: Sequence[AnswerEvent]) -> None:
        assert not self.whole.done(), "nothing comes after the end"
        for event in events:
            if isinstance(event, ResponseHead):
                self.status = event.status
                self.begun.set()
            elif isinstance(event, Body):
                self.body += event.data
            elif isinstance(event, End):
                self.whole.set_result(None)

    def failed(self, error: CloudtaserError) -> None:
        assert not self.whole.done(), "nothing comes after the end"
        self.whole.set_exception(error)

    def pause_sending(self) -> None:
        self.paused += 1

    def resume_sending(self) -> None:
        self.resumed.set()


def request(method: bytes = b"GET", length: int | None = None) -> bytes:
    return encode_request(method, b"/v1/secret/data/x", ((b"host", b"x"),), content_length=length)


async def get(upstream: Upstream, *, repeatable: bool = True) -> Answer:
    answer = Answer()
    upstream.send(b"GET", request(), answer, repeatable=repeatable)
    async with asyncio.timeout(10):
        await answer.whole
    return answer


@asynccontextmanager
async def pool(script: Script, **settings: Any) -> AsyncIterator[tuple[Upstream, Scripted]]:
    async with scripted(script) as server:
        upstream = Upstream(server.address, **settings)
        try:
            yield upstream, server
        finally:
            await upstream.close()


async def test_who_asks_again_at_once_after_a_failure_is_told_at_once_again() -> None:
    async with scripted(answers_everything) as server:
        address = server.address
    upstream = Upstream(address, wait_timeout=60)
    async with asyncio.timeout(30):
        for _ in range(3):
            with pytest.raises(UnavailableError, match="cannot be reached"):
                await get(upstream)
    await upstream.close()


async def test_one_connection_serves_one_request_after_another() -> None:
    async with pool(answers_everything) as (upstream, server):
        for _ in range(5):
            assert (await get(upstream)).body == b'{"data":{}}'
        assert len(server.lines) == 1
        assert upstream.connections == 1


async def test_connections_and_queue_are_bounded_and_everybody_is_served() -> None:
    async with pool(answers_everything, max_connections=3) as (upstream, server):
        answers = [Answer() for _ in range(50)]
        for answer in answers:
            upstream.send(b"GET", request(), answer, repeatable=True)
            assert upstream.connections <= 3
        await asyncio.gather(*(answer.whole for answer in answers))
        assert {answer.status for answer in answers} == {200}
        assert len(server.lines) <= 3


async def test_beyond_the_queue_requests_are_refused_at_once() -> None:
    arrived = asyncio.Event()

    async def silent(line: Line) -> None:
        await line.request()
        arrived.set()
        await line.reader.read()

    async with pool(silent, max_connections=1, max_waiting=2) as (upstream, _):
        answers = [Answer() for _ in range(4)]
        upstream.send(b"GET", request(), answers[0])
        await arrived.wait()
        for answer in answers[1:]:
            upstream.send(b"GET", request(), answer)
        with pytest.raises(UnavailableError, match="too many requests wait"):
            await answers[3].whole
        assert not answers[2].whole.done()


async def test_no_owner_keeps_the_others_waiting() -> None:
    async def silent_for_a(line: Line) -> None:
        while b"/a" not in await line.head():
            await line.say(OK)
        await line.reader.read()

    def asks(path: bytes) -> bytes:
        return encode_request(b"GET", path, ((b"host", b"x"),), content_length=None)

    async with pool(silent_for_a, max_connections=4) as (upstream, _):
        for _ in range(8):
            upstream.send(b"GET", asks(b"/a"), Answer(), owner="a")
        for _ in range(3):  # there is one connection for the others, again and again
            answer = Answer()
            upstream.send(b"GET", asks(b"/b"), answer, owner="b")
            async with asyncio.timeout(30):
                await answer.whole
        assert upstream.connections == 4
        assert upstream.waiting == 8 - 3


async def test_slow_senders_of_many_owners_leave_half_of_the_connections() -> None:
    async def answers_reads(line: Line) -> None:
        while (await line.head()).startswith(b"GET"):
            await line.say(OK)
        await line.reader.read()

    async with pool(answers_reads, max_connections=4) as (upstream, _):
        uploads = [Answer() for _ in range(9)]
        for number, answer in enumerate(uploads):
            upstream.send(b"PUT", request(b"PUT", 9), answer, ended=False, owner=number % 3)
        for _ in range(3):
            assert (await get(upstream)).status == 200
        assert upstream.waiting == 9 - 2
        assert not any(answer.whole.done() for answer in uploads)


async def test_no_owner_fills_the_queue() -> None:
    async def silent(line: Line) -> None:
        await line.reader.read()

    async with pool(silent, max_connections=1, max_waiting=4) as (upstream, _):
        greedy = [Answer() for _ in range(8)]
        for answer in greedy:
            upstream.send(b"GET", request(), answer, owner="a")
        for answer in greedy[3:]:
            with pytest.raises(UnavailableError, match="too many requests wait"):
                await answer.whole
        modest = Answer()
        upstream.send(b"GET", request(), modest, owner="b")
        assert upstream.waiting == 4
        assert not any(answer.whole.done() for answer in [*greedy[:3], modest])


async def test_whoever_waits_for_his_share_is_served_when_it_is_free() -> None:
    go_on = asyncio.Event()

    async def slow(line: Line) -> None:
        while True:
            await line.request()
            await go_on.wait()
            await line.say(OK)

    async with pool(slow, max_connections=4) as (upstream, _):
        answers = [Answer() for _ in range(20)]
        for answer in answers:
            upstream.send(b"GET", request(), answer, owner="a", repeatable=True)
        assert upstream.waiting >= 17 - 3
        go_on.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*(answer.whole for answer in answers))
        assert upstream.waiting == 0


async def test_nobody_waits_for_a_connection_for_ever() -> None:
    async def silent(line: Line) -> None:
        await line.reader.read()

    async with pool(silent, max_connections=1, wait_timeout=0.05) as (upstream, _):
        first, second = Answer(), Answer()
        upstream.send(b"GET", request(), first)
        upstream.send(b"GET", request(), second)
        with pytest.raises(UnavailableError, match="no connection"):
            await second.whole
        assert not first.whole.done()


async def test_a_connection_that_went_stale_is_replaced_without_a_word() -> None:
    async def leaves_after_one(line: Line) -> None:
        await line.request()
        await line.say(OK)
        if line.number == 0:
            await line.request()
            line.hang_up()
        else:
            await answers_everything(line)

    async with pool(leaves_after_one) as (upstream, server):
        await get(upstream)
        assert (await get(upstream)).status == 200
        assert len(server.lines) == 2


@pytest.mark.parametrize("method", [b"PUT", b"POST", b"DELETE"])
async def test_a_request_that_changes_something_is_never_sent_twice(method: bytes) -> None:
    requests = 0

    async def leaves_after_one(line: Line) -> None:
        nonlocal requests
        await line.request()
        await line.say(OK)
        await line.request()
        requests += 1
        line.hang_up()

    async with pool(leaves_after_one) as (upstream, _):
        await get(upstream)
        answer = Answer()
        upstream.send(method, request(method, 0), answer)
        with pytest.raises(UnavailableError):
            await answer.whole
        assert requests == 1


async def test_a_read_is_sent_twice_at_most_and_not_after_the_answer_began() -> None:
    requests = 0

    async def never_answers(line: Line) -> None:
        nonlocal requests
        await line.request()
        requests += 1
        if line.number == 0 and requests == 1:
            await line.say(OK)
            await line.request()
            requests += 1
            await line.say(b"HTTP/1.1 200 OK\r\n")
        line.hang_up()

    async with pool(never_answers) as (upstream, _):
        await get(upstream)
        with pytest.raises(CloudtaserError):
            await get(upstream)
        assert requests == 2, "a byte had come back"
        with pytest.raises(UnavailableError):
            await get(upstream)
        assert requests == 3, "a new connection that fails is no stale one"


async def test_an_answer_that_breaks_off_is_a_failure() -> None:
    async def breaks_off(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        line.hang_up()

    async with pool(breaks_off) as (upstream, _):
        answer = Answer()
        upstream.send(b"GET", request(), answer, repeatable=True)
        with pytest.raises(UnavailableError):
            await answer.whole
        assert answer.status == 200


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_failure_and_ends_the_connection(nonsense: bytes) -> None:
    async def talks_nonsense(line: Line) -> None:
        await line.request()
        await line.say(nonsense)
        assert await line.reader.read() == b""

    async with pool(talks_nonsense) as (upstream, _):
        answer = Answer()
        upstream.send(b"GET", request(), answer, repeatable=True)
        with pytest.raises(CloudtaserError):
            await answer.whole


async def test_words_that_nobody_asked_for_reach_nobody() -> None:
    async def says_too_much(line: Line) -> None:
        await line.request()
        await line.say(OK + OK)
        await line.reader.read()

    async with pool(says_too_much) as (upstream, server):
        with pytest.raises(CloudtaserError):
            await get(upstream)
        with pytest.raises(CloudtaserError):
            await get(upstream)
        assert len(server.lines) == 2


async def test_a_connection_that_openbao_closes_is_not_used_again() -> None:
    async def closes(line: Line) -> None:
        await line.request()
        await line.say(OK.replace(b"Content-Type", b"Connection: close\r\nContent-Type"))

    async with pool(closes) as (upstream, server):
        for number in range(1, 4):
            assert (await get(upstream)).status == 200
            assert len(server.lines) == number


async def test_a_cancelled_request_costs_its_connection_only() -> None:
    arrived = asyncio.Event()

    async def waits(line: Line) -> None:
        await line.request()
        if line.number == 0:
            arrived.set()
            assert await line.reader.read() == b""
        else:
            await line.say(OK)

    async with pool(waits) as (upstream, _):
        answer = Answer()
        exchange = upstream.send(b"GET", request(), answer)
        await arrived.wait()
        exchange.cancel()
        assert (await get(upstream)).status == 200
        assert not answer.whole.done()


async def test_a_body_is_pushed_through_with_pressure_from_openbao() -> None:
    go_on = asyncio.Event()
    total = 8 * 1024 * 1024

    async def reads_late(line: Line) -> None:
        await line.head()
        await go_on.wait()
        await line.reader.readexactly(total)
        await line.say(OK)

    async with pool(reads_late) as (upstream, _):
        answer = Answer()
        exchange = upstream.send(b"POST", request(b"POST", total), answer, ended=False)
        await answer.resumed.wait()
        sent = 0
        while sent < total and answer.paused < 2:
            exchange.send(b"x" * 65536, last=sent + 65536 == total)
            sent += 65536
            await asyncio.sleep(0)
        assert answer.paused == 2, "once while it waited for the connection, once for OpenBao"
        answer.resumed.clear()
        go_on.set()
        await answer.resumed.wait()
        while sent < total:
            exchange.send(b"x" * 65536, last=sent + 65536 == total)
            sent += 65536
        await answer.whole
        assert answer.status == 200


async def standing_still(progress: asyncio.Event) -> None:
    """It goes on into the kernel's buffers for a while; then nothing more happens."""
    while True:
        progress.clear()
        try:
            await asyncio.wait_for(progress.wait(), 0.3)
        except TimeoutError:
            return


async def test_an_answer_that_nobody_reads_stops_openbao() -> None:
    progress = asyncio.Event()

    async def pours(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
        for _ in range(1024):
            await line.say(b"x" * 65536)
            progress.set()

    async with pool(pours) as (upstream, _):
        answer = Answer()
        exchange = upstream.send(b"GET", request(), answer)
        await answer.begun.wait()
        exchange.pause()
        await standing_still(progress)
        assert len(answer.body) < 16 * 1024 * 1024
        exchange.resume()
        await answer.whole
        assert len(answer.body) == 64 * 1024 * 1024


async def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    async with scripted(answers_everything) as server:
        address = server.address
    upstream = Upstream(address)
    answers = [Answer() for _ in range(3)]
    for answer in answers:
        upstream.send(b"GET", request(), answer, repeatable=True)
    for answer in answers:
        with pytest.raises(UnavailableError, match=r"OpenBao cannot be reached.*--vault-addr"):
            await answer.whole
    assert upstream.reachable is False
    await upstream.close()


async def test_a_server_that_came_back_is_used_at_once() -> None:
    async with scripted(answers_everything) as server:
        port = server.port
        upstream = Upstream(server.address)
        await get(upstream)
    listener = await asyncio.start_server(
        lambda reader, writer: answers_everything(Line(reader, writer, 0)), "127.0.0.1", port
    )
    assert (await get(upstream)).status == 200
    listener.close()
    await upstream.close()


@pytest.mark.parametrize(
    "address", ["ftp://x", "127.0.0.1:8200", "http://", "https://x/path", "https://x?q=1", ""]
)
async def test_what_is_no_address_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigError):
        Upstream(address)


async def test_a_ca_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ConfigError, match=name):
            Upstream("https://127.0.0.1:8200", ca_file=str(tmp_path / name))


async def test_openbaos_certificate_is_checked() -> None:
    async def no_tls(line: Line) -> None:
        await line.reader.read()

    async with scripted(no_tls) as server:
        upstream = Upstream(server.address.replace("http:", "https:"), connect_timeout=0.2)
        assert isinstance(upstream._context, ssl.SSLContext)
        assert upstream._context.verify_mode is ssl.CERT_REQUIRED
        assert upstream._context.check_hostname
        with pytest.raises(UnavailableError):
            await get(upstream)
        await upstream.close()
