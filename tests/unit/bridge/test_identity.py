"""The bridge's certificates, signed by a real OpenBao: what they say, and that renewal disturbs nobody."""

from __future__ import annotations

import asyncio
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from cryptography import x509

from cloudtaser.bridge.identity import Certificates
from cloudtaser.demo.openbao import LocalServer, start_dev
from cloudtaser.errors import CloudtaserError
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tls import peer_certificate, pod_client, require_party
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.records import Records, Registered
from cloudtaser.openbao.registration import register
from cloudtaser.wire.names import BRIDGE_NAME, BROKER_SERVICE
from tests.unit.bridge.scripted_operator import dial, hang_up

HOUR = 3600.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    running = start_dev(tmp_path_factory.mktemp("openbao"))
    yield running
    running.stop()


@pytest.fixture
async def client(server: LocalServer) -> AsyncIterator[OpenBao]:
    async with OpenBao(server.address, token=server.root_token) as admin:
        yield admin
        await hang_up()


async def settle(client: OpenBao) -> tuple[Registered, Certificates]:
    fingerprint = str(uuid.uuid4())
    await register(client, fingerprint)
    record = await Records(client, Layout()).registered(fingerprint)
    assert record is not None
    space = Space(record.space, record.namespace)
    return record, Certificates(client, space, fingerprint, "b1", record.tunnel_ca, HOUR)


async def test_each_certificate_is_under_its_own_ca_and_says_who_it_is(client: OpenBao) -> None:
    record, certificates = await settle(client)
    before = certificates.ready
    await certificates.renew(time.time())
    assert (before, certificates.ready) == (False, True)
    tunnel = x509.load_pem_x509_certificate(certificates.proof(bytes(32)).cert.encode())
    tunnel.verify_directly_issued_by(x509.load_pem_x509_certificate(record.tunnel_ca.encode()))
    assert require_party(tunnel, record.fingerprint, "bridge").instance == "b1"
    context = certificates.pod_context
    assert context is not None
    for name in (BRIDGE_NAME, f"0a1b2c3d.{BRIDGE_NAME}", BROKER_SERVICE):
        await connect(context, record.pod_ca, name)
    with pytest.raises(CloudtaserError):  # the tunnel CA is not the pods'
        await connect(context, record.tunnel_ca)


async def test_renewal_at_two_thirds_reaches_the_next_connection_and_spares_open_ones(
    client: OpenBao,
) -> None:
    record, certificates = await settle(client)
    now = time.time()
    await certificates.renew(now)
    assert certificates.due == pytest.approx(now + 2 / 3 * HOUR, abs=30)
    context = certificates.pod_context
    assert context is not None
    first, first_echo = await connect(context, record.pod_ca)
    await certificates.renew(time.time())
    assert certificates.pod_context is context
    second, _ = await connect(context, record.pod_ca)
    assert serial(first) != serial(second)
    first.write(b"still here")
    async with asyncio.timeout(5):
        assert await first_echo.heard == b"still here"


async def test_when_openbao_does_not_sign_the_old_certificate_stays(client: OpenBao) -> None:
    record, certificates = await settle(client)
    await certificates.renew(time.time())
    due, proof = certificates.due, certificates.proof(bytes(32)).cert
    token, client._token = client._token, None
    with pytest.raises(CloudtaserError):
        await certificates.renew(time.time())
    client.set_token(token)
    assert (certificates.due, certificates.proof(bytes(32)).cert) == (due, proof)
    assert certificates.pod_context is not None
    await connect(certificates.pod_context, record.pod_ca)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Pod(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.heard.set_result(data)


async def connect(context: ssl.SSLContext, ca: str, name: str = BRIDGE_NAME) -> tuple[TlsLayer, Pod]:
    pod = Pod()
    layer = TlsLayer(pod_client(ca.encode()), pod, server_side=False, server_hostname=name)
    await dial(TlsLayer(context, Echo(), server_side=True), layer)
    await layer.handshake
    return layer, pod


def serial(layer: TlsLayer) -> int:
    return peer_certificate(layer.get_extra_info("ssl_object")).serial_number
