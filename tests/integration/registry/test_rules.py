"""What an administrator says of registries: mirrors, plain http, private CAs, networks; redirected blobs."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.demo.ports import free_port
from cloudtaser.errors import ConfigError
from cloudtaser.kube.registry.errors import (
    ImageAddressError,
    ImageError,
    ImageForbiddenError,
    RegistryUnavailableError,
)
from cloudtaser.kube.registry.rules import Rule
from tests.image_registry import ALICE, HOSTS, RegistryServer, configuration, docker_config
from tests.integration.registry.support import Resolving

pytestmark = pytest.mark.asyncio(loop_scope="session")


class BlobStore:
    """Files over https, as an object store has what a registry redirects to; remembers what it was sent."""

    def __init__(self, directory: Path, files: Path) -> None:
        self.port = free_port()
        self.tls = write_server_certificate(directory, "store", HOSTS)
        self.seen: list[web.BaseRequest] = []
        self._files = files
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._get)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.tls.certificate, self.tls.key)
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        return web.FileResponse(self._files / request.match_info["path"])


@pytest_asyncio.fixture(loop_scope="session")
async def store(tmp_path: Path, passwords: RegistryServer) -> AsyncIterator[BlobStore]:
    store = BlobStore(tmp_path, passwords.storage)
    await store.start()
    yield store
    await store.close()


@pytest_asyncio.fixture(loop_scope="session")
async def redirecting(
    tmp_path: Path, passwords: RegistryServer, store: BlobStore
) -> AsyncIterator[RegistryServer]:
    """What `passwords` holds; whoever asks for a blob is sent to `store`."""
    server = RegistryServer(
        tmp_path / "redirecting",
        passwords=True,
        storage=passwords.storage,
        redirect=f"https://localhost:{store.port}",
    )
    await server.start()
    yield server
    await server.stop()


async def test_a_blob_is_fetched_where_the_registry_sends_us_without_the_password(
    passwords: RegistryServer, redirecting: RegistryServer, store: BlobStore
) -> None:
    await passwords.push("team/app:1", configuration(["/moved"]))
    rules = (Rule(f"localhost:{store.port}", ca=store.tls.ca.read_text()),)
    async with Resolving(redirecting, rules=rules, granted=("shop/r",)) as resolve:
        resolve.secrets.add("shop", "r", docker_config(redirecting.host, ALICE))
        assert (await resolve(f"{redirecting.host}/team/app:1", "r")).entrypoint == ("/moved",)
    (request,) = store.seen
    assert "Authorization" not in request.headers
    assert "Cookie" not in request.headers


async def test_a_redirect_to_an_address_that_is_not_listed_is_not_followed(
    passwords: RegistryServer, redirecting: RegistryServer, store: BlobStore
) -> None:
    await passwords.push("team/app:1", configuration())
    async with Resolving(
        redirecting,
        networks=(),
        granted=("shop/r",),
        rules=(Rule(redirecting.host, ca=redirecting.tls.ca.read_text(), networks=Resolving.loopback()),),
    ) as resolve:
        resolve.secrets.add("shop", "r", docker_config(redirecting.host, ALICE))
        with pytest.raises(ImageAddressError, match="a loopback name is not allowed"):
            await resolve(f"{redirecting.host}/team/app:1", "r")
    assert store.seen == []


async def test_a_mirror_is_asked_first_and_the_registry_when_it_has_nothing(
    public: RegistryServer, passwords: RegistryServer, tmp_path: Path
) -> None:
    await passwords.push("only/there:1", configuration(["/origin"]))
    await public.push("hub/both/app:1", configuration(["/mirrored"]))
    await passwords.push("both/app:1", configuration(["/origin"]))
    rule = Rule(passwords.host, mirrors=(f"{public.url}/hub",), ca=passwords.tls.ca.read_text())
    async with Resolving(public, rules=(rule,), granted=("shop/r",)) as resolve:
        resolve.secrets.add("shop", "r", docker_config(passwords.host, ALICE))
        assert (await resolve(f"{passwords.host}/both/app:1")).entrypoint == ("/mirrored",)
        assert (await resolve(f"{passwords.host}/only/there:1", "r")).entrypoint == ("/origin",)


async def test_a_pull_through_cache_serves_as_mirror(public: RegistryServer, tmp_path: Path) -> None:
    cache = RegistryServer(tmp_path / "cache", mirror_of=public)
    await cache.start()
    try:
        pushed = await public.push("upstream/app:1", configuration(["/upstream"]))
        unreachable = f"127.0.0.1:{free_port()}"
        rule = Rule(unreachable, mirrors=(cache.url,))
        async with Resolving(cache, rules=(rule,)) as resolve:
            found = await resolve(f"{unreachable}/upstream/app:1")
            assert (found.entrypoint, found.digest) == (("/upstream",), pushed)
    finally:
        await cache.stop()


async def test_when_mirror_and_registry_are_away_the_registry_is_named(public: RegistryServer) -> None:
    mirror, origin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    async with Resolving(rules=(Rule(origin, mirrors=(f"https://{mirror}",)),)) as resolve:
        with pytest.raises(
            RegistryUnavailableError,
            match=f"^{origin}/some/app:1: cannot connect to the registry: connection refused",
        ):
            await resolve(f"{origin}/some/app:1")


async def test_plain_http_is_spoken_only_to_whom_a_rule_says_so(tmp_path: Path) -> None:
    server = RegistryServer(tmp_path / "plain", tls=False)
    await server.start()
    try:
        await server.push("plain/app:1", configuration(["/plain"]))
        async with Resolving() as resolve:
            with pytest.raises(RegistryUnavailableError):
                await resolve(f"{server.host}/plain/app:1")
        async with Resolving(rules=(Rule(server.host, plain_http=True),)) as resolve:
            assert (await resolve(f"{server.host}/plain/app:1")).entrypoint == ("/plain",)
    finally:
        await server.stop()


async def test_no_password_is_sent_over_plain_http(tmp_path: Path) -> None:
    server = RegistryServer(tmp_path / "plain", tls=False, passwords=True)
    await server.start()
    try:
        await server.push("plain/app:1", configuration())
        rule = Rule(server.host, plain_http=True)
        async with Resolving(rules=(rule,), granted=("shop/r",)) as resolve:
            resolve.secrets.add("shop", "r", docker_config(server.host, ALICE))
            with pytest.raises(ImageForbiddenError, match="not sent over plain http"):
                await resolve(f"{server.host}/plain/app:1", "r")
    finally:
        await server.stop()


async def test_a_private_ca_is_trusted_for_its_host_only(public: RegistryServer) -> None:
    await public.push("ca/app:1", configuration(["/ca"]))
    async with Resolving() as resolve:
        with pytest.raises(RegistryUnavailableError, match="certificate is not trusted") as caught:
            await resolve(f"{public.host}/ca/app:1")
        assert "set ca for" in caught.value.diagnostic()
    async with Resolving(ca=public.tls.ca.read_text()) as resolve:
        assert (await resolve(f"{public.host}/ca/app:1")).entrypoint == ("/ca",)
    rules = (Rule("127.0.0.1:1", ca=public.tls.ca.read_text()),)
    async with Resolving(rules=rules) as resolve:
        with pytest.raises(RegistryUnavailableError, match="certificate is not trusted"):
            await resolve(f"{public.host}/ca/app:1")


@pytest.mark.parametrize("pem", ["no certificate", "-----BEGIN CERTIFICATE-----\n!\n", "é"])
async def test_a_ca_that_cannot_be_used_is_named_at_the_start(pem: str) -> None:
    with pytest.raises(ConfigError, match=r"operator\.registry\.ca"):
        Resolving(ca=pem)
    with pytest.raises(ConfigError, match=r"some\.host"):
        Resolving(rules=(Rule("some.host", ca=pem),))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_loopback_is_refused_unless_it_is_listed(public: RegistryServer, host: str) -> None:
    await public.push("net/app:1", configuration(["/net"]))
    image = f"{host}:{public.port}/net/app:1"
    async with Resolving(public, networks=()) as resolve:
        with pytest.raises(ImageAddressError, match=r"loopback .* is not allowed"):
            await resolve(image)
    async with Resolving(public) as resolve:
        assert (await resolve(image)).entrypoint == ("/net",)


async def test_what_a_name_resolves_to_is_checked(
    public: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio
    import socket

    loop = asyncio.get_running_loop()
    answers = {"rebound.example.com": "127.0.0.1", "metadata.example.com": "169.254.169.254"}

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[host], port))]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    async with Resolving(public, networks=()) as resolve:
        for host, kind in (("rebound", "loopback"), ("metadata", "metadata")):
            with pytest.raises(ImageAddressError, match=f"resolves to a {kind} address"):
                await resolve(f"{host}.example.com:{public.port}/net/app:1")
    async with Resolving(public) as resolve:
        with pytest.raises(ImageError, match="resolves to a metadata address"):
            await resolve(f"metadata.example.com:{public.port}/net/app:1")
