"""Registries that are slow, broken, busy or hostile: the answer is one line, and everything has a bound."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from cloudtaser.kube.registry.errors import (
    ImageAddressError,
    ImageError,
    ImageForbiddenError,
    ImageNotFoundError,
    ImageUnusableError,
    RegistryUnavailableError,
)
from cloudtaser.kube.registry.manifests import MAX_DOCUMENT
from cloudtaser.kube.registry.rules import Rule
from cloudtaser.net.proxy import Proxies
from tests.image_registry import (
    ALICE,
    OCI_INDEX,
    OCI_MANIFEST,
    configuration,
    described,
    digest,
    docker_config,
    encoded,
    index,
    manifest,
)
from tests.integration.registry.support import PATIENT, Resolving
from tests.unit.kube.registry.stand_in import StandInRegistry
from tests.unit.net.forward_proxy import forward_proxy

IMPATIENT = replace(PATIENT, request_timeout=0.3)


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[StandInRegistry]:
    registry = StandInRegistry(tmp_path)
    await registry.start()
    yield registry
    await registry.close()


def image(registry: StandInRegistry, name: str = "team/app:1") -> str:
    return f"{registry.host}/{name}"


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (400, ImageUnusableError, "answers 400 MANIFEST_INVALID"),
        (401, ImageForbiddenError, "wants nothing that we know for authentication"),
        (403, ImageForbiddenError, "answers 403 MANIFEST_INVALID to no credentials"),
        (404, ImageNotFoundError, "does not have it (404 MANIFEST_INVALID)"),
        (429, RegistryUnavailableError, "allows no more requests now"),
        (500, RegistryUnavailableError, "answers 500"),
        (503, RegistryUnavailableError, "answers 503"),
        (206, ImageUnusableError, "answers 206"),
    ],
)
@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_every_status_is_told_in_one_line(
    registry: StandInRegistry, kind: str, status: int, error: type[ImageError], told: str
) -> None:
    body = encoded({"errors": [{"code": "MANIFEST_INVALID", "message": "<script>\ncanary"}]})
    registry.answers[kind] = registry.says(status, body)
    async with Resolving(registry) as resolve:
        with pytest.raises(error) as caught:
            await resolve(image(registry))
    line = caught.value.diagnostic()
    assert told in line
    assert line.startswith(f"{registry.host}/team/app:1: ")
    assert "\n" not in line
    assert "canary" not in line


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_a_registry_that_says_nothing_is_not_waited_for(registry: StandInRegistry, kind: str) -> None:
    registry.answers[kind] = registry.hang
    async with Resolving(registry, bounds=IMPATIENT) as resolve:
        with pytest.raises(RegistryUnavailableError, match=r"did not answer within 0\.3 s"):
            await resolve(image(registry))


async def test_an_admission_stops_waiting_and_the_next_one_profits(registry: StandInRegistry) -> None:
    async def later(request: web.Request) -> web.StreamResponse:
        await registry.released.wait()
        return web.Response(body=registry.config)

    registry.answers["blobs"] = later
    bounds = replace(IMPATIENT, timeout=0.2, request_timeout=60.0)
    async with Resolving(registry, bounds=bounds) as resolve:
        with pytest.raises(RegistryUnavailableError, match=r"no answer .* within 0\.2 s"):
            await resolve(image(registry))
        assert resolve.counted("error") == 1
        registry.released.set()
        found = None
        while found is None:
            with contextlib.suppress(RegistryUnavailableError):  # while it is still under way
                found = await resolve(image(registry))
        assert found.entrypoint == ("/app",)
        assert registry.asked() == 2


async def test_an_answer_that_is_cut_off_is_tried_once_more(registry: StandInRegistry) -> None:
    answers = iter([registry.cut, registry.says(200, registry.manifest, Content_Type=OCI_MANIFEST)])
    registry.answers["manifests"] = lambda request: next(answers)(request)
    async with Resolving(registry) as resolve:
        assert (await resolve(image(registry))).entrypoint == ("/app",)
    registry.answers["manifests"] = registry.cut
    registry.requests.clear()
    async with Resolving(registry) as resolve:
        with pytest.raises(RegistryUnavailableError, match="cut off"):
            await resolve(image(registry))
    assert registry.asked("manifests") == 2


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_an_answer_without_end_is_not_read_to_its_end(registry: StandInRegistry, kind: str) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": OCI_MANIFEST})
        await response.prepare(request)
        while sent < 32 * MAX_DOCUMENT:
            await response.write(b" " * 65536)
            sent += 65536
            await asyncio.sleep(0)  # that the other side is gone is heard between two writes
        return response

    registry.answers[kind] = endless
    async with Resolving(registry) as resolve:
        with pytest.raises(ImageUnusableError, match="answer is larger than"):
            await resolve(image(registry))
    assert sent < 32 * MAX_DOCUMENT


async def test_a_configuration_that_is_said_to_be_huge_is_not_fetched(registry: StandInRegistry) -> None:
    fields = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b""), "size": 2**40}
    document = encoded({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": fields, "layers": []})
    registry.answers["manifests"] = registry.says(200, document, Content_Type=OCI_MANIFEST)
    async with Resolving(registry) as resolve:
        with pytest.raises(ImageUnusableError, match="configuration is larger than"):
            await resolve(image(registry))
    assert registry.asked("blobs") == 0


async def test_compressed_answers_are_refused_before_they_are_unpacked(registry: StandInRegistry) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    headers = {"Content_Encoding": "gzip", "Content_Type": OCI_MANIFEST}
    registry.answers["manifests"] = registry.says(200, bomb, **headers)
    async with Resolving(registry) as resolve:
        with pytest.raises(ImageUnusableError, match="compresses"):
            await resolve(image(registry))


async def test_other_content_than_the_digest_is_refused(registry: StandInRegistry) -> None:
    other = manifest(configuration(["/evil"]))
    async with Resolving(registry) as resolve:
        asked_for = f"team/app@{digest(other)}"
        with pytest.raises(ImageUnusableError, match="sent another manifest"):
            await resolve(image(registry, asked_for))
        registry.answers["manifests"] = registry.says(
            200, registry.manifest, Content_Type=OCI_MANIFEST, Docker_Content_Digest=digest(other)
        )
        with pytest.raises(ImageUnusableError, match="sent another manifest"):
            await resolve(image(registry))
    registry.answers["manifests"] = registry.says(200, registry.manifest, Content_Type=OCI_MANIFEST)
    evil = configuration(["/evi"])
    registry.answers["blobs"] = registry.says(200, evil)
    async with Resolving(registry) as resolve:
        with pytest.raises(ImageUnusableError, match="sent another configuration"):
            await resolve(image(registry))


async def test_indexes_without_end_are_not_followed(registry: StandInRegistry) -> None:
    async def deeper(request: web.Request) -> web.StreamResponse:
        selector = request.path.rpartition("/")[2]
        return web.Response(body=documents[selector], content_type=OCI_INDEX)

    documents = {}
    inner = index([])
    for _ in range(8):
        documents[digest(inner)] = inner
        inner = index([described(OCI_INDEX, inner)])
    documents["1"] = inner
    registry.answers["manifests"] = deeper
    async with Resolving(registry) as resolve:
        with pytest.raises(ImageUnusableError, match="nested deeper"):
            await resolve(image(registry))
    entries = []
    for number in range(20):
        leaf = encoded({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "number": number})
        documents[digest(leaf)] = leaf
        entries.append(described(OCI_INDEX, leaf))
    documents["2"] = index(entries)
    async with Resolving(registry) as resolve:
        with pytest.raises(ImageUnusableError, match="more than 12 manifests"):
            await resolve(image(registry, "team/app:2"))


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://169.254.169.254/latest/meta-data/", "metadata address is not allowed"),
        ("https://[::ffff:169.254.169.254]/x", "metadata address is not allowed"),
        ("https://10.0.0.1/x", "private address is not allowed"),
        ("https://2130706433/x", "is not a plain IPv4 address"),
        ("https://0x7f.0.0.1/x", "is not a plain IPv4 address"),
        ("https://metadata.google.internal/x", "metadata name is not allowed"),
        ("http://example.com/x", "plain http is not allowed"),
        ("https://user:pass@example.com/x", "another kind of URL"),
        ("file:///etc/passwd", "another kind of URL"),
        ("gopher://example.com/x", "another kind of URL"),
        ("https://example.com:99999/x", "is no URL"),
        ("https://exa mple.com/x", "what is no URL"),
        ("", "redirects to nowhere"),
    ],
)
@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_a_redirect_leads_to_no_forbidden_place(
    registry: StandInRegistry, kind: str, location: str, told: str
) -> None:
    registry.answers[kind] = registry.says(307, Location=location) if location else registry.says(307)
    async with Resolving(registry) as resolve:
        with pytest.raises(ImageError) as caught:
            await resolve(image(registry))
    assert told in caught.value.diagnostic()
    assert "user:pass" not in caught.value.diagnostic()


async def test_redirects_in_a_circle_end(registry: StandInRegistry) -> None:
    registry.answers["manifests"] = registry.says(302, Location="/v2/team/app/manifests/1")
    async with Resolving(registry) as resolve:
        with pytest.raises(ImageUnusableError, match="redirects more than 5 times"):
            await resolve(image(registry))
    assert registry.asked("manifests") == 6


async def test_a_signed_url_is_followed_as_it_was_given(registry: StandInRegistry) -> None:
    target = "/elsewhere/x%2Fy?sig=a%2Bb%3D%3D&X-Amz-Credential=k%2F20261129%2Fs3&empty="
    registry.answers["blobs"] = registry.says(307, Location=target)
    registry.answers["elsewhere"] = registry.says(200, registry.config)
    async with Resolving(registry) as resolve:
        assert (await resolve(image(registry))).entrypoint == ("/app",)
    assert registry.requests[-1].raw_path == target


async def test_a_token_is_not_sent_along_a_redirect_not_even_to_the_same_host(
    registry: StandInRegistry,
) -> None:
    async def manifests(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Bearer token-1":
            challenge = f'Bearer realm="https://{registry.host}/token",service="s"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    registry.answers["manifests"] = manifests
    registry.answers["token"] = registry.says(200, encoded({"access_token": "token-1"}))
    registry.answers["elsewhere"] = registry.says(200, registry.manifest, Content_Type=OCI_MANIFEST)
    async with Resolving(registry) as resolve:
        assert (await resolve(image(registry))).entrypoint == ("/app",)
    moved = [request for request in registry.requests if request.path == "/elsewhere"]
    assert [request.headers.get("Authorization") for request in moved] == [None]


@pytest.mark.parametrize(
    ("realm", "told"),
    [
        ("https://169.254.169.254/token", "metadata address is not allowed"),
        ("http://example.com/token", "plain http is not allowed"),
        ("https://10.1.2.3/token", "private address is not allowed"),
        ("", "another kind of URL"),
        ("/token", "another kind of URL"),
    ],
)
@pytest.mark.parametrize("secret", [(), ("r",)])
async def test_a_token_server_lies_at_no_forbidden_place(
    registry: StandInRegistry, secret: tuple[str, ...], realm: str, told: str
) -> None:
    registry.answers["manifests"] = registry.says(401, WWW_Authenticate=f'Bearer realm="{realm}",service="s"')
    async with Resolving(registry, granted=("shop/r",)) as resolve:
        resolve.secrets.add("shop", "r", docker_config(registry.host, ALICE))
        with pytest.raises(ImageAddressError) as caught:
            await resolve(image(registry), *secret)
    assert told in caught.value.diagnostic()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((307, b"", {"Location": "https://example.com/"}), ImageForbiddenError),
        ((401, b"", {}), ImageForbiddenError),
        ((429, b"", {}), RegistryUnavailableError),
        ((500, b"", {}), RegistryUnavailableError),
        ((200, b"not json", {}), ImageUnusableError),
        ((200, b"{}", {}), ImageUnusableError),
        ((200, b'{"token": 1}', {}), ImageUnusableError),
        ((200, b'{"token": "a\\r\\nX-Evil: 1"}', {}), ImageUnusableError),
        ((200, b'{"token": "a b"}', {}), ImageUnusableError),
        ((200, b'{"token": "\xc3\xa9"}', {}), ImageUnusableError),
        ((200, b'{"token": "' + b"x" * 70_000 + b'"}', {}), ImageUnusableError),
        ((200, b" " * 300_000, {}), ImageUnusableError),
    ],
)
async def test_a_token_server_that_misbehaves_is_told_in_one_line(
    registry: StandInRegistry, answer: tuple[int, bytes, dict[str, str]], error: type[ImageError]
) -> None:
    challenge = f'Bearer realm="https://{registry.host}/token",service="s"'
    registry.answers["manifests"] = registry.says(401, WWW_Authenticate=challenge)
    registry.answers["token"] = registry.says(answer[0], answer[1], **answer[2])
    async with Resolving(registry, granted=("shop/r",)) as resolve:
        resolve.secrets.add("shop", "r", docker_config(registry.host, ALICE))
        with pytest.raises(error) as caught:
            await resolve(image(registry), "r")
    assert ALICE[1] not in caught.value.diagnostic()


async def test_a_registry_that_asks_for_another_repositorys_token_gets_one_for_reading_only(
    registry: StandInRegistry,
) -> None:
    challenge = f'Bearer realm="https://{registry.host}/token",service="s",scope="registry:catalog:*"'
    registry.answers["manifests"] = registry.says(401, WWW_Authenticate=challenge)
    registry.answers["token"] = registry.says(200, encoded({"token": "t"}))
    async with Resolving(registry) as resolve:
        with pytest.raises(ImageForbiddenError):
            await resolve(image(registry))
    (request,) = (request for request in registry.requests if request.path == "/token")
    assert request.query["scope"] == "repository:team/app:pull"


async def test_refusals_are_remembered_briefly(registry: StandInRegistry) -> None:
    registry.answers["manifests"] = registry.says(404)
    async with Resolving(registry) as resolve:
        for _ in range(5):
            with pytest.raises(ImageNotFoundError):
                await resolve(image(registry))
        assert registry.asked() == 1
        del registry.answers["manifests"]
        resolve.clock.now += 16
        assert (await resolve(image(registry))).entrypoint == ("/app",)


async def test_a_registry_that_wants_a_pause_gets_it_for_every_image(registry: StandInRegistry) -> None:
    registry.answers["manifests"] = registry.says(429, Retry_After="40")
    async with Resolving(registry) as resolve:
        for name in ("team/app:1", "team/app:2", "other/app:1"):
            with pytest.raises(RegistryUnavailableError):
                await resolve(image(registry, name))
        assert registry.asked() == 1
        del registry.answers["manifests"]
        resolve.clock.now += 41
        assert (await resolve(image(registry, "team/app:2"))).entrypoint == ("/app",)


async def test_what_was_known_is_used_while_the_registry_is_away(registry: StandInRegistry) -> None:
    async with Resolving(registry) as resolve:
        await resolve(image(registry))
        await registry.close()
        for later in (61, 600, 600):
            resolve.clock.now += later
            assert (await resolve(image(registry))).entrypoint == ("/app",)
        assert resolve.counted("stale") == 3
        resolve.clock.now += 3600
        with pytest.raises(RegistryUnavailableError, match="cannot connect"):
            await resolve(image(registry))
        await registry.start()
        resolve.clock.now += 6
        assert (await resolve(image(registry))).entrypoint == ("/app",)


async def test_what_was_known_is_not_used_when_the_registry_refuses_now(registry: StandInRegistry) -> None:
    async with Resolving(registry) as resolve:
        await resolve(image(registry))
        registry.answers["manifests"] = registry.says(403)
        resolve.clock.now += 61
        with pytest.raises(ImageForbiddenError):
            await resolve(image(registry))


async def test_a_digest_that_another_registry_claims_brings_nothing_of_ours(
    registry: StandInRegistry, tmp_path: Path
) -> None:
    evil = StandInRegistry(tmp_path / "evil")
    await evil.start()
    try:
        evil.config = configuration(["/evil"])
        evil.manifest = manifest(evil.config)
        async with Resolving(registry, evil) as resolve:
            await resolve(image(registry))
            await resolve(image(evil))
            claimed = digest(registry.manifest)
            evil.answers["manifests"] = evil.says(200, Docker_Content_Digest=claimed)
            resolve.clock.now += 61
            with pytest.raises(ImageError):
                await resolve(image(evil))
            with pytest.raises(ImageError):
                await resolve(f"{evil.host}/team/app@{claimed}")
    finally:
        await evil.close()


async def test_one_namespace_cannot_take_all_the_room(registry: StandInRegistry) -> None:
    registry.answers["manifests"] = registry.hang
    bounds = replace(IMPATIENT, request_timeout=60.0, concurrent=4, concurrent_of_namespace=3)
    async with Resolving(registry, bounds=bounds) as resolve:
        greedy = [
            asyncio.create_task(resolve(image(registry, f"a/app:{n}"), namespace="greedy")) for n in range(3)
        ]
        await registry.until(3)
        with pytest.raises(RegistryUnavailableError, match="too many images"):
            await resolve(image(registry, "a/app:9"), namespace="greedy")
        other = asyncio.create_task(resolve(image(registry, "b/app:1"), namespace="shop"))
        await registry.until(4)
        with pytest.raises(RegistryUnavailableError, match="too many images"):
            await resolve(image(registry, "c/app:1"), namespace="third")
        registry.released.set()
        for waiting in (*greedy, other):
            with pytest.raises(RegistryUnavailableError, match="answers 503"):
                await waiting


async def test_who_gives_up_does_not_take_the_answer_from_the_others(registry: StandInRegistry) -> None:
    began = asyncio.Event()

    async def later(request: web.Request) -> web.StreamResponse:
        began.set()
        await registry.released.wait()
        return web.Response(body=registry.config)

    registry.answers["blobs"] = later
    async with Resolving(registry) as resolve:
        first = asyncio.create_task(resolve(image(registry)))
        second = asyncio.create_task(resolve(image(registry)))
        await began.wait()
        first.cancel()
        registry.released.set()
        assert (await second).entrypoint == ("/app",)
        with pytest.raises(asyncio.CancelledError):
            await first
    assert registry.asked() == 2


async def test_closing_ends_what_is_under_way(registry: StandInRegistry) -> None:
    registry.answers["manifests"] = registry.hang
    resolve = Resolving(registry)
    waiting = asyncio.create_task(resolve(image(registry)))
    await registry.until(1)
    await resolve.resolver.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_bad_name_asks_nobody(registry: StandInRegistry) -> None:
    async with Resolving(registry) as resolve:
        with pytest.raises(ImageError, match="is no image"):
            await resolve(f"{registry.host}/Team/App")
        assert resolve.counted("error") == 1
    assert registry.asked() == 0


async def test_a_mirror_that_breaks_off_does_not_keep_the_registry_from_being_asked(
    registry: StandInRegistry, tmp_path: Path
) -> None:
    mirror = StandInRegistry(tmp_path / "mirror")
    await mirror.start()
    try:
        mirror.answers["manifests"] = mirror.cut
        rule = Rule(registry.host, ca=registry.tls.ca.read_text(), mirrors=(f"https://{mirror.host}",))
        async with Resolving(mirror, rules=(rule,)) as resolve:
            assert (await resolve(image(registry))).entrypoint == ("/app",)
        assert mirror.asked("manifests") == 2
        assert mirror.requests[0].query["ns"] == registry.host
    finally:
        await mirror.close()


async def test_through_a_proxy_names_are_the_proxys_and_literal_addresses_are_still_checked(
    tmp_path: Path,
) -> None:
    registry = StandInRegistry(tmp_path, ("registry.example.test",))
    await registry.start()
    try:
        async with forward_proxy(registry.port) as proxy:
            proxies = Proxies.read({}, f"http://127.0.0.1:{proxy.port}")
            rule = Rule("registry.example.test", ca=registry.tls.ca.read_text())
            async with Resolving(rules=(rule,), networks=(), proxies=proxies) as resolve:
                assert (await resolve("registry.example.test/team/app:1")).entrypoint == ("/app",)
                assert proxy.requests[0].startswith(b"CONNECT registry.example.test:443 ")
                asked = len(proxy.requests)
                for host in ("10.0.0.1", "169.254.169.254", "localhost:5000", "metadata.google.internal"):
                    with pytest.raises(ImageAddressError):
                        await resolve(f"{host}/team/app:1")
                with pytest.raises(RegistryUnavailableError, match="certificate is not trusted"):
                    await resolve("other.example.test/team/app:1")
                proxy.answer = b"HTTP/1.1 403 Forbidden\r\n\r\n"
                with pytest.raises(RegistryUnavailableError, match="proxy"):
                    await resolve("third.example.test/team/app:1")
            assert len(proxy.requests) == asked + 2
    finally:
        await registry.close()
