"""A bridge's token, tried against a real OpenBao: it can do its work, and nothing else."""

from __future__ import annotations

import pytest
from cryptography import x509

from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import CloudtaserError, NotAuthorisedError, UsageError
from cloudtaser.openbao.bridge_token import make_bridge_token
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.errors import OpenBaoError
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.pki import BRIDGE_POD_NAMES, PkiRole, new_key, sign
from cloudtaser.openbao.records import BridgeRecord, Initialized, Keys, Records
from cloudtaser.wire.names import OPERATOR_NAME, bridge_uri, broker_uri, operator_uri
from tests.integration.openbao.support import (
    RegisteredCluster,
    new_fingerprint,
    put_secret,
    registered_cluster,
)

INITIALIZED = Initialized("2026-01-01T00:00:00Z", "eu-1", {"keys": []}, "iss", "ca", "sub", "00")
KEYS = Keys({"keys": []}, "2026-01-01T00:00:00Z", "eu-1")
HEARTBEAT = BridgeRecord("eu-1", "0.1.0", "2026-01-01T00:00:00Z")


async def bridge_client(root: OpenBao, layout: Layout, bridge_id: str = "eu-1", *clusters: str) -> OpenBao:
    made = await make_bridge_token(root, bridge_id, clusters=clusters, layout=layout)
    return OpenBao(root.address, token=made.token, namespace=layout.system_namespace)


async def test_a_bridge_can_do_its_whole_work(root: OpenBao, cluster: RegisteredCluster) -> None:
    fingerprint, space = cluster.fingerprint, cluster.space
    async with await bridge_client(root, cluster.layout) as bridge:
        records = Records(bridge, cluster.layout)
        assert await records.clusters() == [fingerprint]
        assert await records.registered(fingerprint) is not None
        assert await records.initialized(fingerprint) is None
        assert await records.create_initialized(fingerprint, INITIALIZED)
        assert not await records.create_initialized(fingerprint, INITIALIZED)
        assert await records.initialized(fingerprint) == INITIALIZED
        version = await records.write_keys(fingerprint, KEYS, 0)
        assert await records.write_keys(fingerprint, KEYS, version) == version + 1
        assert (await records.keys(fingerprint))[0] == KEYS
        assert (await records.revoked(fingerprint)).serials == ()
        assert (await records.grants(fingerprint)).roles == {}
        await records.write_bridge(HEARTBEAT)
        await records.write_bridge(HEARTBEAT)
        await bridge.request(
            "POST",
            f"auth/{space.jwt}/config",
            namespace=space.namespace,
            body={"jwt_validation_pubkeys": [cluster.public_key()], "bound_issuer": "https://issuer"},
        )
        signed = [
            (PkiRole.BRIDGE, [bridge_uri(fingerprint, "eu-1")], []),
            (PkiRole.BROKER, [broker_uri(fingerprint, "one")], []),
            (PkiRole.BRIDGE_POD, [], list(BRIDGE_POD_NAMES)),
            (PkiRole.OPERATOR_POD, [], [OPERATOR_NAME]),
            (PkiRole.OPERATOR_SEAL, [operator_uri(fingerprint)], []),
        ]
        for role, uris, names in signed:
            issued = await sign(bridge, space, role, new_key()[1], uris=uris, names=names)
            path = f"{role.mount(space)}/revoke"
            body = {"serial_number": issued.serial}
            await bridge.request("POST", path, namespace=space.namespace, body=body)
        await bridge.request("POST", "auth/token/renew-self", body={})


async def test_a_bridge_has_itself_certified_under_each_of_two_cas(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    space = cluster.space
    former: dict[str, str] = {}
    for mount in (space.pki_tunnel, space.pki_pod):
        known = await root.request("GET", f"{mount}/config/issuers", namespace=space.namespace)
        former[mount] = str(known["data"]["default"])
        body = {"common_name": "another", "key_type": "ec", "key_bits": 256, "issuer_name": "another"}
        await root.request("POST", f"{mount}/root/rotate/internal", namespace=space.namespace, body=body)
        body = {"default": "another"}
        await root.request("POST", f"{mount}/root/replace", namespace=space.namespace, body=body)
    async with await bridge_client(root, cluster.layout) as bridge:
        for role, uris, names in (
            (PkiRole.BRIDGE, [bridge_uri(cluster.fingerprint, "eu-1")], []),
            (PkiRole.BRIDGE_POD, [], list(BRIDGE_POD_NAMES)),
        ):
            authorities = set()
            for issuer in ("", former[role.mount(space)]):
                issued = await sign(bridge, space, role, new_key()[1], uris=uris, names=names, issuer=issuer)
                leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
                leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(issued.authority_pem))
                assert issued.chain_pem == b""
                authorities.add(issued.authority_pem)
            assert len(authorities) == 2


