"""Bridge and operator where a proxy is the only way out: all of it works, again after it was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cloudtaser.demo.apiserver import APISERVER_NAME
from cloudtaser.demo.chain import BEACON_NAME
from cloudtaser.demo.command import program, run_command
from cloudtaser.demo.openbao import OPENBAO_NAME
from tests.chain_tools import delivered
from tests.integration.fleet.fleet_tools import Readers
from tests.integration.fleet.proxied_tools import (
    PASSWORD,
    ForwardProxies,
    Namespace,
    ProxiedChain,
    listeners,
    two_namespaces,
)

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow, pytest.mark.timeout(200)]
BACK_WITHIN = 10.0


class World:
    """A started chain and what is round it."""

    def __init__(
        self, chain: ProxiedChain, proxies: ForwardProxies, homes: tuple[Namespace, Namespace]
    ) -> None:
        self.chain = chain
        self.proxies = proxies
        self.homes = homes

    async def cli(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """The CLI in the bridge's place."""
        command = [*self.homes[0].prefix, program("cloudtaser-cli"), *arguments]
        admin = {name: self.chain.outside(text) for name, text in self.chain.admin_environment.items()}
        result = await run_command(command, admin | environment, check=False)
        return result.status, result.output, result.errors


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    with two_namespaces() as homes:
        proxies = ForwardProxies(tmp_path_factory.mktemp("proxies"), homes[0].ours)
        for home in homes:
            home.only_out_to(proxies.address, (proxies.port, proxies.tls_port))
        chain = ProxiedChain(*homes, proxies)
        try:
            await proxies.start()
            await chain.start()
            yield World(chain, proxies, homes)
        finally:
            await chain.close()
            await proxies.close()


async def test_a_secret_is_delivered_where_a_proxy_is_the_only_way_out(world: World) -> None:
    async with Readers(world.chain, 1).running() as readers:
        got = await delivered(world.chain, "secret/data/shop/value", "value=VALUE")
        assert got["VALUE"] == "v"
    assert readers.now.failed == 0
    asked = world.proxies.log.read_text()
    for host, port in (
        (OPENBAO_NAME, world.chain.openbao.port),
        (APISERVER_NAME, world.chain.apiserver.port),
        (BEACON_NAME, world.chain.beacon_port),
    ):
        assert f"CONNECT {host}:{port} " in asked, (host, asked[-2000:])


async def test_without_the_proxy_there_is_no_way_out_and_the_bridge_listens_nowhere(world: World) -> None:
    here = f"https://{world.proxies.address}:{world.chain.beacon_port}"
    for proxy in ("off", here.replace("https", "http")):
        before = world.homes[0].turned_back()
        status, _, errors = await world.cli("source", "list", VAULT_ADDR=here, CLOUDTASER_PROXY=proxy)
        assert status == 1, errors
        assert "connection refused" in errors
        assert len(errors.splitlines()) == 1
        assert world.homes[0].turned_back() > before
    assert listeners(world.homes[0]) == ""


async def test_the_cli_goes_by_the_proxy_and_says_what_the_proxy_has_against_it(world: World) -> None:
    good = world.proxies.url
    assert (await world.cli("source", "list", "-q", HTTPS_PROXY=good))[:2] == (
        0,
        f"{world.chain.fingerprint}\n",
    )
    tls = await world.cli(
        *("source", "list", "-q", "--proxy-ca", str(world.proxies.files.ca)),
        CLOUDTASER_PROXY=world.proxies.tls_url,
    )
    assert tls[:2] == (0, f"{world.chain.fingerprint}\n"), tls
    plain = f"http://{world.proxies.address}:{world.proxies.port}"
    for url, words in (
        (plain, "the proxy asks for credentials"),
        (good.replace(PASSWORD, "canary-wrong"), "the proxy does not accept our credentials"),
        (world.proxies.tls_url, "no TLS with the proxy: TLS handshake failed: certificate verify failed"),
        (f"http://{world.proxies.address}:{world.proxies.tls_port}", "the proxy closed the connection"),
    ):
        status, output, errors = await world.cli("source", "list", HTTPS_PROXY=url)
        assert (status, output) == (1, ""), errors
        assert words in errors
        assert len(errors.splitlines()) == 1
        assert "canary" not in errors
    status, _, errors = await world.cli("source", "list", "--proxy", good)
    assert status == 2
    assert PASSWORD not in errors


async def test_no_read_fails_while_the_proxy_is_killed_and_comes_back(world: World) -> None:
    loop = asyncio.get_running_loop()
    async with Readers(world.chain).running() as readers:
        readers.fresh()
        await world.proxies.tinyproxy.kill()
        await asyncio.sleep(1.0)  # long enough for everybody to have failed once
        began = loop.time()
        await world.proxies.start_tinyproxy()
        await readers.more(50)
        took = loop.time() - began
    print(f"proxy away for 1 s, 50 reads {took:.2f} s after it came back: {readers.now}")
    assert readers.now.failed == 0
    assert readers.now.broken > 0
    assert took < BACK_WITHIN


async def test_the_proxys_password_is_seen_nowhere(world: World) -> None:
    chain = world.chain
    said = "".join(path.read_text(errors="replace") for path in chain.logs.iterdir())
    assert "canary" not in said
    assert f'"proxy": "https://{world.proxies.address}:{world.proxies.tls_port}"' in said
    assert f'"proxy": "http://{world.proxies.address}:{world.proxies.port}"' in said
    assert chain.bridge is not None
    for part in (chain.bridge, chain.operator):
        assert part.pid
        assert b"canary" not in Path(f"/proc/{part.pid}/cmdline").read_bytes()
