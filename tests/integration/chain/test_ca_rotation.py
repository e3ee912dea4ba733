"""A cluster's CAs are rotated under traffic: old and new pods read throughout, and what was is refused after.

The chain is a whole one with two bridges. Everything is done as an administrator does it, by `source rotate
--ca`; the operator and the bridges follow by themselves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.command import program, run_command
from cloudtaser.errors import CloudtaserError
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tls import Identity, tunnel_client, tunnel_server
from cloudtaser.openbao import pki
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.openbao.records import Records, Registered
from cloudtaser.wire import names
from cloudtaser.wire.hashes import operational_room, pod_ca_label, return_room
from cloudtaser.wire.rendezvous import Role
from tests.chain_attackers import Heard, administrator, space_of, visit
from tests.chain_tools import eventually, own_chain, pod_client
from tests.chain_traffic import Reader

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]
SECRET = "/v1/secret/data/shop/rotated"


async def status(chain: Chain, socket: Path) -> dict[str, Any]:
    """How a bridge serves the chain's cluster; empty while it cannot say."""
    command = [program("cloudtaser-bridge"), "status", "--status-socket", str(socket)]
    result = await run_command(command, {}, check=False)
    clusters = json.loads(result.output)["clusters"] if result.output else []
    return dict(clusters[0]) if clusters else {}


async def registered(chain: Chain) -> Registered:
    async with administrator(chain) as client:
        record = await Records(client, Layout()).registered(chain.fingerprint)
    assert record is not None
    return record


@asynccontextmanager
async def two_bridges() -> AsyncIterator[tuple[Chain, list[Path]]]:
    """A chain with two bridges, and their status sockets."""
    async with own_chain() as chain:
        await chain.start()
        second = await chain.new_bridge()
        second.start()
        await eventually(lambda: at_least(chain, 2), "tunnels to both bridges")
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, "shop/rotated", {"value": "v"})
        yield chain, [chain.bridge_socket, chain.directory / "bridge-2.sock"]


async def at_least(chain: Chain, tunnels: int) -> bool:
    return await chain.tunnels() >= tunnels


def der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


def short(pem: str) -> str:
    """How a bridge names a tunnel CA."""
    return operational_room(der(pem)).hex()[:12]


async def bao_reads(chain: Chain, directory: Path, ca: str, token: str) -> bool:
    """Whether the unmodified client, which names no CA, reads with this file of CAs."""
    file = directory / "ca.crt"
    file.write_text(ca)
    environment = {
        "BAO_ADDR": f"https://{chain.broker_address}",
        "BAO_CACERT": str(file),
        "BAO_TLS_SERVER_NAME": names.BRIDGE_NAME,
        "BAO_TOKEN": token,
        "BAO_MAX_RETRIES": "0",
        "HOME": str(directory),
    }
    command = ["kv", "get", "-field=value", "-mount=secret", "shop/rotated"]
    try:
        return (await chain.bao(*command, environment=environment)).output.strip() == "v"
    except CloudtaserError:
        return False


async def stolen_leaf(chain: Chain, role: PkiRole, uri: str) -> Identity:
    """A certificate under the CA that signs now."""
    key, csr = pki.new_key()
    async with administrator(chain) as client:
        issued = await pki.sign(client, space_of(chain.fingerprint), role, csr, uris=(uri,))
    return Identity(issued.certificate_pem, key, issued.chain_pem)


async def logged_in(chain: Chain) -> str:
    with pod_client(chain) as client:
        await client.login(chain.pod("shop").token_file.read_text())
        return client.token