async def test_a_bridges_token_is_an_orphan_that_dies_an_hour_after_its_last_renewal(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    async with await bridge_client(root, cluster.layout) as bridge:
        about = await bridge.lookup_self()
        assert about["orphan"]
        assert about["renewable"]
        assert about["creation_ttl"] == 3600
        assert about["explicit_max_ttl"] == 0
        assert about["policies"] == ["cloudtaser-bridge", "cloudtaser-bridge_eu-1"]


@pytest.mark.parametrize(
    "path",
    [
        "secret/data/shop/db",
        "secret/metadata/shop/db",
        "transit/decrypt/x",
        "transit/keys/x",
        "auth/token/create",
        "auth/token/create-orphan",
        "auth/token/create/cloudtaser-pod",
        "auth/token/roles/cloudtaser-pod",
        "auth/token/revoke-accessor",
        "auth/token/accessors",
        "auth/jwt/role/default",
        "auth/jwt/role/evil",
        "sys/policies/acl/cloudtaser-default",
        "sys/policies/acl/evil",
        "sys/policy/evil",
        "sys/mounts/evil",
        "sys/auth/evil",
        "sys/namespaces/evil",
        "sys/leases/revoke-prefix/auth",
        "identity/entity",
        "identity/entity-alias",
        "pki-tunnel/sign-verbatim",
        "pki-tunnel/sign-verbatim/bridge",
        "pki-tunnel/issue/bridge",
        "pki-tunnel/root/sign-intermediate",
        "pki-tunnel/root/sign-self-issued",
        "pki-tunnel/root",
        "pki-tunnel/roles/bridge",
        "pki-tunnel/config/issuers",
        "pki-tunnel/sign/bridge-pod",
        "pki-tunnel/sign/successor",
        "pki-tunnel/issuers/generate/root/internal",
        "pki-tunnel/root/rotate/internal",
        "pki-tunnel/root/replace",
        "pki-tunnel/issuer/default",
        "pki-tunnel/issuer/default/sign/broker",
        "pki-tunnel/issuer/default/sign/successor",
        "pki-tunnel/issuer/default/sign-verbatim",
        "pki-tunnel/issuer/default/issue/bridge",
        "pki-pod/issuer/default/sign/operator-pod",
        "pki-pod/issuer/default/sign/operator-seal",
        "pki-pod/sign-verbatim",
        "pki-pod/issue/bridge-pod",
        "pki-pod/roles/evil",
        "pki-pod/sign/bridge",
    ],
)
async def test_in_a_space_a_bridge_may_do_nothing_else(
    root: OpenBao, cluster: RegisteredCluster, path: str
) -> None:
    await put_secret(root, cluster, "shop/db")
    async with await bridge_client(root, cluster.layout) as bridge:
        for method in ("GET", "LIST", "POST", "DELETE"):
            with pytest.raises(NotAuthorisedError):
                await bridge.request(
                    method, path, namespace=cluster.space.namespace, body={} if method == "POST" else None
                )


@pytest.mark.parametrize(
    "path",
    [
        "sys/policies/acl/cloudtaser-bridge",
        "sys/policies/acl/evil",
        "auth/token/create",
        "auth/token/create/cloudtaser-bridge_eu-1",
        "auth/token/roles/cloudtaser-bridge_eu-1",
        "sys/namespaces/evil",
        "sys/mounts/evil",
        "shared/data/x",
        "state/config",
        "state/data/bridges/eu-2",
        "state/metadata/system/bridge-eu-1",
    ],
)
async def test_in_the_records_namespace_a_bridge_may_do_nothing_else(
    root: OpenBao, cluster: RegisteredCluster, path: str
) -> None:
    async with await bridge_client(root, cluster.layout) as bridge:
        for method in ("GET", "POST", "DELETE"):
            with pytest.raises(NotAuthorisedError):
                await bridge.request(method, path, body={} if method == "POST" else None)


async def test_a_bridge_reads_stored_pairs_and_never_writes_one(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    async with await bridge_client(root, cluster.layout) as bridge:
        path = cluster.layout.record_path(cluster.layout.pair(cluster.fingerprint, "bridge"))
        assert await bridge.find(path) is None
        for method in ("POST", "DELETE"):
            with pytest.raises(NotAuthorisedError):
                await bridge.request(method, path, body={} if method == "POST" else None)


async def test_a_bridge_cannot_register_regrant_or_unrevoke(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    layout, fingerprint = cluster.layout, cluster.fingerprint
    async with await bridge_client(root, layout) as bridge:
        for path in (layout.registered, layout.grants, layout.revoked):
            with pytest.raises(NotAuthorisedError):
                await bridge.kv_write(layout.state_mount, path(fingerprint), {}, cas=0)
        for path in (layout.grants, layout.revoked):  # what is there already needs another right than a first
            system = layout.system_namespace
            await root.kv_write(layout.state_mount, path(fingerprint), {}, namespace=system, cas=0)
            for cas in (1, 2):
                with pytest.raises(NotAuthorisedError):
                    await bridge.kv_write(layout.state_mount, path(fingerprint), {}, cas=cas)
        with pytest.raises(NotAuthorisedError):
            await bridge.kv_write(layout.state_mount, layout.registered(fingerprint), {}, cas=1)
        for record in layout.cluster_records(fingerprint):
            with pytest.raises(NotAuthorisedError):
                await bridge.kv_forget(layout.state_mount, record)


@pytest.mark.parametrize("cas", [0, 1, 2])
async def test_a_bridge_cannot_overwrite_an_initialisation(
    root: OpenBao, cluster: RegisteredCluster, cas: int
) -> None:
    layout, path = cluster.layout, cluster.layout.initialized(cluster.fingerprint)
    async with await bridge_client(root, layout) as bridge:
        assert await Records(bridge, layout).create_initialized(cluster.fingerprint, INITIALIZED)
        with pytest.raises(NotAuthorisedError):
            await bridge.kv_write(layout.state_mount, path, {"evil": True}, cas=cas)
        with pytest.raises(OpenBaoError):
            await bridge.kv_write(layout.state_mount, path, {"evil": True})
    assert await Records(root, layout).initialized(cluster.fingerprint) == INITIALIZED


@pytest.mark.parametrize("setting", ["jwks_url", "oidc_discovery_url", "oidc_client_secret", "default_role"])
async def test_a_bridge_cannot_send_openbao_elsewhere_for_keys(
    root: OpenBao, cluster: RegisteredCluster, setting: str
) -> None:
    async with await bridge_client(root, cluster.layout) as bridge:
        with pytest.raises(NotAuthorisedError):
            await bridge.request(
                "POST", "auth/jwt/config", namespace=cluster.space.namespace, body={setting: "http://evil"}
            )


async def test_a_bridge_for_one_cluster_cannot_touch_another(server: DevServer, root: OpenBao) -> None:
    mine = await registered_cluster(server, root)
    theirs = await registered_cluster(server, root, mine.layout)
    async with await bridge_client(root, mine.layout, "eu-1", mine.fingerprint) as bridge:
        records = Records(bridge, mine.layout)
        assert set(await records.clusters()) == {mine.fingerprint, theirs.fingerprint}
        assert await records.registered(mine.fingerprint) is not None
        assert await records.create_initialized(mine.fingerprint, INITIALIZED)
        await records.write_bridge(HEARTBEAT)
        own, foreign = bridge_uri(mine.fingerprint, "eu-1"), bridge_uri(theirs.fingerprint, "eu-1")
        await sign(bridge, mine.space, PkiRole.BRIDGE, new_key()[1], uris=[own])
        with pytest.raises(NotAuthorisedError):
            await records.registered(theirs.fingerprint)
        with pytest.raises(NotAuthorisedError):
            await records.create_initialized(theirs.fingerprint, INITIALIZED)
        with pytest.raises(NotAuthorisedError):
            await sign(bridge, theirs.space, PkiRole.BRIDGE, new_key()[1], uris=[foreign])
        with pytest.raises(NotAuthorisedError):
            await bridge.request(
                "POST",
                "auth/jwt/config",
                namespace=theirs.space.namespace,
                body={"jwt_validation_pubkeys": [mine.public_key()]},
            )


async def test_a_token_works_from_its_networks_only(root: OpenBao, cluster: RegisteredCluster) -> None:
    here = await make_bridge_token(root, "here", cidrs=["127.0.0.0/8"], layout=cluster.layout)
    there = await make_bridge_token(root, "there", cidrs=["192.0.2.1/32"], layout=cluster.layout)
    async with OpenBao(root.address, token=here.token) as client:
        await client.lookup_self()
    async with OpenBao(root.address, token=there.token) as client:
        with pytest.raises(NotAuthorisedError):
            await client.lookup_self()


async def test_a_second_token_for_a_bridge_changes_no_policy(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    networks = ["10.0.0.0/8", "192.0.2.1/32"]
    first = await make_bridge_token(root, "eu-1", layout=cluster.layout, cidrs=networks)
    second = await make_bridge_token(root, "eu-1", layout=cluster.layout, cidrs=networks)
    assert first.token != second.token
    assert [action.why for action in second.actions if action.changed] == ["make the token"]


async def test_a_dry_run_makes_no_token(root: OpenBao, cluster: RegisteredCluster) -> None:
    made = await make_bridge_token(root, "eu-1", dry_run=True, layout=cluster.layout)
    assert not made.token
    assert await root.list("auth/token/roles", namespace=cluster.layout.system_namespace) == []


async def test_a_bridge_token_before_any_registration_works(root: OpenBao, layout: Layout) -> None:
    made = await make_bridge_token(root, "eu-1", layout=layout)
    async with OpenBao(root.address, token=made.token) as client:
        await client.lookup_self()


async def test_bad_names_networks_and_clusters_are_refused(root: OpenBao, cluster: RegisteredCluster) -> None:
    for bad in ("", "EU 1", "a/b", "a_b", "-a"):
        with pytest.raises(UsageError, match="not a name for a bridge"):
            await make_bridge_token(root, bad, layout=cluster.layout)
    for network in ("10.0.0.1/8", "everywhere", "1.2.3.4/33"):
        with pytest.raises(UsageError, match="not a network"):
            await make_bridge_token(root, "eu-1", cidrs=[network], layout=cluster.layout)
    with pytest.raises(CloudtaserError, match="not registered"):
        await make_bridge_token(root, "eu-1", clusters=[new_fingerprint()], layout=cluster.layout)
