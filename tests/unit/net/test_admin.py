"""An administrator's way to the bridge: only to who has a certificate under the pinned CA."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloudtaser.demo.certificates import CertificateFiles, write_server_certificate
from cloudtaser.errors import (
    CloudtaserError,
    ConfigError,
    NotAuthorisedError,
    ProtocolError,
    RefusedError,
    UnavailableError,
)
from cloudtaser.net.admin import AdminDoor
from cloudtaser.net.dial import Address
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import pod_ca_label
from cloudtaser.wire.migration import Migration, Outcome
from cloudtaser.wire.names import BRIDGE_NAME

MIGRATION = Migration("secret/data/shop/db", {"password": "canary-88aa"})
TOKEN = Secret("eyJ.eyJ.canary")


@asynccontextmanager
async def bridge(directory: Path, answer: bytes, names: list[str] | None = None) -> AsyncIterator[AdminDoor]:
    """Somebody with a certificate for `names`, who says `answer` to whatever is asked."""
    files = write_server_certificate(directory, "bridge", names or [f"*.{BRIDGE_NAME}"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        port = server.sockets[0].getsockname()[1]
        yield AdminDoor(Address("127.0.0.1", port), files.ca.read_text())
    finally:
        server.close()
        await server.wait_closed()


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def test_the_name_asked_for_begins_with_the_pinned_cas_own(tmp_path: Path) -> None:
    async with bridge(tmp_path, http(200, Outcome(True, 1, MIGRATION.sha256).encode())) as door:
        assert (await door.migrate(TOKEN, MIGRATION)) == Outcome(True, 1, MIGRATION.sha256)
        label = pod_ca_label(
            ssl.PEM_cert_to_DER_cert(CertificateFiles.named(tmp_path, "bridge").ca.read_text())
        )
        assert door.server_name == f"{label}.{BRIDGE_NAME}"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (http(200, Outcome(True, 1, "0" * 64).encode()), ProtocolError),
        (http(409, Outcome(False, 1, "0" * 64).encode()), ProtocolError),
        (http(200, b"{}"), ProtocolError),
        (http(200, b"x" * 20_000), ProtocolError),
        (http(401, b'{"errors":["no"]}'), NotAuthorisedError),
        (http(403, b'{"errors":["the token has expired"]}'), NotAuthorisedError),
        (http(429, b'{"errors":["later"]}'), UnavailableError),
        (http(503, b"not even JSON"), UnavailableError),
        (http(400, b'{"errors":["two\\nlines"]}'), RefusedError),
        (http(501, b'{"errors":["none"]}'), RefusedError),
        (http(302, b""), RefusedError),
        (b"SSH-2.0-x\r\n\r\n", ProtocolError),
        (b"", UnavailableError),
    ],
)
async def test_whatever_is_answered_is_a_success_only_if_it_proves_it(
    tmp_path: Path, answer: bytes, error: type[CloudtaserError]
) -> None:
    async with bridge(tmp_path, answer) as door:
        with pytest.raises(error) as caught:
            await door.migrate(TOKEN, MIGRATION, timeout=10)
    assert "canary" not in caught.value.diagnostic()
    assert "\n" not in caught.value.diagnostic()


async def test_nothing_is_said_to_who_has_no_certificate_under_the_pinned_ca(tmp_path: Path) -> None:
    pinned = write_server_certificate(tmp_path / "pinned", "bridge", [f"*.{BRIDGE_NAME}"]).ca.read_text()
    async with bridge(tmp_path / "impostor", b"") as impostor:
        with pytest.raises(ProtocolError):
            await AdminDoor(impostor.address, pinned).migrate(TOKEN, MIGRATION)


async def test_nothing_is_said_to_who_bears_another_name(tmp_path: Path) -> None:
    async with bridge(tmp_path, b"", ["operator.cloudtaser.internal"]) as door:
        with pytest.raises(ProtocolError):
            await door.migrate(TOKEN, MIGRATION)


async def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    async with bridge(tmp_path, b"") as door:
        pass
    with pytest.raises(UnavailableError, match="cannot connect"):
        await door.migrate(TOKEN, MIGRATION)


def test_a_pod_ca_that_is_none_is_said_at_once() -> None:
    for text in ("", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ConfigError, match="certificate"):
            AdminDoor(Address("127.0.0.1", 1), text)
