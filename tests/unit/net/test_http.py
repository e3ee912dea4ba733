"""A request is answered, refused or given up in time; nothing is read without bound."""

from __future__ import annotations

import asyncio

import pytest

from cloudtaser.errors import ProtocolError, UnavailableError
from cloudtaser.net.http import request
from cloudtaser.wire.http1 import encode_response_head
from tests.unit.net.wires import Recorder, Wire, plug

HOST = ((b"host", b"kubernetes.default.svc"),)


class Server(Recorder):
    def __init__(self, answer: bytes, *, close: bool = True) -> None:
        super().__init__(half_open=True)
        self.answer = answer
        self.close = close
        self.wire: Wire

    async def connect(self, protocol: asyncio.Protocol) -> object:
        self.wire, _ = plug(protocol, self)
        return self.wire

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(self.answer)
        if self.close:
            self.transport.close()


async def test_a_request_is_written_and_its_answer_read() -> None:
    head = encode_response_head(200, ((b"content-type", b"application/json"),), content_length=2)
    server = Server(head + b"{}", close=False)
    status, headers, body = await request(server.connect, b"GET", b"/openid/v1/jwks", HOST, timeout=30)
    assert (status, body) == (200, b"{}")
    assert (b"content-type", b"application/json") in headers
    sent = bytes(server.data)
    assert sent.startswith(b"GET /openid/v1/jwks HTTP/1.1\r\nhost: kubernetes.default.svc\r\n")
    assert b"content-length" not in sent
    assert server.wire.closing


async def test_a_body_is_sent_with_its_length_and_an_answer_may_end_with_the_connection() -> None:
    server = Server(b"HTTP/1.1 201 Created\r\n\r\nuntil the end")
    status, _, body = await request(server.connect, b"PUT", b"/x", HOST, b"12345", timeout=30)
    assert (status, body) == (201, b"until the end")
    assert server.data.endswith(b"content-length: 5\r\n\r\n12345")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", UnavailableError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000, ProtocolError),
        (b"", UnavailableError),
    ],
)
async def test_anything_else_is_a_typed_error(answer: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        await request(Server(answer).connect, b"GET", b"/", HOST, timeout=30, max_body=1000)


async def test_silence_is_bounded_and_the_connection_given_up() -> None:
    server = Server(b"", close=False)
    with pytest.raises(UnavailableError, match=r"no answer within 0\.02 s"):
        await request(server.connect, b"GET", b"/", HOST, timeout=0.02)
    assert server.wire.closing
