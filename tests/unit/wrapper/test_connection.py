"""A connection whose peer always has more to say still leaves turns to everybody else, and ends in time."""

from __future__ import annotations

import _socket
import _thread
import errno
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtaser.wrapper.addresses import Endpoint
from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.connection import Connection, Trust, connect
from cloudtaser.wrapper.errors import ConfigError, UnavailableError
from cloudtaser.wrapper.loop import Loop
from cloudtaser.wrapper.resolve import Address, resolve

BODY = 4_000_000
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY


class Hose:
    """A socket that never makes its reader wait: the head of an answer, then its body as fast as it is
    read.
    """

    def __init__(self, clock: Iterator[float]) -> None:
        self._clock = clock
        self._first = ANSWER
        self.closed = False

    def recv_into(self, space: memoryview) -> int:
        next(self._clock)
        data, self._first = self._first or b"x" * len(space), b""
        space[: len(data)] = data
        return len(data)

    def send(self, data: memoryview) -> int:
        return len(data)

    def close(self) -> None:
        self.closed = True


def exchange(seconds_per_read: float, deadline: float) -> tuple[int, object]:
    """What the exchange gave, and how many turns another task had meanwhile."""
    now = [0.0]

    def ticks() -> Iterator[float]:
        for _ in itertools.count():
            now[0] += seconds_per_read
            yield now[0]

    loop = Loop(lambda: now[0])
    connection = Connection(loop, Hose(ticks()), "hose:1")  # type: ignore[arg-type]  # a stand-in
    request = Buffer(16, 16)
    request.append(b"GET / HTTP/1.1\r\n")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await loop.sleep(0)
            turns += 1

    loop.spawn(other())
    result = loop.run(loop.spawn(connection.exchange([request], deadline)))
    return turns, result


def test_a_peer_that_always_has_more_leaves_turns_to_everybody_else() -> None:
    turns, result = exchange(0.0, 1.0)
    assert isinstance(result, tuple)
    assert len(result[0][0].body) == BODY
    assert turns >= 10


def test_a_peer_that_always_has_more_is_given_up_at_the_deadline() -> None:
    with pytest.raises(UnavailableError, match="no answer in time"):
        exchange(0.1, 5.0)


def test_an_address_of_a_family_that_the_kernel_does_not_have_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    any_family = _socket.socket

    def no_ipv6(family: int, kind: int) -> _socket.socket:
        if family == _socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return any_family(family, kind)

    async def both(loop: Loop, host: str, port: int, deadline: float) -> list[Address]:
        return [Address(_socket.AF_INET6, ("::1", port, 0, 0)), Address(_socket.AF_INET, ("127.0.0.1", port))]

    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    endpoint = Endpoint("localhost", listener.getsockname()[1], tls=False, broker=False)
    monkeypatch.setattr("cloudtaser.wrapper.connection.resolve", both)
    monkeypatch.setattr(_socket, "socket", no_ipv6)
    loop = Loop()
    opened = loop.run(loop.spawn(connect(loop, endpoint, Trust(Config(), endpoint), loop.now() + 5)))
    assert isinstance(opened, Connection)
    opened.close()
    listener.close()


def test_a_process_that_may_have_no_further_thread_tries_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", none_left)
    loop = Loop()
    with pytest.raises(UnavailableError, match="cannot be started"):
        loop.run(loop.spawn(resolve(loop, "localhost", 1, loop.now() + 5)))


@pytest.mark.parametrize("content", ["", "root:x:0:0", "-----BEGIN CERTIFICATE-----\n!\n"])
@pytest.mark.parametrize("name", ["VAULT_CACERT", "VAULT_CLIENT_CERT"])
def test_a_file_without_a_certificate_is_named_in_words(tmp_path: Path, name: str, content: str) -> None:
    config = Config()
    (tmp_path / "file").write_text(content)
    if name == "VAULT_CACERT":
        config.ca_file = str(tmp_path / "file")
    else:
        config.client_cert = config.client_key = str(tmp_path / "file")
    with pytest.raises(ConfigError) as caught:
        Trust(config, Endpoint("vault.example", 443, tls=True, broker=False)).context()
    assert (caught.value.on, ".c:" in str(caught.value)) == (name, False)
    assert "there is no usable PEM in it" in str(caught.value)


def test_openssl_is_told_to_wipe_what_it_decrypted() -> None:
    """SSL_OP_CLEANSE_PLAINTEXT is bit 1; the searches of the wrapper's memory show that it does."""
    config = Config()
    config.skip_verify = True
    endpoint = Endpoint("127.0.0.1", 8200, tls=True, broker=False)
    assert Trust(config, endpoint).context().options & 2
