"""Requests from strangers: one for each connection, and nothing that two readers could take differently."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper.inbound import MAX_BODY, MAX_HEAD, RequestError, RequestReader

POST = b"POST /v1/unseal HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n"


def read(wire: bytes, size: int = 100_000) -> RequestReader:
    reader = RequestReader()
    for start in range(0, len(wire), size):
        reader.receive(memoryview(wire)[start : start + size])
    return reader


def head(*lines: str) -> bytes:
    return "\r\n".join((*lines, "", "")).encode("latin-1")


@pytest.mark.parametrize("size", [1, 3, 64, 100_000])
def test_a_request_is_read_however_it_is_cut(size: int) -> None:
    reader = read(POST, size)
    assert reader.done
    assert (reader.method, reader.target, bytes(reader.body.view())) == (b"POST", b"/v1/unseal", b"hello")
    reader = read(GET, size)
    assert reader.done
    assert (reader.method, reader.target, len(reader.body)) == (b"GET", b"/v1/status", 0)


def test_a_request_that_is_cut_off_is_not_done() -> None:
    for end in range(len(POST)):
        assert not read(POST[:end]).done
    assert not read(b"").begun


REFUSED = {
    "two requests": (GET + GET, 400),
    "bytes behind the body": (POST + b"x", 400),
    "bytes behind the head": (GET + b"x", 400),
    "two lengths that agree": (
        head("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Content-Length: 5"),
        400,
    ),
    "two lengths that differ": (
        head("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "content-length: 6"),
        400,
    ),
    "a list of lengths": (head("POST / HTTP/1.1", "Host: a", "Content-Length: 5, 5"), 400),
    "a signed length": (head("POST / HTTP/1.1", "Host: a", "Content-Length: +5"), 400),
    "a length with a zero": (head("POST / HTTP/1.1", "Host: a", "Content-Length: 05"), 400),
    "a hexadecimal length": (head("POST / HTTP/1.1", "Host: a", "Content-Length: 0x5"), 400),
    "an empty length": (head("POST / HTTP/1.1", "Host: a", "Content-Length:"), 400),
    "chunks": (head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"), 501),
    "chunks and a length": (
        head("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Transfer-Encoding: chunked"),
        501,
    ),
    "chunks, oddly": (head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding:\tchunked"), 501),
    "chunks by another name": (head("POST / HTTP/1.1", "Host: a", "Transfer_Encoding: chunked"), 400),
    "a blank before the colon": (head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding : chunked"), 400),
    "a folded line": (head("POST / HTTP/1.1", "Host: a", "X: y", " Content-Length: 5"), 400),
    "no length": (head("POST / HTTP/1.1", "Host: a"), 411),
    "a body where none may be": (head("GET / HTTP/1.1", "Host: a", "Content-Length: 5"), 400),
    "too long a body": (head("POST / HTTP/1.1", "Host: a", f"Content-Length: {MAX_BODY + 1}"), 413),
    "a length beyond reason": (head("POST / HTTP/1.1", "Host: a", "Content-Length: 9999999999999"), 400),
    "too long a head": (head("GET / HTTP/1.1", "Host: a", "X: " + "y" * MAX_HEAD), 431),
    "too many headers": (head("GET / HTTP/1.1", "Host: a", *["X: y"] * 60), 431),
    "no host": (head("GET / HTTP/1.1"), 400),
    "two hosts": (head("GET / HTTP/1.1", "Host: a", "Host: a"), 400),
    "LF alone": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "LF alone in a header": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    "a NUL": (head("GET / HTTP/1.1", "Host: a\0"), 400),
    "an older version": (head("GET / HTTP/1.0", "Host: a"), 505),
    "a newer version": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "an absolute target": (head("GET http://a/v1/status HTTP/1.1", "Host: a"), 400),
    "a target with a blank": (head("GET /v1 /status HTTP/1.1", "Host: a"), 400),
    "an expectation": (
        head("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Expect: 200-maybe"),
        417,
    ),
}


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_two_ways_is_refused(name: str, size: int) -> None:
    wire, status = REFUSED[name]
    with pytest.raises(RequestError) as caught:
        read(wire, size)
    assert caught.value.status == status


def test_a_head_without_end_is_refused_before_it_fills_memory() -> None:
    endless = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * MAX_HEAD
    assert not read(endless[:200], 6).done
    with pytest.raises(RequestError):
        read(endless[: MAX_HEAD + 1], 6)


def test_a_sender_may_ask_whether_to_go_on() -> None:
    wire = head("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Expect: 100-continue")
    reader = read(wire)
    assert reader.wants_continue
    assert not reader.done


@given(
    st.sampled_from((b"", b"POST /v1/unseal HTTP/1.1\r\n", POST[:-5])),
    st.binary(max_size=300),
    st.integers(1, 50),
)
def test_any_bytes_are_a_request_or_are_refused(prefix: bytes, wire: bytes, size: int) -> None:
    with contextlib.suppress(RequestError):
        reader = read(prefix + wire, size)
        assert not reader.done or len(reader.body) <= MAX_BODY
