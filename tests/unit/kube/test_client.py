"""The API server client, against the stand-in API server over real TLS."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from cloudtaser.demo.apiserver import ISSUER, StandInApiServer
from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.errors import CloudtaserError, ConfigError
from cloudtaser.kube import verbs
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.errors import (
    ConflictError,
    KubeForbiddenError,
    KubeRefusedError,
    KubeUnauthorisedError,
    KubeUnavailableError,
)
from cloudtaser.kube.kinds import CONFIG_MAPS
from cloudtaser.kube.objects import BoundPod

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"
SYSTEM = "cloudtaser-system"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[StandInApiServer]:
    server = StandInApiServer(tmp_path, FINGERPRINT)
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def kube(server: StandInApiServer) -> AsyncIterator[KubeApi]:
    async with client(server, server.operator_token_file) as kube:
        yield kube


def client(server: StandInApiServer, token_file: Path, timeout: float = 10.0) -> KubeApi:
    return KubeApi(server.url, ca_file=str(server.ca_file), token_file=str(token_file), timeout=timeout)


async def test_a_requested_token_is_accepted_for_its_audience_only(kube: KubeApi) -> None:
    requested = await kube.token_request(SYSTEM, "cloudtaser-operator", ["some-audience"], 600)
    assert 500 < requested.expires_at - time.time() <= 601
    review = await kube.token_review(requested.token, ["some-audience"])
    assert review.authenticated
    assert review.username == "system:serviceaccount:cloudtaser-system:cloudtaser-operator"
    assert review.audiences == ("some-audience",)
    other = await kube.token_review(requested.token, ["other-audience"])
    assert not other.authenticated
    assert other.error


async def test_a_token_bound_to_a_pod_dies_with_it(server: StandInApiServer) -> None:
    async with client(server, server.admin_token_file) as kube:
        pod = server.add_pod("shop", "web-0", "web")
        requested = await kube.token_request("shop", "web", ["a"], 600, BoundPod(pod.name, pod.uid))
        review = await kube.token_review(requested.token, ["a"])
        assert review.extra["authentication.kubernetes.io/pod-uid"] == (pod.uid,)
        server.delete_pod(pod)
        assert not (await kube.token_review(requested.token, ["a"])).authenticated


async def test_it_reads_keys_issuer_and_fingerprint(kube: KubeApi, server: StandInApiServer) -> None:
    assert await kube.jwks() == server.jwks()
    assert await kube.issuer() == ISSUER
    assert await kube.namespace_uid("kube-system") == FINGERPRINT


async def test_of_two_who_create_a_config_map_one_wins(kube: KubeApi) -> None:
    assert await kube.get_config_map(SYSTEM, "some") is None
    results = await asyncio.gather(
        *(kube.create_config_map(SYSTEM, "some", {"by": str(n)}) for n in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, ConflictError) for result in results) == 4
    found = await kube.get_config_map(SYSTEM, "some")
    assert found is not None
    assert found in results


async def test_an_update_of_an_old_version_conflicts_and_labels_survive(kube: KubeApi) -> None:
    first = await kube.create_config_map(SYSTEM, "some", {"a": "1"}, {"owner": "us"})
    second = await kube.update_config_map(first, {"a": "2"})
    assert (second.data, second.labels) == ({"a": "2"}, {"owner": "us"})
    with pytest.raises(ConflictError):
        await kube.update_config_map(first, {"a": "3"})


async def test_forbidden_names_verb_and_resource(kube: KubeApi) -> None:
    with pytest.raises(KubeForbiddenError, match="not permitted to get namespaces default") as caught:
        await kube.namespace_uid("default")
    assert caught.value.exit_code == 4
    with pytest.raises(KubeForbiddenError, match="create serviceaccounts/token shop/web"):
        await kube.token_request("shop", "web", [], 600)


async def test_a_bad_token_is_named_by_its_file_and_not_shown(
    server: StandInApiServer, tmp_path: Path
) -> None:
    file = tmp_path / "bad.token"
    file.write_text("canary-token-value")
    async with client(server, file) as kube:
        with pytest.raises(KubeUnauthorisedError) as caught:
            await kube.jwks()
    line = caught.value.diagnostic()
    assert str(file) in line
    assert "canary" not in line


async def test_a_replaced_token_file_is_read_again(server: StandInApiServer, tmp_path: Path) -> None:
    file, fresh = tmp_path / "rotated.token", tmp_path / "fresh.token"
    file.write_text("stale")
    async with client(server, file) as kube:
        with pytest.raises(KubeUnauthorisedError):
            await kube.jwks()
        fresh.write_bytes(server.operator_token_file.read_bytes())
        fresh.replace(file)
        assert await kube.issuer() == ISSUER


@pytest.mark.parametrize("content", [None, b"", b"\n"])
async def test_no_token_is_one_line(server: StandInApiServer, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "none.token"
    if content is not None:
        file.write_bytes(content)
    async with client(server, file) as kube:
        with pytest.raises(KubeUnauthorisedError, match=str(file)):
            await kube.jwks()


async def test_a_refused_request_carries_the_servers_message(kube: KubeApi) -> None:
    with pytest.raises(KubeRefusedError, match="10 minutes"):
        await kube.token_request(SYSTEM, "cloudtaser-operator", ["a"], 5)


async def test_a_server_that_is_gone_is_unavailable(kube: KubeApi, server: StandInApiServer) -> None:
    await server.close()
    with pytest.raises(KubeUnavailableError, match="cannot reach the API server"):
        await kube.jwks()


async def test_a_server_under_another_ca_is_not_spoken_to(server: StandInApiServer, tmp_path: Path) -> None:
    other = write_server_certificate(tmp_path / "other", "other", ["127.0.0.1"])
    async with KubeApi(server.url, ca_file=str(other.ca), token_file=str(server.operator_token_file)) as kube:
        with pytest.raises(KubeUnavailableError, match="does not match the CA"):
            await kube.jwks()
    assert server.audit == []


async def test_a_silent_server_costs_no_more_than_the_timeout(server: StandInApiServer) -> None:
    accepted: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: accepted.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with KubeApi(
        f"https://127.0.0.1:{port}",
        ca_file=str(server.ca_file),
        token_file=str(server.operator_token_file),
        timeout=0.2,
    ) as kube:
        with pytest.raises(KubeUnavailableError, match=r"within 0\.2 s"):
            await kube.jwks()
    silent.close()
    for writer in accepted:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, b"{}", "not ready"),
        (429, b"busy", "not ready"),
        (200, b"[]", "not a JSON object"),
        (200, b"not json", "not a JSON object"),
        (200, b"{}", "has no issuer"),
        (200, b" " * (4 << 20), "larger than"),
        (302, b"", "refused"),
    ],
)
async def test_a_strange_answer_is_one_line(tmp_path: Path, status: int, body: bytes, expected: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Location": "https://elsewhere.example/"})

    files = write_server_certificate(tmp_path, "strange", ["127.0.0.1"])
    runner = web.AppRunner(_application(answer), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_context(files.certificate, files.key))
    await site.start()
    token = tmp_path / "token"
    token.write_text("t")
    url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    async with KubeApi(url, ca_file=str(files.ca), token_file=str(token)) as kube:
        with pytest.raises(CloudtaserError, match=expected) as caught:
            await kube.issuer()
    assert "\n" not in caught.value.diagnostic()
    await runner.cleanup()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "127.0.0.1:1", "https://", "https://u@h", "https://h/?q"]
)
def test_only_https_urls_are_taken(url: str) -> None:
    with pytest.raises(ConfigError, match="must be https"):
        KubeApi(url, ca_file="/dev/null", token_file="/dev/null")


@pytest.mark.parametrize(("large", "whole"), [(1000, True), (5000, False)])
async def test_large_objects_of_one_do_not_hide_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int, whole: bool
) -> None:
    monkeypatch.setattr(verbs, "MAX_PAGE", 2500)
    everybody = [f"n{number:03}" for number in range(40)]
    pages: list[tuple[int, int]] = []

    async def answer(request: web.Request) -> web.Response:
        start, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        pages.append((start, limit))
        items = [
            {"metadata": {"name": name}, "data": {"x": "x" * large if 10 <= number < 20 else ""}}
            for number, name in list(enumerate(everybody))[start : start + limit]
        ]
        more = str(start + limit) if start + limit < len(everybody) else ""
        return web.json_response({"metadata": {"resourceVersion": "7", "continue": more}, "items": items})

    files = write_server_certificate(tmp_path, "lists", ["127.0.0.1"])
    runner = web.AppRunner(_application(answer), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_context(files.certificate, files.key))
    await site.start()
    token = tmp_path / "token"
    token.write_text("t")
    url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    async with KubeApi(url, ca_file=str(files.ca), token_file=str(token)) as kube:
        if whole:
            listed = await kube.list_objects(CONFIG_MAPS, limit=8)
            assert [item["metadata"]["name"] for item in listed.items] == everybody
            assert pages[:4] == [(0, 8), (8, 8), (8, 4), (12, 4)]
            assert [start for start, _ in pages].count(0) == 1  # it goes on, and is not begun anew
        else:
            with pytest.raises(KubeUnavailableError, match="larger than 2500 bytes"):
                await kube.list_objects(CONFIG_MAPS, limit=8)
            assert pages[-1][1] == 1
    await runner.cleanup()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_bad_ca_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=str(file)):
        KubeApi("https://127.0.0.1:1", ca_file=str(file), token_file="/dev/null")


def _application(answer: Callable[[web.Request], Awaitable[web.Response]]) -> web.Application:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    return application


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
