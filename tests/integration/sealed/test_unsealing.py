"""Sealed, unsealed and sealed again, against a real OpenBao: certificates of the cluster's own pod CA, a
token made for the pod under the operator's policy, the operator played by a counterpart that hears and seals.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from cloudtaser.demo.openbao import DevServer, start_dev
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.grants import allow
from cloudtaser.openbao.pki import Issued, PkiRole, new_key, sign
from cloudtaser.wire.names import operator_uri
from tests.integration.openbao.support import RegisteredCluster, new_layout, registered_cluster
from tests.integration.sealed.support import (
    JWT,
    OPERATOR_NAME,
    Operator,
    Sealed,
    Sealer,
    jwt_file,
    recently,
    server_file,
    settings,
)
from tests.sealing import CONTAINER, POD_UID
from tests.unit.wrapper.launch import python

PRINT_AND_WAIT = python(
    "import os, time\nprint(os.environ['VALUE'], flush=True)\nwhile True: time.sleep(3600)"
)
QUICK = {"CLOUDTASER_ROTATION_INTERVAL": "0.3", "CLOUDTASER_ROTATION_DEBOUNCE": "0.1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    running = start_dev(Path(tmp_path_factory.mktemp("openbao")))
    yield running
    running.stop()


@dataclass(slots=True)
class World:
    """A registered cluster, its operator's certificates, and a secret that the pod's policy may read."""

    root: OpenBao
    cluster: RegisteredCluster
    operator: OpenBao
    authority_pem: str
    server_file: Path
    sealer: Sealer
    directory: Path

    def settings(self, operator: Operator, **more: str) -> dict[str, str]:
        return settings(
            self.authority_pem,
            VAULT_ADDR=self.cluster.server.address,
            VAULT_NAMESPACE=str(self.cluster.space.namespace),
            CLOUDTASER_ENV_MAP="value=VALUE",
            CLOUDTASER_SECRET_PATHS="secret/data/shop/db",
            CLOUDTASER_FINGERPRINT=self.cluster.fingerprint,
            CLOUDTASER_OPERATOR_ADDR=operator.address,
            CLOUDTASER_UNSEAL_JWT_FILE=str(jwt_file(self.directory)),
            **QUICK | more,
        )

    async def mint(self) -> tuple[str, str]:
        """A token for the pod, as the operator makes one, and its accessor."""
        space = self.cluster.space
        body = {"policies": [space.pod_policy("shop", "web")], "meta": {"pod_uid": POD_UID}}
        path = f"auth/token/create/{space.pod_token_role}"
        answer = await self.operator.request("POST", path, namespace=space.namespace, body=body)
        assert answer["auth"]["metadata"] == {"pod_uid": POD_UID}
        return answer["auth"]["client_token"], answer["auth"]["accessor"]

    async def revoke(self, accessor: str) -> None:
        body = {"accessor": accessor}
        namespace = self.cluster.space.namespace
        await self.operator.request("POST", "auth/token/revoke-accessor", namespace=namespace, body=body)

    async def put(self, value: str) -> None:
        space = self.cluster.space
        await self.root.request(
            "POST", f"{space.secret}/data/shop/db", namespace=space.namespace, body={"data": {"value": value}}
        )


async def issue(root: OpenBao, cluster: RegisteredCluster, role: PkiRole) -> tuple[bytes, Issued]:
    """A key and what the cluster's authority signed for it, as the bridge asks."""
    key, csr = new_key()
    is_server = role == PkiRole.OPERATOR_POD
    names = [OPERATOR_NAME] if is_server else []
    uris = [] if is_server else [operator_uri(cluster.fingerprint)]
    return key.reveal(), await sign(root, cluster.space, role, csr, uris=uris, names=names)


