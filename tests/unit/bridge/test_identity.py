"""The bridge's certificates, signed by a real OpenBao: what they say, and that renewal disturbs nobody."""

from __future__ import annotations

import asyncio
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from cryptography import x509

from cloudtaser.bridge.authorities import Authority, authorities_of
from cloudtaser.bridge.identity import Certificates
from cloudtaser.demo.openbao import LocalServer, start_dev
from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tls import peer_certificate, pod_client, require_party
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.records import Records, Registered
from cloudtaser.openbao.registration import register
from cloudtaser.wire.names import BRIDGE_NAME, BROKER_SERVICE
from tests.rotation_tools import begin_rotation, finish_rotation
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
    space = Space.recorded(record.space, record.namespace)
    certificates = Certificates(client, space, fingerprint, "b1", HOUR)
    certificates.follow(authorities_of(record))
    return record, certificates


def only_context(certificates: Certificates) -> ssl.SSLContext:
    """Of the one pod CA that there is."""
    (context,) = certificates.pod_contexts().values()
    return context


def shown(certificates: Certificates, authority: Authority) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificates.proof(authority, bytes(32)).cert.encode())


async def test_each_certificate_is_under_its_own_ca_and_says_who_it_is(client: OpenBao) -> None:
    record, certificates = await settle(client)
    before = certificates.ready
    assert await certificates.attend(time.time())
    assert (before, certificates.ready) == (False, True)
    tunnel = shown(certificates, certificates.tunnel[0])
    tunnel.verify_directly_issued_by(x509.load_pem_x509_certificate(record.tunnel_ca.encode()))
    assert require_party(tunnel, record.fingerprint, "bridge").instance == "b1"
    context = only_context(certificates)
    for name in (BRIDGE_NAME, f"0a1b2c3d.{BRIDGE_NAME}", BROKER_SERVICE):
        await connect(context, record.pod_ca, name)
    with pytest.raises(CloudtaserError):  # the tunnel CA is not the pods'
        await connect(context, record.tunnel_ca)


async def test_renewal_at_two_thirds_reaches_the_next_connection_and_spares_open_ones(
    client: OpenBao,
) -> None:
    record, certificates = await settle(client)
    now = time.time()
    await certificates.attend(now)
    context = only_context(certificates)
    first, first_echo = await connect(context, record.pod_ca)
    assert not await certificates.attend(now + 2 / 3 * HOUR - 60)
    assert await certificates.attend(now + 2 / 3 * HOUR + 60)
    assert only_context(certificates) is context
    second, _ = await connect(context, record.pod_ca)
    assert serial(first) != serial(second)
    first.write(b"still here")
    async with asyncio.timeout(30):
        assert await first_echo.heard == b"still here"


async def test_when_openbao_does_not_sign_the_old_certificate_stays(client: OpenBao) -> None:
    record, certificates = await settle(client)
    now = time.time()
    await certificates.attend(now)
    ends, before = certificates.not_after, shown(certificates, certificates.tunnel[0])
    token, client._token = client._token, None
    assert not await certificates.attend(now + 2 / 3 * HOUR + 60)
    with pytest.raises(CloudtaserError):  # and now nothing is left
        await certificates.attend(now + HOUR + 60)
    client.set_token(token)
    assert (certificates.not_after, shown(certificates, certificates.tunnel[0])) == (ends, before)
    await connect(only_context(certificates), record.pod_ca)
    assert await certificates.attend(now + HOUR + 61)


async def test_a_certificate_of_before_a_rotation_is_replaced_at_once_and_once(client: OpenBao) -> None:
    _, certificates = await settle(client)
    now = time.time()
    await certificates.attend(now)
    first = shown(certificates, certificates.tunnel[0])
    assert await certificates.attend(now + 1, "2026-01-01T00:00:00Z")  # whatever that clock said
    assert shown(certificates, certificates.tunnel[0]) != first
    assert not await certificates.attend(now + 2, "2026-01-01T00:00:00Z")


