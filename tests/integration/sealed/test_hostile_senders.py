"""Whoever can reach a sealed wrapper's port: each attempt is refused with one line, and changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from cloudtaser.wrapper.inbound import MAX_BODY
from cloudtaser.wrapper.listener import MAX_CONNECTIONS, REQUEST_SECONDS
from tests.integration.sealed.support import TOKEN, Sealed, Sealer, everything, recently, settings
from tests.sealing import OTHER_FINGERPRINT, Authority, wrong_leaves
from tests.unit.wrapper.launch import PATIENCE

STRANGERS_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture(scope="module")
def authority() -> Authority:
    return recently()


@pytest.fixture
def wrapper(authority: Authority) -> Iterator[Sealed]:
    with Sealed("true", settings=settings(authority.pem())) as running:
        yield running


@pytest.fixture
def sealer(authority: Authority) -> Sealer:
    return Sealer.of(authority)


def refusals(wrapper: Sealed) -> list[str]:
    """The reasons in the log, after the wrapper was ended."""
    wrapper.process.terminate()
    wrapper.wait()
    log = wrapper.log()
    assert TOKEN not in log
    return [
        str(entry["reason"])
        for entry in map(json.loads, log.splitlines())
        if entry["event"] == "a request is refused"
    ]


def http(body: bytes, *more: str, path: str = "/v1/unseal", length: str | None = None) -> bytes:
    """A request as a decent client would send it, but for what is said."""
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {length or len(body)}", *more, "", ""]
    return "\r\n".join(lines).encode() + body


def test_strangers_learn_the_key_and_nothing_more(wrapper: Sealed) -> None:
    assert wrapper.status().keys() == {"sealed", "public_key"}
    assert wrapper.status()["sealed"] is True
    assert wrapper.ask("GET", "/healthz")[0] == 200
    assert wrapper.ask("GET", "/readyz")[0] == 503


def test_an_envelope_counts_once(wrapper: Sealed, sealer: Sealer) -> None:
    envelope = sealer.envelope(wrapper.public_key())
    assert wrapper.unseal(envelope) == 200
    assert wrapper.status() == {"sealed": False}
    assert wrapper.unseal(envelope) == 409
    assert wrapper.unseal(sealer.envelope(STRANGERS_KEY, token="s.other")) == 409
    assert refusals(wrapper) == ["not sealed: a token came already"] * 2


def test_an_envelope_for_somebody_else_changes_nothing(wrapper: Sealed, sealer: Sealer) -> None:
    key = wrapper.public_key()
    for envelope in (
        sealer.envelope(key, pod_uid=OTHER_FINGERPRINT),
        sealer.envelope(key, container="sidecar"),
        sealer.envelope(STRANGERS_KEY),
    ):
        assert wrapper.unseal(envelope) == 403
        assert wrapper.status() == {"sealed": True, "public_key": key}
    assert len(refusals(wrapper)) == 3


def test_a_replay_into_a_later_start_changes_nothing(authority: Authority, sealer: Sealer) -> None:
    with Sealed("true", settings=settings(authority.pem())) as first:
        envelope = sealer.envelope(first.public_key())
        assert first.unseal(envelope) == 200
    with Sealed("true", settings=settings(authority.pem())) as second:
        assert second.unseal(envelope) == 403
        assert second.status()["sealed"] is True
        assert len(refusals(second)) == 1


def test_no_other_certificate_seals(wrapper: Sealed, authority: Authority, sealer: Sealer) -> None:
    key = wrapper.public_key()
    leaves = wrong_leaves(authority, sealer.key)
    for name, leaf in leaves.items():
        assert wrapper.unseal(Sealer(sealer.key, leaf).envelope(key)) == 403, name
    assert wrapper.status() == {"sealed": True, "public_key": key}
    assert wrapper.unseal(sealer.envelope(key)) == 200
    assert len(refusals(wrapper)) == len(leaves)


def test_a_plain_token_is_refused_unless_it_is_allowed(authority: Authority, wrapper: Sealed) -> None:
    plain = json.dumps({"token": TOKEN}).encode()
    assert wrapper.unseal(plain) == 403
    assert "CLOUDTASER_ALLOW_PLAIN_UNSEAL" in refusals(wrapper)[0]
    allowed = settings(authority.pem(), CLOUDTASER_ALLOW_PLAIN_UNSEAL="true")
    with Sealed("true", settings=allowed) as other:
        for body in (b'{"token":7}', b'{"token":""}', b'{"token":"a b"}', b'{"token":"x","more":1}', b"{}"):
            assert other.unseal(body) == 403
        assert other.unseal(plain) == 200
        assert other.status() == {"sealed": False}


@pytest.mark.parametrize(
    "request_",
    [
        http(b"{}") + http(b"{}"),
        http(b"{}", "Content-Length: 2"),
        http(b"{}", "Content-Length: 40"),
        http(b"2\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        http(b"{}", "Transfer-Encoding: identity"),
        http(b"", length=str(MAX_BODY + 1)),
        http(b"", length="-1"),
        http(b"{}", path="/v1/unseal?x"),
        http(b"{}", path="/v1/../v1/unseal"),
        http(b"{}", path="//v1/unseal"),
        http(b"{}", path="/v1/status"),
        b"GET /v1/unseal HTTP/1.1\r\nHost: a\r\n\r\n",
        b"DELETE /v1/status HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        b"\n" * 10_000,
        b"GET /" + b"a" * 20_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    ],
)
def test_what_is_no_single_request_is_refused_with_one_line(wrapper: Sealed, request_: bytes) -> None:
    answer = wrapper.raw(request_)
    assert answer[:9] in (b"", b"HTTP/1.1 ")
    assert answer[9:10] in (b"", b"4", b"5")
    assert answer.count(b"HTTP/1.1") <= 1
    assert wrapper.status()["sealed"] is True
    assert len(refusals(wrapper)) == 1


def test_an_envelope_smuggled_behind_another_request_is_not_read(wrapper: Sealed, sealer: Sealer) -> None:
    envelope = http(sealer.envelope(wrapper.public_key()))
    for first in (b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n", http(b"{}"), http(b"", length="0")):
        wrapper.raw(first + envelope)
        assert wrapper.status()["sealed"] is True
    assert len(refusals(wrapper)) == 3


@pytest.mark.slow
def test_slow_senders_are_cut_off_and_hold_up_nobody(wrapper: Sealed, sealer: Sealer) -> None:
    slow = [wrapper.connect() for _ in range(MAX_CONNECTIONS // 2)]
    began = time.monotonic()
    for connection in slow:
        connection.sendall(b"POST /v1/unseal HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    assert wrapper.unseal(sealer.envelope(wrapper.public_key())) == 200
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.2):
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(b" ")

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        for connection in slow:
            answer = everything(connection)
            assert answer[:12] in (b"HTTP/1.1 408", b"")
    finally:
        stop.set()
        thread.join()
        for connection in slow:
            connection.close()
    assert time.monotonic() - began >= REQUEST_SECONDS / 2
    assert len(refusals(wrapper)) == len(slow)


def test_a_thousand_connections_cost_only_each_other(wrapper: Sealed, sealer: Sealer) -> None:
    envelope = sealer.envelope(wrapper.public_key())
    held: list[socket.socket] = []
    try:
        for number in range(1000):
            connection = wrapper.connect()
            connection.sendall(b"POST /v1/unseal HTTP/1.1\r\n")
            held.append(connection)
            if number == 500:
                assert wrapper.unseal(envelope) == 200
        assert wrapper.status() == {"sealed": False}
        assert len(list_descriptors(wrapper)) < MAX_CONNECTIONS + 30
    finally:
        for connection in held:
            connection.close()
    assert wrapper.ask("GET", "/healthz")[0] == 200
    assert len(refusals(wrapper)) < 100  # a flood does not flood the log


def list_descriptors(wrapper: Sealed) -> list[str]:
    return os.listdir(f"/proc/{wrapper.process.pid}/fd")


def test_of_many_envelopes_at_once_one_counts(wrapper: Sealed, sealer: Sealer) -> None:
    key = wrapper.public_key()
    envelopes = [sealer.envelope(key, token=f"s.{number}") for number in range(16)]
    connections = [wrapper.connect() for _ in envelopes]
    for connection, envelope in zip(connections, envelopes, strict=True):
        connection.sendall(http(envelope)[:-1])
    for connection, envelope in zip(connections, envelopes, strict=True):
        connection.sendall(envelope[-1:])
    answers = sorted(everything(connection)[9:12] for connection in connections)
    for connection in connections:
        connection.close()
    assert answers == [b"200"] + [b"409"] * 15


def test_signals_and_zombies_go_on_while_senders_are_slow(wrapper: Sealed) -> None:
    with wrapper.connect() as connection:
        connection.sendall(b"POST")
        wrapper.process.terminate()
        assert wrapper.process.wait(PATIENCE) == 128 + 15
