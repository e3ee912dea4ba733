"""HTTP/1.1: what two parsers could read differently is refused, and everything else survives any chunking."""

from __future__ import annotations

from collections.abc import Sequence

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.wire import http1_head
from cloudtaser.wire.http1 import (
    CONTINUE,
    LAST_CHUNK,
    MAX_HEAD,
    Body,
    End,
    HttpError,
    RequestHead,
    RequestParser,
    ResponseHead,
    ResponseParser,
    chunk,
    encode_request,
    encode_response_head,
    simple_response,
)

Event = RequestHead | ResponseHead | Body | End


def joined(events: Sequence[Event]) -> list[Event]:
    """Neighbouring pieces of one body joined: what stays the same however the bytes are split."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Body) and isinstance(last, Body):
            result[-1] = Body(last.data + event.data)
        else:
            result.append(event)
    return result


def hear_requests(pieces: Sequence[bytes], **limits: int) -> tuple[list[Event], int]:
    """What a server hears, and the status with which it refuses (0: it does not)."""
    parser = RequestParser(**limits)
    events: list[Event] = []
    for piece in pieces:
        try:
            events += parser.receive(piece)
        except HttpError as error:
            return joined([*events, *error.events]), error.status
    return joined(events), 0


def hear_responses(pieces: Sequence[bytes], *methods: bytes, end: bool = False) -> tuple[list[Event], int]:
    parser = ResponseParser()
    for method in methods:
        parser.expect(method)
    events: list[Event] = []
    try:
        for piece in pieces:
            events += parser.receive(piece)
        if end:
            events += parser.eof()
    except HttpError as error:
        return joined([*events, *error.events]), error.status
    return joined(events), 0


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def request(*lines: bytes, line: bytes = b"PUT /v1/x HTTP/1.1", host: bytes = b"Host: b") -> bytes:
    return b"\r\n".join((line, *([host] if host else []), *lines, b"", b""))


def response(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join((line, *lines, b"", b""))


# -- requests


def test_a_request_is_read_with_its_body_and_the_next_one_follows() -> None:
    data = (
        request(b"Content-Length: 3", b"X-Vault-Token:  t ")
        + b"abc"
        + request(line=b"LIST /v1/y?a=b HTTP/1.1")
    )
    first = RequestHead(
        b"PUT",
        b"/v1/x",
        ((b"host", b"b"), (b"content-length", b"3"), (b"x-vault-token", b"t")),
        3,
        False,
        True,
        False,
    )
    second = RequestHead(b"LIST", b"/v1/y?a=b", ((b"host", b"b"),), None, False, True, False)
    expected = [first, Body(b"abc"), End(), second, End()]
    for size in (1, 2, 7, len(data)):
        assert hear_requests(pieces(data, size)) == (expected, 0)


def test_a_chunked_body_is_read_without_its_extensions_and_trailers() -> None:
    data = (
        request(b"Transfer-Encoding: chunked")
        + b"3\r\nabc\r\n0A;ext=1\r\n0123456789\r\n0\r\nX-Trail: x\r\n\r\n"
        + request(b"Transfer-Encoding: Chunked")
        + b"0\r\n\r\n"
    )
    for size in (1, 3, len(data)):
        events, status = hear_requests(pieces(data, size))
        assert status == 0
        assert [type(event) for event in events] == [RequestHead, Body, End, RequestHead, End]
        assert events[1] == Body(b"abc0123456789")
        assert isinstance(events[0], RequestHead)
        assert events[0].chunked
        assert all(name != b"x-trail" for name, _ in events[0].headers)


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (request(), True),
        (request(b"Connection: close"), False),
        (request(b"Connection: keep-alive, Close"), False),
        (request(b"Connection: keep-alive", b"connection: close"), False),
        (request(b"Connection: closed"), True),
        (request(line=b"GET / HTTP/1.0"), False),
        (request(b"Connection: keep-alive", line=b"GET / HTTP/1.0"), False),
    ],
)
def test_whether_the_connection_goes_on(head: bytes, keep_alive: bool) -> None:
    events, _ = hear_requests([head])
    assert isinstance(events[0], RequestHead)
    assert events[0].keep_alive is keep_alive


def test_a_body_that_waits_for_leave_is_flagged() -> None:
    events, _ = hear_requests([request(b"Expect: 100-Continue", b"Content-Length: 1")])
    assert isinstance(events[0], RequestHead)
    assert events[0].expect_continue


def test_values_may_be_empty_or_hold_other_alphabets_and_names_are_lower_case() -> None:
    events, status = hear_requests([request(b"X-Empty:", b"X-Name: \xc3\xa4 b", b"X-Tab:\ta\tb\t")])
    assert status == 0
    assert isinstance(events[0], RequestHead)
    assert events[0].headers[1:] == ((b"x-empty", b""), (b"x-name", b"\xc3\xa4 b"), (b"x-tab", b"a\tb"))


REFUSED_REQUESTS = {
    "length and chunks": (400, request(b"Content-Length: 3", b"Transfer-Encoding: chunked")),
    "chunks and length": (400, request(b"Transfer-Encoding: chunked", b"Content-Length: 3")),
    "two equal lengths": (400, request(b"Content-Length: 3", b"Content-Length: 3")),
    "two lengths": (400, request(b"Content-Length: 3", b"Content-Length: 4")),
    "a list of lengths": (400, request(b"Content-Length: 3, 3")),
    "a signed length": (400, request(b"Content-Length: +3")),
    "a negative length": (400, request(b"Content-Length: -3")),
    "a length in hex": (400, request(b"Content-Length: 0x3")),
    "a length with a leading zero": (400, request(b"Content-Length: 03")),
    "an empty length": (400, request(b"Content-Length:")),
    "a length with a space within": (400, request(b"Content-Length: 1 2")),
    "a length beyond reason": (400, request(b"Content-Length: 99999999999999999999999")),
    "a length spelled with an underscore": (400, request(b"Content_Length: 3")),
    "a coding spelled with an underscore": (400, request(b"Transfer_Encoding: chunked")),
    "another coding": (501, request(b"Transfer-Encoding: gzip, chunked")),
    "chunks twice": (400, request(b"Transfer-Encoding: chunked, chunked")),
    "two codings": (400, request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked")),
    "a coding that looks like chunks": (400, request(b"Transfer-Encoding: xchunked")),
    "a coding in quotes": (400, request(b'Transfer-Encoding: "chunked"')),
    "a coding behind a vertical tab": (400, request(b"Transfer-Encoding: \x0bchunked")),
    "identity": (400, request(b"Transfer-Encoding: identity")),
    "chunks in HTTP/1.0": (400, request(b"Transfer-Encoding: chunked", line=b"PUT / HTTP/1.0")),
    "an expectation in HTTP/1.0": (400, request(b"Expect: 100-continue", line=b"PUT / HTTP/1.0")),
    "another expectation": (417, request(b"Expect: 200-ok")),
    "an empty expectation": (417, request(b"Expect:")),
    "two expectations": (417, request(b"Expect: 100-continue", b"Expect: 100-continue")),
    "a bare LF": (400, b"GET / HTTP/1.1\nHost: b\n\n"),
    "a bare LF among good ends": (400, b"GET / HTTP/1.1\r\nHost: b\nX: y\r\n\r\n"),
    "a bare CR": (400, b"GET / HTTP/1.1\r\nHost: b\rX: y\r\n\r\n"),
    "a bare CR in a name": (400, b"GET / HTTP/1.1\r\nHost: b\r\nX\r: y\r\n\r\n"),
    "a folded line": (400, request(b"X: a", b" b")),
    "a folded line by tab": (400, request(b"X: a", b"\tb")),
    "a folded first line": (400, b"GET / HTTP/1.1\r\n Host: b\r\n\r\n"),
    "a space before the colon": (400, request(b"X : a")),
    "a tab before the colon": (400, request(b"X\t: a")),
    "a space in a name": (400, request(b"X Y: a")),
    "no name": (400, request(b": a")),
    "no colon": (400, request(b"X")),
    "NUL in a value": (400, request(b"X: a\0b")),
    "NUL in a name": (400, request(b"X\0: a")),
    "a control byte": (400, request(b"X: a\x07")),
    "DEL": (400, request(b"X: a\x7f")),
    "a name outside ASCII": (400, request(b"\xc3\xa4: a")),
    "no host": (400, request(host=b"")),
    "two hosts": (400, request(b"Host: b")),
    "a host with a path": (400, request(host=b"Host: a/b")),
    "a host with a user": (400, request(host=b"Host: a@b")),
    "a host that is a list": (400, request(host=b"Host: a, b")),
    "the preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "another version": (400, request(line=b"GET / HTTP/1.2")),
    "a version in lower case": (400, request(line=b"GET / http/1.1")),
    "no version": (400, b"GET /\r\n\r\n"),
    "a method in lower case": (400, request(line=b"get / HTTP/1.1")),
    "an empty line first": (400, b"\r\n" + request()),
    "two spaces": (400, request(line=b"GET  / HTTP/1.1")),
    "a space behind the version": (400, request(line=b"GET / HTTP/1.1 ")),
    "a tab for a space": (400, request(line=b"GET\t/ HTTP/1.1")),
    "absolute form": (400, request(line=b"GET http://b/ HTTP/1.1")),
    "authority form": (400, request(line=b"CONNECT b:443 HTTP/1.1")),
    "asterisk form": (400, request(line=b"OPTIONS * HTTP/1.1")),
    "a fragment": (400, request(line=b"GET /a#b HTTP/1.1")),
    "a backslash": (400, request(line=b"GET /a\\b HTTP/1.1")),
    "a broken escape": (400, request(line=b"GET /a%2 HTTP/1.1")),
    "another broken escape": (400, request(line=b"GET /a%zz HTTP/1.1")),
    "a target outside ASCII": (400, request(line=b"GET /\xc3\xa4 HTTP/1.1")),
    "an upgrade": (501, request(b"Connection: upgrade", b"Upgrade: websocket")),
    "an upgrade that nobody announced": (501, request(b"Upgrade: h2c")),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
}


@pytest.mark.parametrize(("status", "data"), REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS.keys())
def test_a_request_that_could_be_read_in_two_ways_is_refused(status: int, data: bytes) -> None:
    for size in (1, 5, len(data)):
        events, refused = hear_requests(pieces(data, size))
        assert refused == status
        assert events == []


class LenientParser(httptools.HttpRequestParser):
    """llhttp with all the leniency it can be given."""

    def __init__(self, protocol: object) -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_chunked_length=True,
            lenient_keep_alive=True,
            lenient_transfer_encoding=True,
            lenient_version=True,
            lenient_data_after_close=True,
            lenient_optional_lf_after_cr=True,
            lenient_optional_cr_before_lf=True,
            lenient_optional_crlf_after_chunk=True,
            lenient_spaces_after_chunk_size=True,
        )


@pytest.mark.parametrize("layer", ["our own check", "llhttp's strictness"])
@pytest.mark.parametrize(("status", "data"), REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS.keys())
def test_either_of_two_checks_is_enough(
    monkeypatch: pytest.MonkeyPatch, layer: str, status: int, data: bytes
) -> None:
    """With one of the two layers taken away, the other still lets nothing doubtful through."""
    if layer == "our own check":
        monkeypatch.setattr(http1_head, "_check_bytes", lambda head: None)
    else:
        monkeypatch.setattr(httptools, "HttpRequestParser", LenientParser)
    events, refused = hear_requests([data])
    assert refused
    assert events == []


BAD_CHUNKS = {
    "no size": b"\r\nabc\r\n",
    "a size in other digits": b"g\r\n",
    "a signed size": b"+3\r\nabc\r\n",
    "a prefixed size": b"0x3\r\nabc\r\n",
    "a size with a space first": b" 3\r\nabc\r\n",
    "a size with a space behind": b"3 \r\nabc\r\n",
    "a size beyond 32 bits": b"123456789\r\n",
    "a bare LF": b"3\nabc\r\n",
    "a bare CR": b"3\rabc\r\n",
    "a bare CR in an extension": b"3;a\rb\r\nabc\r\n",
    "a bare LF in an extension": b"3;a\nb\r\nabc\r\n",
    "NUL in an extension": b"3;a\0\r\nabc\r\n",
    "an extension too long": b"3;" + b"x" * 300 + b"\r\nabc\r\n",
    "data longer than its size": b"3\r\nabcd\r\n",
    "a bare LF behind the data": b"3\r\nabc\n0\r\n\r\n",
    "a bare LF at the end": b"0\r\n\n",
    "a trailer with a bare LF": b"0\r\nX: a\nY: b\r\n\r\n",
    "a trailer that is folded": b"0\r\nX: a\r\n b\r\n\r\n",
    "a trailer with a space before the colon": b"0\r\nX : a\r\n\r\n",
    "a trailer that is a request": b"0\r\nGET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
def test_chunks_that_could_be_read_in_two_ways_are_refused(body: bytes) -> None:
    data = request(b"Transfer-Encoding: chunked") + body
    outcomes = [hear_requests(pieces(data, size)) for size in (1, 4, len(data))]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert outcomes[0][1] == 400
    assert End() not in outcomes[0][0]


def test_trailers_without_end_are_refused() -> None:
    data = request(b"Transfer-Encoding: chunked") + b"0\r\n" + b"X: y\r\n" * 1000
    assert hear_requests([data])[1] == hear_requests(pieces(data, 100))[1] == 431


def test_a_head_that_does_not_end_is_refused_at_its_bound() -> None:
    data = request(b"X: " + b"a" * MAX_HEAD)
    for size in (100, len(data)):
        assert hear_requests(pieces(data, size)) == ([], 431)
    late = data + b"\n\n"  # a bare line end beyond the bound changes nothing
    for size in (100, len(late)):
        assert hear_requests(pieces(late, size)) == ([], 431)
    fits = request(b"X: " + b"a" * (MAX_HEAD - len(request(b"X: "))))
    assert len(fits) == MAX_HEAD
    assert hear_requests([fits])[1] == hear_requests(pieces(fits, 1000))[1] == 0


def test_too_many_headers_too_long_a_target_and_too_large_a_body_are_refused() -> None:
    assert hear_requests([request(*[b"X: y"] * 99)])[1] == 0
    assert hear_requests([request(*[b"X: y"] * 100)])[1] == 431
    assert hear_requests([request(line=b"GET /" + b"a" * 8192 + b" HTTP/1.1")])[1] == 414
    assert hear_requests([request(b"Content-Length: 11")], max_body=10) == ([], 413)
    chunked = request(b"Transfer-Encoding: chunked") + b"6\r\nabcdef\r\n5\r\nabcde\r\n0\r\n\r\n"
    for size in (1, len(chunked)):
        events, status = hear_requests(pieces(chunked, size), max_body=10)
        assert (status, events[1:]) == (413, [Body(b"abcdef")])


def test_a_good_request_before_a_bad_one_is_not_lost() -> None:
    data = request() + b"nonsense\r\n\r\n"
    for size in (1, len(data)):
        events, status = hear_requests(pieces(data, size))
        assert status == 400
        assert [type(event) for event in events] == [RequestHead, End]


def test_a_parser_that_has_refused_reads_no_more() -> None:
    parser = RequestParser()
    with pytest.raises(HttpError):
        parser.receive(b"nonsense\r\n\r\n")
    with pytest.raises(HttpError):
        parser.receive(request())


def test_a_request_that_hides_in_a_body_stays_a_body() -> None:
    hidden = request(line=b"DELETE /v1/secret HTTP/1.1")
    events, _ = hear_requests([request(b"Content-Length: %d" % len(hidden)) + hidden])
    assert [type(event) for event in events] == [RequestHead, Body, End]


def test_idle_is_between_messages_only() -> None:
    parser = RequestParser()
    idle = [parser.idle]
    for piece in (request(b"Content-Length: 1"), b"x", b"G"):
        parser.receive(piece)
        idle.append(parser.idle)
    assert idle == [True, False, True, False]


# -- responses


def test_responses_are_framed_by_length_chunks_or_the_end_of_the_connection() -> None:
    data = (
        response(b"Content-Length: 2")
        + b"ab"
        + response(b"Transfer-Encoding: chunked")
        + b"2\r\ncd\r\n0\r\n\r\n"
        + response(b"Content-Type: x")
        + b"until the end"
    )
    for size in (1, 9, len(data)):
        events, status = hear_responses(pieces(data, size), b"GET", b"GET", b"GET", end=True)
        assert status == 0
        assert [type(e) for e in events] == [ResponseHead, Body, End] * 3
        assert [e.data for e in events if isinstance(e, Body)] == [b"ab", b"cd", b"until the end"]
        assert [e.keep_alive for e in events if isinstance(e, ResponseHead)] == [True, True, False]


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", response(b"Content-Length: 100")),
        (b"HEAD", response(b"Transfer-Encoding: chunked")),
        (b"HEAD", response()),
        (b"GET", response(line=b"HTTP/1.1 204 No Content")),
        (b"GET", response(b"Content-Length: 100", line=b"HTTP/1.1 304 Not Modified")),
    ],
)
def test_a_response_without_a_body_ends_with_its_head(method: bytes, head: bytes) -> None:
    following = response(b"Content-Length: 1") + b"x"
    events, status = hear_responses([head + following], method, b"GET")
    assert status == 0
    assert [type(e) for e in events] == [ResponseHead, End, ResponseHead, Body, End]


def test_interim_responses_are_passed_over() -> None:
    data = CONTINUE + response(line=b"HTTP/1.1 103 Early Hints") + response(b"Content-Length: 0")
    events, status = hear_responses([data], b"PUT")
    assert status == 0
    assert [type(e) for e in events] == [ResponseHead, End]


REFUSED_RESPONSES = {
    "nobody asked": (response(b"Content-Length: 0"), ()),
    "one too many": (response(b"Content-Length: 0") * 2, (b"GET",)),
    "two framings": (response(b"Content-Length: 3", b"Transfer-Encoding: chunked"), (b"GET",)),
    "two lengths": (response(b"Content-Length: 3", b"Content-Length: 3"), (b"GET",)),
    "another coding": (response(b"Transfer-Encoding: gzip"), (b"GET",)),
    "chunks in HTTP/1.0": (response(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"), (b"GET",)),
    "a bare LF": (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", (b"GET",)),
    "a folded line": (response(b"X: a", b" b"), (b"GET",)),
    "a change of protocol": (response(line=b"HTTP/1.1 101 Switching Protocols"), (b"GET",)),
    "interim without end": (CONTINUE * 9, (b"GET",)),
    "an interim body": (response(b"Content-Length: 3", line=b"HTTP/1.1 103 x"), (b"GET",)),
    "no status": (response(line=b"HTTP/1.1 OK"), (b"GET",)),
    "status 600": (response(line=b"HTTP/1.1 600 x"), (b"GET",)),
    "HTTP/2": (response(line=b"HTTP/2 200"), (b"GET",)),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", (b"GET",)),
}


@pytest.mark.parametrize(("data", "methods"), REFUSED_RESPONSES.values(), ids=REFUSED_RESPONSES.keys())
def test_a_response_that_could_be_read_in_two_ways_is_refused(
    data: bytes, methods: tuple[bytes, ...]
) -> None:
    outcomes = [hear_responses(pieces(data, size), *methods) for size in (1, 5, len(data))]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert outcomes[0][1] == 502


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 2",
        response(b"Content-Length: 3") + b"ab",
        response(b"Transfer-Encoding: chunked") + b"0\r\n",
    ],
)
def test_a_response_that_breaks_off_is_an_error(data: bytes) -> None:
    assert hear_responses([data], b"GET", end=True)[1] == 502


def test_the_end_of_an_idle_connection_is_nothing() -> None:
    assert hear_responses([response(b"Content-Length: 0")], b"GET", end=True)[1] == 0


# -- writing

TOKENS = st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True).filter(
    lambda name: name.lower() not in {b"connection", b"upgrade", b"expect", b"host"}
)
VALUES = st.from_regex(rb"([!-~\x80-\xff]([ -~\x80-\xff]{0,20}[!-~\x80-\xff])?)?", fullmatch=True)
BODIES = st.lists(st.binary(min_size=1, max_size=50), max_size=4)


@settings(max_examples=150)
@given(
    st.sampled_from([b"GET", b"PUT", b"LIST", b"SCAN", b"PATCH"]),
    st.lists(st.tuples(TOKENS, VALUES), max_size=6),
    BODIES,
    st.booleans(),
    st.integers(1, 40),
)
def test_a_written_request_is_read_back_in_any_chunks(
    method: bytes, headers: list[tuple[bytes, bytes]], body: list[bytes], chunked: bool, size: int
) -> None:
    whole = b"".join(body)
    head = encode_request(
        method, b"/v1/a?b=%20", [(b"Host", b"b"), *headers], content_length=len(whole), chunked=chunked
    )
    data = head + (b"".join(map(chunk, body)) + LAST_CHUNK if chunked else whole)
    events, status = hear_requests(pieces(data + data, size))
    assert status == 0
    half = events[: len(events) // 2]
    assert half == events[len(events) // 2 :]
    assert isinstance(half[0], RequestHead)
    assert (half[0].method, half[0].chunked) == (method, chunked)
    assert half[0].content_length == (None if chunked else len(whole))
    framing = (b"content-length", b"transfer-encoding")
    sent = [(n.lower(), v) for n, v in headers if n.lower() not in framing]
    assert [(n, v) for n, v in half[0].headers[1:] if n not in framing] == sent
    assert half[1:] == ([Body(whole)] if whole else []) + [End()]


@given(st.integers(200, 599), BODIES, st.booleans(), st.integers(1, 40))
def test_a_written_response_is_read_back_in_any_chunks(
    status: int, body: list[bytes], chunked: bool, size: int
) -> None:
    whole = b"".join(body)
    if status in (204, 304):
        body, whole = [], b""
    head = encode_response_head(
        status, [(b"x", b"y")], content_length=None if chunked else len(whole), chunked=chunked
    )
    framed = b"".join(map(chunk, body)) + LAST_CHUNK if chunked else whole
    if status in (204, 304):
        framed = b""
    events, refused = hear_responses(pieces(head + framed, size), b"GET")
    assert refused == 0
    assert events[1:] == ([Body(whole)] if whole else []) + [End()]


def test_a_simple_response_is_whole() -> None:
    events, status = hear_responses([simple_response(403, b"{}", [(b"x", b"y")])], b"GET")
    assert status == 0
    assert isinstance(events[0], ResponseHead)
    assert events[0].status == 403
    assert (b"content-type", b"application/json") in events[0].headers
    assert events[1:] == [Body(b"{}"), End()]
    assert hear_responses([simple_response(204, b"")], b"GET")[1] == 0
    assert simple_response(299, b"{}").startswith(b"HTTP/1.1 299 ")


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"x", b"a\r\nb: c"), (b"x", b"a\nb"), (b"x", b"a\r"), (b"x\r\ny", b"z"), (b"x", b"\0")],
)
def test_a_header_that_would_break_out_is_not_written(name: bytes, value: bytes) -> None:
    with pytest.raises(ProtocolError):
        encode_request(b"GET", b"/", [(name, value)], content_length=None)
    with pytest.raises(ProtocolError):
        encode_response_head(200, [(name, value)], content_length=0)


@pytest.mark.parametrize("target", [b"/a b", b"/ HTTP/1.1\r\nX: y\r\n\r\n"])
def test_a_target_that_would_break_out_is_not_written(target: bytes) -> None:
    with pytest.raises(ProtocolError):
        encode_request(b"GET", target, [], content_length=None)


# -- any bytes

PARTS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n", b"Host: b\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
        b"\r\n", b"\n", b"\r", b"3\r\n", b"abc", b"0\r\n\r\n", b" ", b":", b"HTTP/1.1 200 OK\r\n",
        b"Connection: upgrade\r\n", b"Upgrade: x\r\n", b"Connection: close\r\n", b"HTTP/1.1 100 C\r\n\r\n",
    ]
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(PARTS | st.binary(max_size=6), max_size=24).map(b"".join), st.integers(1, 30))
def test_any_bytes_are_heard_alike_in_any_chunks_or_end_in_a_typed_error(data: bytes, size: int) -> None:
    whole = hear_requests([data])
    assert hear_requests(pieces(data, size)) == whole
    assert hear_requests(pieces(data, 1)) == whole
    answers = hear_responses([data], b"GET", b"HEAD", b"GET")
    assert hear_responses(pieces(data, size), b"GET", b"HEAD", b"GET") == answers
    assert hear_responses(pieces(data, 1), b"GET", b"HEAD", b"GET") == answers
