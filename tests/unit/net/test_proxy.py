"""Who goes out by which proxy, and that the way through one is bounded, strict and silent about passwords."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloudtaser.errors import ConfigError, ProtocolError, UnavailableError
from cloudtaser.net import tls
from cloudtaser.net.dial import Address, dial_tcp, dial_tls
from cloudtaser.net.proxy import DIRECT, Proxies, Proxy
from cloudtaser.net.rendezvous import meet
from cloudtaser.net.tls import UntrustedError
from cloudtaser.wire.hashes import route_key
from cloudtaser.wire.rendezvous import Role
from tests.unit.net import parties
from tests.unit.net.forward_proxy import ForwardProxy, forward_proxy
from tests.unit.net.wires import Recorder

TARGET = Address("target.example", 8200)
PROXY_CA = parties.authority("proxy")
ROOM = bytes(range(32))
PASSWORD = "canary-password"


@asynccontextmanager
async def echo(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def proxies(proxy: ForwardProxy, scheme: str = "http", **more: str) -> Proxies:
    return Proxies.read({"HTTPS_PROXY": f"{scheme}://localhost:{proxy.port}"}, **more)


# --- the choice


def test_without_a_setting_nothing_is_proxied() -> None:
    assert Proxies.read({}).route("beacon.example.com", 443) is None
    assert DIRECT.route("beacon.example.com", 443) is None


def test_the_flag_wins_over_the_variable_and_off_means_off() -> None:
    environment = {"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2"}
    assert str(Proxies.read(environment).proxy) == "http://a:1"
    assert str(Proxies.read({"https_proxy": "http://b:2"}).proxy) == "http://b:2"
    assert str(Proxies.read(environment, "http://c:3").proxy) == "http://c:3"
    assert Proxies.read(environment, "off").proxy is None
    assert str(Proxies.read({"HTTPS_PROXY": "", "https_proxy": "b:2"}).proxy) == "http://b:2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://proxy.example", "http://proxy.example:80"),
        ("https://proxy.example", "https://proxy.example:443"),
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("http://[2001:db8::1]:3128/", "http://[2001:db8::1]:3128"),
        (f"http://user:{PASSWORD}@proxy:3128", "http://proxy:3128"),
    ],
)
def test_a_proxys_address_is_shown_without_its_credentials(text: str, shown: str) -> None:
    proxy = Proxies.read({"HTTPS_PROXY": text}).proxy
    assert str(proxy) == shown
    assert PASSWORD not in repr(proxy)


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("http://u:p@a", b"u:p"),
        ("http://u%40x:p%3A%25@a", b"u@x:p:%"),
        ("http://u@a", b"u:"),
        ("http://a", None),
    ],
)
def test_credentials_are_decoded_as_a_url_writes_them(url: str, credentials: bytes | None) -> None:
    found = Proxy.parse(url, source="HTTPS_PROXY").credentials
    assert (found.reveal() if found is not None else None) == credentials


@pytest.mark.parametrize(
    "text",
    [
        "socks5://u:canary-password@a:1",
        "http://",
        "http://u:canary-password@:80",
        "http://a:99999",
        "http://a:0",
        "http://a/path",
        "http://a?canary-password",
        "http://[::1",
        "http://a b:1",
        "http://u:canary-password@a:x",
        "http://b\u00fccher:1",
        "ftp://a",
    ],
)
def test_a_bad_address_is_one_line_that_names_the_variable_and_repeats_nothing(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Proxies.read({"HTTPS_PROXY": text})
    assert "HTTPS_PROXY" in caught.value.diagnostic()
    assert PASSWORD not in caught.value.diagnostic()


def test_a_password_on_a_command_line_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="command line") as caught:
        Proxies.read({}, f"http://u:{PASSWORD}@a:1", source="--proxy")
    assert PASSWORD not in caught.value.diagnostic()
    assert Proxies.read({}, f"http://u:{PASSWORD}@a:1", source="CLOUDTASER_BRIDGE_PROXY").proxy is not None


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"]
)
def test_this_machine_is_never_behind_a_proxy(host: str) -> None:
    assert Proxies.read({"HTTPS_PROXY": "http://proxy:1"}).route(host, 443) is None


@pytest.mark.parametrize(
    ("exceptions", "host", "direct"),
    [
        ("*", "anything.example", True),
        ("vault.example", "vault.example", True),
        ("vault.example", "VAULT.example.", True),
        ("vault.example", "eu.vault.example", True),
        ("vault.example", "notvault.example", False),
        ("vault.example", "vault.example.evil", False),
        (".example", "vault.example", True),
        (".example", "example", False),
        ("*.example", "vault.example", True),
        ("*.example", "example", False),
        ("a, vault.example ,b", "vault.example", True),
        ("a vault.example b", "vault.example", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "10.example", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.30", False),
        ("10.1.2.3", "::ffff:10.1.2.3", True),
        ("2001:db8::/32", "2001:db8::1", True),
        ("[2001:db8::1]:8200", "2001:db8::1", True),
        ("[2001:db8::1]:443", "2001:db8::1", False),
        ("vault.example:8200", "vault.example", True),
        ("vault.example:443", "vault.example", False),
        ("10.0.0.0/8:8200", "10.1.2.3", True),
        ("", "vault.example", False),
        (",,", "vault.example", False),
        ("/// [:: 1.2.3.4/99 :8200 [x]y", "vault.example", False),
    ],
)
def test_exceptions_are_understood_as_elsewhere(exceptions: str, host: str, direct: bool) -> None:
    chosen = Proxies.read({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": exceptions})
    assert (chosen.route(host, 8200) is None) is direct


def test_exceptions_hold_for_a_proxy_given_by_flag_and_a_program_may_add_its_own() -> None:
    chosen = Proxies.read({"no_proxy": "a.example"}, "http://proxy:1", direct=["10.96.0.1"])
    assert chosen.route("a.example", 1) is None
    assert chosen.route("10.96.0.1", 443) is None
    assert chosen.route("10.96.0.2", 443) is not None


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_proxys_bad_authority_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="proxy's CA") as caught:
        Proxies.read({}, "https://proxy:1", ca_file=str(file))
    assert str(file) in caught.value.diagnostic()


# --- the way through


async def test_a_connection_goes_through_and_names_the_target_to_the_proxy_only() -> None:
    async with echo() as target, forward_proxy(target) as proxy:
        transport, recorder = await dial_tcp(TARGET, Recorder, proxies=proxies(proxy))
        transport.write(b"hello")
        await recorder.received(5)
        assert bytes(recorder.data) == b"hello"
        assert proxy.requests[0].startswith(b"CONNECT target.example:8200 HTTP/1.1\r\n")
        assert b"Authorization" not in proxy.requests[0]
        transport.close()


async def test_the_first_words_of_the_other_side_may_come_with_the_answer() -> None:
    async with echo() as target, forward_proxy(target) as proxy:
        assert proxy.answer is not None
        proxy.answer += b"early"
        transport, recorder = await dial_tcp(TARGET, Recorder, proxies=proxies(proxy))
        await recorder.received(5)
        assert bytes(recorder.data) == b"early"
        transport.close()


async def test_credentials_reach_the_proxy() -> None:
    async with echo() as target, forward_proxy(target) as proxy:
        chosen = Proxies.read({"HTTPS_PROXY": f"http://user:{PASSWORD}@localhost:{proxy.port}"})
        transport, _ = await dial_tcp(TARGET, Recorder, proxies=chosen)
        assert b"\r\nProxy-Authorization: Basic dXNlcjpjYW5hcnktcGFzc3dvcmQ=\r\n" in proxy.requests[0]
        transport.close()


async def test_tls_to_the_target_runs_inside_and_checks_the_target() -> None:
    context = tls.pod_server(parties.tunnel_ca().issue(names=["target.example"]))
    client = tls.pod_client(parties.tunnel_ca().pem)
    async with echo(context) as target, forward_proxy(target) as proxy:
        transport, recorder = await dial_tls(TARGET, Recorder, client, proxies=proxies(proxy))
        transport.write(b"inside")
        await recorder.received(6)
        transport.close()
        other = Address("other.example", 8200)
        with pytest.raises(UntrustedError):
            await dial_tls(other, Recorder, client, proxies=proxies(proxy))


async def test_an_https_proxy_is_checked_and_tls_runs_in_tls(tmp_path: Path) -> None:
    ca = tmp_path / "proxy-ca.pem"
    ca.write_bytes(PROXY_CA.pem)
    outer = tls.pod_server(PROXY_CA.issue(names=["localhost"]))
    inner = tls.pod_server(parties.tunnel_ca().issue(names=["target.example"]))
    client = tls.pod_client(parties.tunnel_ca().pem)
    async with echo(inner) as target, forward_proxy(target, outer) as proxy:
        transport, recorder = await dial_tls(
            TARGET, Recorder, client, proxies=proxies(proxy, "https", ca_file=str(ca))
        )
        transport.write(b"x" * 300_000)
        await recorder.received(300_000)
        transport.close()
        with pytest.raises(UnavailableError, match=r"no TLS with the proxy: .*certificate verify failed"):
            await dial_tls(TARGET, Recorder, client, proxies=proxies(proxy, "https"))


async def test_a_fleets_route_key_stays_in_the_server_name_and_the_proxy_is_asked_for_the_host() -> None:
    names: list[str | None] = []
    context = tls.pod_server(parties.tunnel_ca().issue(names=["*.fleet.example"]))
    context.sni_callback = lambda _, name, __: names.append(name)
    client = tls.pod_client(parties.tunnel_ca().pem)
    fleet = Address.parse("*.fleet.example:443")
    async with echo(context) as target, forward_proxy(target) as proxy:
        with pytest.raises(ProtocolError, match="an answer that no beacon gives"):  # it echoes the hello
            await meet(fleet, Role.BRIDGE, ROOM, client, Recorder(), proxies=proxies(proxy))
        assert names == [f"{route_key(ROOM)}.fleet.example"]
        assert proxy.requests[0].startswith(b"CONNECT fleet.example:443 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "asks for credentials"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not allow"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "cannot reach"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "cannot reach"),
        (b"HTTP/1.1 418 Teapot\r\n\r\n", "status 418"),
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP proxy"),
        (b"HTTP/1.1 200 fine\r\nX: " + b"a" * 20_000, "too long"),
        (b"HTTP/1.1 ", "closed the connection without an answer"),
        (b"", "closed the connection without an answer"),
    ],
)
async def test_a_refusal_is_one_line_with_target_and_proxy(answer: bytes, words: str) -> None:
    async with forward_proxy() as proxy:
        proxy.answer = answer
        with pytest.raises(UnavailableError, match=words) as caught:
            await dial_tcp(TARGET, Recorder, proxies=proxies(proxy))
        line = caught.value.diagnostic()
        assert f"target.example:8200 through http://localhost:{proxy.port}" in line
        assert "\n" not in line


@pytest.mark.parametrize("status", [407, 401])
async def test_refused_credentials_are_told_apart_from_missing_ones_and_not_shown(status: int) -> None:
    async with forward_proxy() as proxy:
        proxy.answer = b"HTTP/1.1 %d No\r\n\r\n" % status
        chosen = Proxies.read({"HTTPS_PROXY": f"http://user:{PASSWORD}@localhost:{proxy.port}"})
        with pytest.raises(UnavailableError, match="does not accept our credentials") as caught:
            await dial_tcp(TARGET, Recorder, proxies=chosen)
        assert PASSWORD not in caught.value.diagnostic()


async def test_a_silent_proxy_costs_the_timeout_and_no_more() -> None:
    async with forward_proxy() as proxy:
        proxy.answer = None
        with pytest.raises(UnavailableError, match=r"no answer of the proxy within 0\.2 s"):
            await dial_tcp(TARGET, Recorder, 0.2, proxies=proxies(proxy))


async def test_a_proxy_that_is_not_there_is_named() -> None:
    async with forward_proxy() as proxy:
        gone = proxies(proxy)
    with pytest.raises(UnavailableError, match="cannot connect to the proxy: connection refused"):
        await dial_tcp(TARGET, Recorder, proxies=gone)


async def test_giving_up_closes_the_connection_to_the_proxy() -> None:
    async with forward_proxy() as proxy:
        proxy.answer = None
        dial = asyncio.ensure_future(dial_tcp(TARGET, Recorder, proxies=proxies(proxy)))
        await proxy.asked.wait()
        dial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dial
        async with asyncio.timeout(30):
            await asyncio.gather(*proxy.tasks, return_exceptions=True)


async def test_a_target_that_could_not_be_asked_for_is_refused_before_a_byte_is_sent() -> None:
    async with forward_proxy() as proxy:
        with pytest.raises(ProtocolError):
            await dial_tcp(Address("a\r\nX: y", 1), Recorder, proxies=proxies(proxy))
        assert not proxy.requests
