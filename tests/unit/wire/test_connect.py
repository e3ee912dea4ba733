"""A proxy's answer is read strictly, bounded, and without losing a byte of what follows."""

from __future__ import annotations

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.secret import Secret
from cloudtaser.wire.connect import MAX_HEAD, MAX_INTERIM, Answer, authority, request

OK = b"HTTP/1.1 200 Connection established\r\nVia: a\r\n\r\n"


def test_the_request_names_the_target_twice_and_nothing_else() -> None:
    assert request("beacon.example.com", 443) == (
        b"CONNECT beacon.example.com:443 HTTP/1.1\r\nHost: beacon.example.com:443\r\n"
        b"User-Agent: cloudtaser\r\n\r\n"
    )
    assert request("2001:db8::1", 8200).startswith(
        b"CONNECT [2001:db8::1]:8200 HTTP/1.1\r\nHost: [2001:db8::1]:8200"
    )


def test_credentials_are_sent_as_basic() -> None:
    said = request("a", 1, Secret("user:p\u00e4ss:word"))
    line = next(line for line in said.split(b"\r\n") if line.startswith(b"Proxy-Authorization: Basic "))
    assert base64.b64decode(line.split()[2]).decode() == "user:p\u00e4ss:word"


@pytest.mark.parametrize(
    "host", ["", "a b", "a\r\nX: y", "a/b", "user@a", "b\u00fccher.example", "[::1]", "::1%eth0"]
)
def test_a_host_that_could_say_more_than_a_host_is_never_sent(host: str) -> None:
    with pytest.raises(ProtocolError):
        request(host, 443)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_is_a_port(port: int) -> None:
    with pytest.raises(ProtocolError):
        authority("a", port)


@given(early=st.binary(max_size=200), cuts=st.lists(st.integers(0, 300), max_size=6))
def test_what_follows_the_answer_is_delivered_however_it_is_cut(early: bytes, cuts: list[int]) -> None:
    data = OK + early
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    answer, got, after = Answer(), None, b""
    for start, end in itertools.pairwise(edges):
        if got is None:
            got = answer.receive(data[start:end])
        else:
            after += data[start:end]
    assert got is not None
    assert got + after == early
    assert answer.status == 200


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.0 200\r\n\r\n", b"HTTP/1.1 204 \r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"],
)
def test_any_success_is_the_pipe_and_has_no_body(head: bytes) -> None:
    assert Answer().receive(head + b"early") == b"early"


@pytest.mark.parametrize("status", [301, 400, 403, 407, 502])
def test_a_refusal_is_a_status_and_no_pipe(status: int) -> None:
    answer = Answer()
    assert answer.receive(b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nno" % status) is None
    assert answer.status == status


def test_interim_answers_are_passed_over_up_to_a_bound() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert Answer().receive(interim * MAX_INTERIM + OK + b"x") == b"x"
    with pytest.raises(ProtocolError):
        Answer().receive(interim * (MAX_INTERIM + 1) + OK)
    with pytest.raises(ProtocolError):
        Answer().receive(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-x\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/1.1 20 x\r\n\r\n",
        b"HTTP/1.1 600 x\r\n\r\n",
        b"HTTP/1.1  200 x\r\n\r\n",
        b"HTTP/1.1 200 x\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 x\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 x\r\na: b\nc: d\r\n\r\n",
        b"HTTP/1.1 200 x\0\r\n\r\n",
        b"http/1.1 200 x\r\n\r\n",
        b"\r\nHTTP/1.1 200 x\r\n\r\n",
    ],
)
def test_what_no_proxy_says_is_an_error(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        Answer().receive(said)


def test_a_wrong_first_byte_is_not_waited_on() -> None:
    with pytest.raises(ProtocolError):
        Answer().receive(b"W")


@pytest.mark.parametrize("step", [1000, MAX_HEAD * 4])
def test_an_endless_head_is_cut_off(step: int) -> None:
    answer = Answer()
    said = iter(OK[:-2] + b"X: " + b"a" * MAX_HEAD * 4)
    for _ in range(MAX_HEAD // step):
        assert answer.receive(bytes(itertools.islice(said, step))) is None
    with pytest.raises(ProtocolError, match="too long"):
        answer.receive(bytes(itertools.islice(said, step)))


def test_a_long_head_that_ends_is_too_long_too() -> None:
    with pytest.raises(ProtocolError, match="too long"):
        Answer().receive(OK[:-2] + b"X: " + b"a" * MAX_HEAD + b"\r\n\r\n")


def test_much_of_the_peers_own_words_is_not_a_long_head() -> None:
    assert Answer().receive(OK + b"x" * MAX_HEAD * 4) == b"x" * MAX_HEAD * 4