async def test_during_a_rotation_it_stands_under_each_ca_and_none_vouches_for_another(
    client: OpenBao,
) -> None:
    record, certificates = await settle(client)
    now = time.time()
    await certificates.attend(now)
    old_tunnel, old_pod = certificates.tunnel[0], certificates.pod[0]
    first = shown(certificates, old_tunnel)
    rotated = await begin_rotation(client, record.fingerprint)
    certificates.follow(authorities_of(rotated))
    assert await certificates.attend(now + 1)
    new_tunnel, new_pod = certificates.tunnel[0], certificates.pod[0]
    assert (certificates.tunnel[1].der, certificates.pod[-1].der) == (old_tunnel.der, old_pod.der)
    assert shown(certificates, old_tunnel) == first, "what holds is not signed anew"
    for authority in (old_tunnel, new_tunnel):
        root = x509.load_der_x509_certificate(authority.der)
        shown(certificates, authority).verify_directly_issued_by(root)
        trusted = certificates.tunnel_context(authority).get_ca_certs(binary_form=True)
        assert trusted == [authority.der]
    contexts = certificates.pod_contexts()
    assert contexts.keys() == {old_pod.label, new_pod.label}
    await connect(contexts[old_pod.label], record.pod_ca)
    await connect(contexts[new_pod.label], rotated.pod_ca)
    with pytest.raises(CloudtaserError):
        await connect(contexts[old_pod.label], rotated.pod_ca)
    assert await certificates.attend(now + 2, "anew")  # renewed under both, each by its own issuer
    shown(certificates, old_tunnel).verify_directly_issued_by(x509.load_der_x509_certificate(old_tunnel.der))


async def test_after_a_rotation_the_former_ca_is_forgotten(client: OpenBao) -> None:
    record, certificates = await settle(client)
    await certificates.attend(time.time())
    former = certificates.tunnel[0]
    rotated = await begin_rotation(client, record.fingerprint)
    certificates.follow(authorities_of(rotated))
    await certificates.attend(time.time())
    certificates.follow(authorities_of(await finish_rotation(client, record.fingerprint)))
    assert (len(certificates.tunnel), len(certificates.pod)) == (1, 1)
    with pytest.raises(UnavailableError):
        certificates.tunnel_context(former)
    with pytest.raises(UnavailableError):
        certificates.proof(former, bytes(32))


async def test_a_rotation_that_was_cut_off_leaves_the_former_ca_in_service(client: OpenBao) -> None:
    """The record names a new CA, and OpenBao signs with the old one still, or the other way round."""
    record, certificates = await settle(client)
    rotated = await begin_rotation(client, record.fingerprint)
    assert rotated.former_tunnel_ca is not None
    space = Space.recorded(record.space, record.namespace)
    for mount, former in (
        (space.pki_tunnel, rotated.former_tunnel_ca),
        (space.pki_pod, rotated.former_pod_cas[0]),
    ):
        body = {"default": former.issuer}
        await client.request("POST", f"{mount}/root/replace", namespace=space.namespace, body=body)
    heard: list[CloudtaserError] = []
    started = Certificates(client, space, record.fingerprint, "b2", HOUR, heard.append)
    started.follow(authorities_of(rotated))
    now = time.time()
    assert await started.attend(now)
    former_ders = authorities_of(record)
    assert [one.der for one in started.tunnel] == [former_ders.tunnel[0].der]
    assert [one.der for one in started.pod] == [former_ders.pod[0].der]
    assert "another CA" in heard[0].diagnostic()
    await begin_again(client, space, rotated)
    assert await started.attend(now + 1), "a missing certificate is asked for with the next poll"
    assert (len(started.tunnel), len(started.pod)) == (2, 2)
    with pytest.raises(UnavailableError, match="another CA"):  # knows the old record alone, and has nothing
        await certificates.attend(now)
    assert not certificates.ready


async def begin_again(client: OpenBao, space: Space, rotated: Registered) -> None:
    """`source rotate --ca` once more: the new issuers become the default."""
    for mount, pem in ((space.pki_tunnel, rotated.tunnel_ca), (space.pki_pod, rotated.pod_ca)):
        for issuer in await client.list(f"{mount}/issuers", namespace=space.namespace):
            found = await client.request("GET", f"{mount}/issuer/{issuer}", namespace=space.namespace)
            if found["data"]["certificate"].strip() == pem.strip():
                body = {"default": issuer}
                await client.request("POST", f"{mount}/root/replace", namespace=space.namespace, body=body)


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