@pytest.fixture
async def world(server: DevServer, tmp_path: Path) -> AsyncIterator[World]:
    async with OpenBao(server.address, token=server.root_token) as root:
        cluster = await registered_cluster(server, root, new_layout())
        server_key, server_leaf = await issue(root, cluster, PkiRole.OPERATOR_POD)
        seal_key, seal_leaf = await issue(root, cluster, PkiRole.OPERATOR_SEAL)
        file = tmp_path / "operator.pem"
        file.write_bytes(server_key + server_leaf.certificate_pem)
        private = load_pem_private_key(seal_key, None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        leaf = x509.load_pem_x509_certificate(seal_leaf.certificate_pem).public_bytes(Encoding.DER)
        await allow(root, cluster.fingerprint, "shop", "web", ["secret/data/shop/db"], layout=cluster.layout)
        async with await cluster.log_in("cloudtaser-operator", cluster.operator_token()) as operator:
            made = World(
                root,
                cluster,
                operator,
                seal_leaf.authority_pem.decode(),
                file,
                Sealer(private, leaf),
                tmp_path,
            )
            await made.put("first")
            yield made


async def test_a_pod_is_unsealed_runs_and_is_unsealed_again_when_its_token_is_revoked(world: World) -> None:
    with (
        Operator(world.server_file) as operator,
        Sealed(*PRINT_AND_WAIT, settings=world.settings(operator)) as wrapper,
    ):
        first = await asyncio.to_thread(operator.next)
        assert first.server_name == OPERATOR_NAME
        assert first.body == {
            "v": 2,
            "pod_uid": POD_UID,
            "container": CONTAINER,
            "public_key": wrapper.public_key(),
            "jwt": JWT,
        }
        assert wrapper.ask("GET", "/readyz")[0] == 503
        token, accessor = await world.mint()
        assert wrapper.unseal(world.sealer.envelope(first.body["public_key"], token=token)) == 200
        assert wrapper.line() == "first"
        assert wrapper.ask("GET", "/readyz")[0] == 200
        assert wrapper.status() == {"sealed": False}

        await world.revoke(accessor)
        wrapper.event("sealed again")
        second = await asyncio.to_thread(operator.next)
        while second.body["public_key"] == first.body["public_key"]:  # one that was on its way
            second = await asyncio.to_thread(operator.next)
        assert wrapper.status() == {"sealed": True, "public_key": second.body["public_key"]}
        assert wrapper.ask("GET", "/readyz")[0] == 200  # the application runs on
        assert wrapper.unseal(world.sealer.envelope(first.body["public_key"], token=token)) == 403

        await world.put("second")
        token, _ = await world.mint()
        assert wrapper.unseal(world.sealer.envelope(second.body["public_key"], token=token)) == 200
        assert wrapper.line() == "second"
        wrapper.process.terminate()
        wrapper.wait()
        assert not {part for part in (token, JWT, "second") if part in wrapper.log()}


async def test_a_token_that_is_refused_seals_again_before_the_application_starts(world: World) -> None:
    with (
        Operator(world.server_file) as operator,
        Sealed(*PRINT_AND_WAIT, settings=world.settings(operator)) as wrapper,
    ):
        token, accessor = await world.mint()
        await world.revoke(accessor)
        key = wrapper.public_key()
        assert wrapper.unseal(world.sealer.envelope(key, token=token)) == 200
        wrapper.event("sealed again: the token that came is refused")
        assert wrapper.status()["public_key"] not in ("", key)
        token, _ = await world.mint()
        assert wrapper.unseal(world.sealer.envelope(wrapper.public_key(), token=token)) == 200
        assert wrapper.line() == "first"


async def test_an_operator_that_is_away_or_busy_is_told_as_soon_as_it_can_hear(world: World) -> None:
    with (
        Operator(world.server_file, answers=[503, 500, 202], away=True) as operator,
        Sealed(*PRINT_AND_WAIT, settings=world.settings(operator)) as wrapper,
    ):
        wrapper.event("the operator was not told the key")
        operator.listen()
        heard = [await asyncio.to_thread(operator.next) for _ in range(3)]
        assert {announced.body["public_key"] for announced in heard} == {wrapper.public_key()}
        wrapper.event("the operator knows the key")
        token, _ = await world.mint()
        assert wrapper.unseal(world.sealer.envelope(wrapper.public_key(), token=token)) == 200
        assert wrapper.line() == "first"


async def test_neither_key_nor_jwt_goes_to_whoever_is_not_the_operator(world: World, tmp_path: Path) -> None:
    """Not to a server under another authority, and not to the bridge, which is under the same one."""
    key, csr = new_key()
    name = "bridge.cloudtaser.internal"
    bridge = await sign(world.root, world.cluster.space, PkiRole.BRIDGE_POD, csr, names=[name])
    of_bridge = tmp_path / "bridge.pem"
    of_bridge.write_bytes(key.reveal() + bridge.certificate_pem)
    for file in (server_file(recently(), tmp_path), of_bridge):
        with (
            Operator(file) as stranger,
            Sealed(*PRINT_AND_WAIT, settings=world.settings(stranger)) as wrapper,
        ):
            assert "certificate" in str(wrapper.event("the operator was not told the key")["reason"])
            assert stranger.heard.empty()


def test_a_job_that_nobody_unseals_ends(tmp_path: Path) -> None:
    with Sealed("true", settings=settings(recently().pem(), CLOUDTASER_STARTUP_TIMEOUT="1")) as wrapper:
        assert wrapper.wait() == 75
        assert "still sealed" in wrapper.log()


def test_the_announced_key_is_one_of_x25519(tmp_path: Path) -> None:
    with Sealed("true", settings=settings(recently().pem())) as wrapper:
        assert len(base64.b64decode(wrapper.public_key(), validate=True)) == 32
