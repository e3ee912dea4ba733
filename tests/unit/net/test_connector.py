"""Every HTTP client of ours through a proxy: OpenBao's, an API server's, and the bridge's own pool."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloudtaser.bridge.upstream import Upstream
from cloudtaser.errors import UnavailableError
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.errors import KubeUnavailableError
from cloudtaser.net import tls
from cloudtaser.net.proxy import Proxies
from cloudtaser.openbao.client import OpenBao
from cloudtaser.secret import Secret
from tests.unit.bridge.test_upstream import get
from tests.unit.net import parties
from tests.unit.net.forward_proxy import ForwardProxy, forward_proxy

CA = parties.authority("servers")
ANSWER = b'{"data":{"keys":["a"]},"issuer":"https://issuer.example"}'


class Server:
    """Answers every request alike over TLS, and keeps the connection; `cut` makes it stop in the middle."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"proxy-authorization" not in head.lower()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ANSWER))
                writer.write(ANSWER[:5] if self.cut else ANSWER)
                if self.cut:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def behind_a_proxy(name: str = "server.example") -> AsyncIterator[tuple[Server, ForwardProxy, Proxies]]:
    server = Server()
    context = tls.pod_server(CA.issue(names=[name]))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        async with forward_proxy(server.port) as proxy:
            yield server, proxy, Proxies.read({"HTTPS_PROXY": f"http://u:canary@localhost:{proxy.port}"})
    finally:
        listener.close()


@pytest.fixture
def ca(tmp_path: Path) -> str:
    file = tmp_path / "ca.pem"
    file.write_bytes(CA.pem)
    return str(file)


@pytest.fixture
def token(tmp_path: Path) -> str:
    file = tmp_path / "token"
    file.write_text("canary-token")
    return str(file)


async def test_openbaos_client_keeps_one_connection_through_the_proxy(ca: str) -> None:
    async with (
        behind_a_proxy() as (server, proxy, proxies),
        OpenBao("https://server.example:8200", ca_file=ca, token=Secret("t"), proxies=proxies) as client,
    ):
        for _ in range(3):
            assert await client.list("x") == ["a"]
        assert server.connections == 1
        assert [request.split(b"\r\n")[0] for request in proxy.requests] == [
            b"CONNECT server.example:8200 HTTP/1.1"
        ]


async def test_openbaos_client_says_whether_proxy_certificate_or_server_was_the_trouble(ca: str) -> None:
    async with behind_a_proxy() as (server, proxy, proxies):
        async with OpenBao("https://other.example", ca_file=ca, token=Secret("t"), proxies=proxies) as client:
            with pytest.raises(UnavailableError, match="certificate of OpenBao is not trusted"):
                await client.list("x")
        async with OpenBao(
            "https://server.example", ca_file=ca, token=Secret("t"), proxies=proxies
        ) as client:
            server.cut = True
            with pytest.raises(UnavailableError, match="cannot be reached"):
                await client.list("x")
            server.cut = False
            proxy.answer = b"HTTP/1.1 403 Forbidden\r\n\r\n"
            with pytest.raises(UnavailableError, match="the proxy does not allow this connection") as caught:
                await client.list("x")
            assert "canary" not in caught.value.diagnostic()


async def test_a_server_on_this_machine_is_asked_without_the_proxy(ca: str) -> None:
    async with behind_a_proxy("localhost") as (server, proxy, proxies):
        address = f"https://localhost:{server.port}"
        async with OpenBao(address, ca_file=ca, token=Secret("t"), proxies=proxies) as client:
            assert await client.list("x") == ["a"]
        assert not proxy.requests


async def test_the_api_servers_client_goes_by_the_proxy_and_keeps_to_its_errors(ca: str, token: str) -> None:
    async with behind_a_proxy() as (_, proxy, proxies):
        async with KubeApi("https://server.example", ca_file=ca, token_file=token, proxies=proxies) as kube:
            assert await kube.issuer() == "https://issuer.example"
            assert proxy.requests[0].startswith(b"CONNECT server.example:443 ")
        async with KubeApi("https://other.example", ca_file=ca, token_file=token, proxies=proxies) as kube:
            with pytest.raises(KubeUnavailableError, match="does not match the CA"):
                await kube.issuer()
            proxy.answer = b"HTTP/1.1 502 Bad Gateway\r\n\r\n"
            with pytest.raises(KubeUnavailableError, match="the proxy cannot reach it"):
                await kube.issuer()


async def test_the_bridges_pool_goes_by_the_proxy_and_tells_pods_nothing_of_it(ca: str) -> None:
    async with behind_a_proxy() as (server, proxy, proxies):
        upstream = Upstream("https://server.example:8200", ca_file=ca, proxies=proxies)
        for _ in range(3):
            assert (await get(upstream)).body == ANSWER
        assert server.connections == 1
        assert proxy.requests[0].startswith(b"CONNECT server.example:8200 ")
        await upstream.close()
        stranger = Upstream("https://other.example", ca_file=ca, proxies=proxies)
        with pytest.raises(UnavailableError, match="certificate does not verify"):
            await get(stranger)
        proxy.answer = b"HTTP/1.1 407 No\r\n\r\n"
        with pytest.raises(UnavailableError) as caught:
            await get(stranger)
        assert "proxy" not in caught.value.diagnostic()
        assert stranger.reachable is False
        await stranger.close()