async def test_a_rotation_of_the_cas_loses_no_request_and_shuts_the_old_ones_out(tmp_path: Path) -> None:
    async with two_bridges() as (chain, sockets):
        before, old_ca = await registered(chain), chain.pod_ca()
        broker = await stolen_leaf(chain, PkiRole.BROKER, names.broker_uri(chain.fingerprint, "robbed"))
        bridge = await stolen_leaf(chain, PkiRole.BRIDGE, names.bridge_uri(chain.fingerprint, "robbed"))
        token = await logged_in(chain)
        old_pods = [
            Reader(chain.broker_address, old_ca, token, SECRET, keep_alive).start()
            for keep_alive in (True, False)
        ]
        await chain.cli("source", "rotate", chain.fingerprint, "--ca")
        during = await registered(chain)
        former, current = short(before.tunnel_ca), short(during.tunnel_ca)
        assert former != current

        async def moved() -> bool:
            shown = [await status(chain, socket) for socket in sockets]
            return all(one and one["tunnel_cas"] == {current: 1, former: 0} for one in shown)

        took = await eventually(moved, "all tunnels are under the new CA", timeout=90, every=0.25)
        print(f"tunnels moved within {took:.1f} s")
        assert [pod.bad for pod in old_pods] == [[], []]

        new_ca = chain.pod_ca()
        assert new_ca.strip() == during.pod_ca.strip()
        data = chain.apiserver.config_map(names.SYSTEM_NAMESPACE, names.POD_CA_CONFIGMAP)

        async def told() -> bool:
            with pod_client(chain) as client:
                code, body = await client.request("GET", "/v1/cloudtaser/pod-ca")
            assert code == 200
            return str(json.loads(body)["pod_ca"]).strip() == new_ca.strip()

        await eventually(told, "pods are told of the next CA, without a token", timeout=40, every=0.5)
        assert await bao_reads(chain, tmp_path, old_ca, token)
        assert await bao_reads(chain, tmp_path, data["pod-ca-bundle.crt"], token)
        new_pods = [
            Reader(chain.broker_address, new_ca, token, SECRET, keep_alive).start()
            for keep_alive in (True, False)
        ]

        again = await chain.cli("source", "rotate", chain.fingerprint, "--ca", check=False)
        assert again.status == 3, again.errors
        assert "under the former" in again.output or "has not reported" in again.output

        pods = old_pods + new_pods
        for pod in pods:
            pod.forgiving = True
        assert chain.bridge is not None
        await chain.operator.restart()
        await chain.operator.wait_until(lambda: at_least(chain, 2), "back after it was killed")
        await chain.bridge.restart()
        await eventually(moved, "back after a bridge was killed", timeout=60, every=0.25)
        for pod in pods:
            good = pod.good

            async def reads_on(pod: Reader = pod, good: int = good) -> bool:
                return pod.good > good

            await eventually(reads_on, "pods of both kinds read on")
            pod.forgiving = False
        shown = await status(chain, sockets[1])
        assert shown["pod_cas"].keys() == {pod_ca_label(der(before.pod_ca)), pod_ca_label(der(during.pod_ca))}

        for pod in old_pods:  # they are restarted, as everything is some day
            await pod.stop()
        await chain.cli("source", "rotate", chain.fingerprint, "--ca", "--force")

        async def finished() -> bool:
            shown = [await status(chain, socket) for socket in sockets]
            return all(one and one["tunnel_cas"] == {current: 1} and not one["rotating"] for one in shown)

        await eventually(finished, "every bridge has left the former CA", timeout=30, every=0.25)
        await refused(chain, old_ca, broker, before, during)
        assert await bao_reads(chain, tmp_path, new_ca, token)
        assert not await bao_reads(chain, tmp_path, old_ca, token)
        for pod in new_pods:
            await pod.stop()
        assert [pod.bad for pod in pods] == [[], [], [], []]
        assert min(pod.good for pod in pods) > 50
        await posing_refused(chain, bridge, during)


async def posing_refused(chain: Chain, robbed: Identity, during: Registered) -> None:
    """A bridge's certificate under the former CA is none to a broker that waits for a bridge."""
    part = next(part for part in chain._parts if part.name == "bridge-2")
    await part.stop()
    heard = Heard()
    layer = TlsLayer(tunnel_client(robbed, [during.tunnel_ca.encode()]), heard, server_side=False)
    await visit(chain, Role.BRIDGE, operational_room(der(during.tunnel_ca)), layer)
    await layer.handshake  # in TLS 1.3 the client is done before it is judged
    async with asyncio.timeout(10):
        assert await heard.lost is not None
    assert '"bridge": "robbed"' not in chain.operator.log.read_text()


async def refused(
    chain: Chain, old_ca: str, robbed: Identity, before: Registered, during: Registered
) -> None:
    """What was valid before opens nothing: the old pin, the old rooms, a leaf under the old CA."""
    client = Reader(chain.broker_address, old_ca, "", SECRET).start()

    async def turned_away() -> bool:
        return bool(client.bad)

    await eventually(turned_away, "a pod that pins the former CA is turned away")
    await client.stop()
    assert client.good == 0
    assert all("UNRECOGNIZED_NAME" in reason for reason in client.bad), client.bad
    for room in (operational_room(der(before.tunnel_ca)), return_room(der(before.tunnel_ca))):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await visit(chain, Role.BROKER, room, Heard())
    layer = TlsLayer(tunnel_server(robbed, [during.tunnel_ca.encode()]), Heard(), server_side=True)
    await visit(chain, Role.BROKER, operational_room(der(during.tunnel_ca)), layer)
    with pytest.raises(CloudtaserError):
        await layer.handshake
