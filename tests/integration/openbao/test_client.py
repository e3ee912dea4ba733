"""The client against a real OpenBao: KV, errors in words, and state that survives a power cut."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import hvac
import pytest

from cloudtaser.demo.openbao import DevServer, OpenBaoServer
from cloudtaser.demo.ports import free_port
from cloudtaser.errors import (
    CloudtaserError,
    ConfigError,
    NotAuthorisedError,
    ProtocolError,
    UnavailableError,
)
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.errors import CasConflict, NotFoundError
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.login import TokenFile, TokenKeeper
from cloudtaser.openbao.registration import register
from cloudtaser.secret import Secret
from tests.integration.openbao.support import RegisteredCluster, new_fingerprint


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[DevServer]:
    with DevServer(tmp_path) as server:
        yield server


async def test_kv_values_come_back_as_they_were_written(root: OpenBao, cluster: RegisteredCluster) -> None:
    value = {"text": "grüße 🔑", "empty": "", "binary": "\x00\x1f\u2028", "nested": {"list": [1, None]}}
    space = cluster.space
    assert await root.kv_write(space.secret, "a/b", value, namespace=space.namespace) == 1
    stored = await root.kv_read(space.secret, "a/b", namespace=space.namespace)
    assert stored is not None
    assert (stored.data, stored.version) == (value, 1)
    theirs = hvac.Client(url=root.address, token="root", namespace=space.namespace)
    answer = theirs.secrets.kv.v2.read_secret_version("a/b", raise_on_deleted_version=True)
    assert answer["data"]["data"] == value


async def test_writers_of_one_entry_at_once_all_succeed(root: OpenBao, cluster: RegisteredCluster) -> None:
    """OpenBao fails a storage transaction that another overtook, and leaves it to the caller to repeat it."""
    path, keys = f"auth/{cluster.space.jwt}/config", {"jwt_validation_pubkeys": [cluster.public_key()]}
    for _ in range(10):
        await asyncio.gather(
            *(root.request("POST", path, namespace=cluster.space.namespace, body=keys) for _ in range(8))
        )
    stored = await root.request("GET", path, namespace=cluster.space.namespace)
    assert [text.strip() for text in stored["data"]["jwt_validation_pubkeys"]] == [
        cluster.public_key().strip()
    ]


async def test_a_check_and_set_that_comes_too_late_is_a_conflict(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    space = cluster.space
    await root.kv_write(space.secret, "x", {"v": 1}, namespace=space.namespace, cas=0)
    with pytest.raises(CasConflict):
        await root.kv_write(space.secret, "x", {"v": 2}, namespace=space.namespace, cas=0)
    assert await root.kv_write(space.secret, "x", {"v": 2}, namespace=space.namespace, cas=1) == 2
    first = await root.kv_read(space.secret, "x", namespace=space.namespace, version=1)
    assert first is not None
    assert first.data == {"v": 1}


async def test_what_is_absent_or_deleted_reads_as_none(root: OpenBao, cluster: RegisteredCluster) -> None:
    space = cluster.space
    assert await root.kv_read(space.secret, "none", namespace=space.namespace) is None
    await root.kv_write(space.secret, "x", {"v": 1}, namespace=space.namespace)
    await root.request("DELETE", f"{space.secret}/data/x", namespace=space.namespace)
    assert await root.kv_read(space.secret, "x", namespace=space.namespace) is None
    await root.kv_forget(space.secret, "x", namespace=space.namespace)
    assert await root.kv_metadata(space.secret, "x", namespace=space.namespace) is None
    assert await root.list(f"{space.secret}/metadata", namespace=space.namespace) == []


async def test_a_first_write_waits_for_the_mount_to_be_ready(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    for number in range(5):
        path, body = f"sys/mounts/fresh{number}", {"type": "kv", "options": {"version": "2"}}
        await root.request("POST", path, namespace=cluster.space.namespace, body=body)
        assert await root.kv_write(f"fresh{number}", "x", {}, namespace=cluster.space.namespace) == 1


async def test_a_version_1_mount_is_named_as_such(root: OpenBao, cluster: RegisteredCluster) -> None:
    where = cluster.space.namespace
    await root.request("POST", "sys/mounts/old", namespace=where, body={"type": "kv"})
    await root.request("POST", "old/data/x", namespace=where, body={"v": "1"})
    with pytest.raises(ProtocolError, match="not a KV version 2 mount"):
        await root.kv_read("old", "x", namespace=where)


async def test_a_namespace_that_does_not_exist_is_not_found(root: OpenBao) -> None:
    with pytest.raises(NotFoundError, match="namespace not found"):
        await root.request("GET", "sys/mounts", namespace="nowhere/at/all")


async def test_a_sealed_server_is_named_with_the_fix(own_server: DevServer) -> None:
    async with OpenBao(own_server.address, token=own_server.root_token) as client:
        await client.request("POST", "sys/seal", body={})
        with pytest.raises(UnavailableError) as refused:
            await register(client, new_fingerprint())
    assert "OpenBao is sealed" in refused.value.diagnostic()
    assert "unseal" in refused.value.diagnostic()


async def test_an_unreachable_server_is_named() -> None:
    async with OpenBao(f"https://127.0.0.1:{free_port()}", token=Secret("t")) as client:
        with pytest.raises(UnavailableError, match="connection refused"):
            await client.lookup_self()


async def test_a_server_that_does_not_answer_is_given_up_on() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    done = asyncio.Event()
    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with OpenBao(f"http://127.0.0.1:{port}", token=Secret("t"), timeout=0.2) as client:
        with pytest.raises(UnavailableError, match="did not answer in time"):
            await client.lookup_self()
    done.set()
    listener.close()
    await listener.wait_closed()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_what_is_no_openbao_is_an_error_in_words(answer: bytes) -> None:
    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(stranger, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with OpenBao(f"http://127.0.0.1:{port}", token=Secret("t")) as client:
        with pytest.raises(CloudtaserError) as refused:
            await client.lookup_self()
    assert "\n" not in refused.value.diagnostic()
    listener.close()
    await listener.wait_closed()


async def test_a_wrong_token_is_not_authorised_and_not_shown(own_server: DevServer) -> None:
    async with OpenBao(own_server.address, token=Secret("s.wrong-canary")) as client:
        with pytest.raises(NotAuthorisedError) as refused:
            await register(client, new_fingerprint())
    assert "does not accept the token" in refused.value.diagnostic()
    assert "canary" not in refused.value.diagnostic()
    assert "canary" not in repr(vars(client))


async def test_a_token_in_a_file_is_followed_and_renewed(
    server: DevServer, root: OpenBao, tmp_path: Path
) -> None:
    async def token(ttl: str) -> str:
        body = {"ttl": ttl, "period": ttl, "policies": ["default"]}
        made = await root.request("POST", "auth/token/create-orphan", body=body)
        return str(made["auth"]["client_token"])

    file = tmp_path / "token"
    short = await token("2s")
    file.write_text(f"{short}\n")
    async with OpenBao(server.address) as client:
        keeper = TokenKeeper(client, TokenFile(file), file_poll=0.05)
        await keeper.start()
        assert keeper.current() == Secret(short)
        changed = asyncio.Event()
        keeper.on_change.append(lambda _: changed.set())
        renewed = asyncio.Event()
        original = client.request

        async def watched(method: str, path: str, **options: object) -> dict[str, object]:
            answer = await original(method, path, **options)  # type: ignore[arg-type]  # passed through
            if path.endswith("renew-self"):
                renewed.set()
            return answer

        client.request = watched  # type: ignore[method-assign]  # to see the renewal happen
        stop = asyncio.Event()
        running = asyncio.create_task(keeper.run(stop))
        async with asyncio.timeout(20):
            await renewed.wait()
            await client.lookup_self()
            await asyncio.to_thread(file.write_text, await token("1h"))
            await changed.wait()
        assert keeper.current() == Secret((await asyncio.to_thread(file.read_text)).strip())
        await client.lookup_self()
        stop.set()
        await running


async def test_a_keeper_says_when_its_token_is_not_valid(server: DevServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    async with OpenBao(server.address) as client:
        keeper = TokenKeeper(client, TokenFile(file))
        with pytest.raises(ConfigError, match="cannot be read"):
            await keeper.start()
        file.write_text("s.nonsense")
        with pytest.raises(NotAuthorisedError, match="does not accept"):
            await keeper.start()


async def test_everything_acknowledged_is_there_after_a_power_cut(tmp_path: Path) -> None:
    server = OpenBaoServer(tmp_path)
    fingerprint = new_fingerprint()
    await asyncio.to_thread(server.start)
    try:
        async with OpenBao(server.address, ca_file=server.ca_file, token=server.root_token) as client:
            before = await register(client, fingerprint)
            server.kill()
            await asyncio.to_thread(server.start)
            after = await register(client, fingerprint)
            assert not after.changed
            assert after.info_hash == before.info_hash
            assert isinstance(await Layout.detect(client), Layout)
        server.stop()
        again = OpenBaoServer(tmp_path)
        assert again.address == server.address
        assert again.root_token == server.root_token
        async with OpenBao(server.address, token=server.root_token) as stranger:
            await asyncio.to_thread(again.start)
            with pytest.raises(UnavailableError, match="certificate of OpenBao is not trusted"):
                await stranger.lookup_self()
        again.stop()
    finally:
        server.kill()


async def test_only_tls_1_2_and_later_is_spoken(tmp_path: Path) -> None:
    from cloudtaser.openbao.client import _tls_context

    context = _tls_context("https://vault.example", None)
    assert isinstance(context, ssl.SSLContext)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
