"""The HTTP/1.1 reader: strict, bounded, indifferent to how the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.http1 import MAX_BODY, HttpError, ResponseReader, write_request


def read(raw: bytes, cuts: list[int] | None = None) -> tuple[ResponseReader, bytes]:
    """A reader fed with `raw` in pieces, and what it left."""
    reader = ResponseReader()
    rest = raw
    sizes = iter(cuts or [])
    while rest and not reader.done:
        piece = rest[: next(sizes, len(rest)) or 1]
        taken = reader.receive(memoryview(piece))
        assert 0 < taken <= len(piece)
        rest = rest[taken:]
    return reader, rest


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Trailer: t\r\n\r\n"
)
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
CONTINUED = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PLAIN


@given(
    st.sampled_from([PLAIN, CHUNKED, EMPTY, CONTINUED]),
    st.lists(st.integers(1, 12), max_size=80),
    st.binary(max_size=4),
)
def test_however_the_bytes_are_cut_the_response_is_the_same(raw: bytes, cuts: list[int], rest: bytes) -> None:
    reader, left = read(raw + rest, cuts)
    assert reader.done
    assert reader.response.status in (200, 204)
    assert bytes(reader.response.body.view()) == (b"" if raw is EMPTY else b"hello")
    assert left == rest[len(rest) - len(left) :]
    assert raw + rest == (raw + rest)[: len(raw + rest) - len(left)] + left
    assert len(left) == len(rest)


def test_headers_are_lower_cased_and_joined() -> None:
    reader, _ = read(
        b"HTTP/1.1 503 \r\nRETRY-after: 7\r\nA: 1\r\na: 2\r\n"
        b"Connection: x, Close\r\nContent-Length: 0\r\n\r\n"
    )
    response = reader.response
    assert response.retry_after() == 7
    assert response.headers[b"a"] == b"1, 2"
    assert not response.keep_alive


@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"1.5", b"Wed, 21 Oct 2015 07:28:00 GMT", b"99999999"])
def test_a_retry_after_that_is_no_seconds_counts_as_none(value: bytes) -> None:
    reader, _ = read(b"HTTP/1.1 429 x\r\nRetry-After: " + value + b"\r\nContent-Length: 0\r\n\r\n")
    assert reader.response.retry_after() == 0


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n" + PLAIN,
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2000 x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1  200 x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        HEAD + b"Content-Length: 0\n\r\n",
        HEAD + b"\n",
        HEAD + b"Content-Length: 0\r\n folded\r\n\r\n",
        HEAD + b"Content-Length : 0\r\n\r\n",
        HEAD + b": x\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"nocolon\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"A: b\x07\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"A: b\rc\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
        HEAD + b"Content-Length: 1, 1\r\n\r\n",
        HEAD + b"Content-Length: +1\r\n\r\n",
        HEAD + b"Content-Length: 1_0\r\n\r\n",
        HEAD + b"Content-Length: 0x1\r\n\r\n",
        HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1),
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        HEAD + b"Transfer-Encoding: identity\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"\r\n",  # a body that ends with the connection: a cut could not be told from the end
        b"HTTP/1.1 204 x\r\nContent-Length: 3\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n",
        HEAD + b"A: " + b"x" * 20_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 100,
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(raw: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        read(raw)
    assert "\n" not in str(caught.value)


@given(
    st.lists(
        st.sampled_from(
            [
                b"HTTP/1.1 ",
                b"200",
                b" OK",
                b"\r\n",
                b"\n",
                b"Content-Length: ",
                b"3",
                b"Transfer-Encoding: chunked",
                b"\r\n\r\n",
                b"abc",
                b"0",
                b":",
                b" ",
                b"\x00",
            ]
        ),
        max_size=16,
    ),
    st.integers(1, 7),
)
def test_no_input_makes_it_fail_in_another_way(parts: list[bytes], size: int) -> None:
    raw = b"".join(parts)
    try:
        reader, _ = read(raw, [size] * len(raw))
    except HttpError:
        return
    assert not reader.done or raw.startswith(b"HTTP/1.1 ")


def test_a_body_that_is_cut_off_is_not_done() -> None:
    assert not read(PLAIN[:-1])[0].done
    assert not read(CHUNKED[:-2])[0].done


def test_trailers_are_bounded() -> None:
    endless = HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 10_000
    with pytest.raises(HttpError, match="trailers"):
        read(endless)


def test_a_request_states_the_length_of_its_body() -> None:
    body = Buffer()
    body.append(b"{}")
    request = write_request(b"POST", b"/v1/x", [(b"Host", b"h"), (b"X-Vault-Token", memoryview(b"t"))], body)
    assert (
        bytes(request.view())
        == b"POST /v1/x HTTP/1.1\r\nHost: h\r\nX-Vault-Token: t\r\nContent-Length: 2\r\n\r\n{}"
    )
