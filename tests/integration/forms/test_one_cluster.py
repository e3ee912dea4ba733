"""One cluster without a registry, against a real OpenBao: what its records say comes first, always."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloudtaser.bridge.config_files import PairFiles
from cloudtaser.bridge.files import FilePairs
from cloudtaser.bridge.one_cluster import OneCluster, jwk_of
from cloudtaser.bridge.registry import Room, Snapshot, rooms_of
from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import ProtocolError
from cloudtaser.openbao import pair_files
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.errors import PermissionDenied
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.pair_files import read_files, write_files
from cloudtaser.openbao.records import Former, Grants, Initialized, Records, Registered, Revoked
from cloudtaser.secret import Secret
from tests.integration.openbao.support import ISSUER, RegisteredCluster, new_layout, registered_cluster

NOT_YET = Initialized("2026-01-01T00:00:00Z", "b", {"keys": []}, "iss", "ca", "sub", "00")


@pytest.fixture
async def cluster(server: DevServer, root: OpenBao) -> RegisteredCluster:
    return await registered_cluster(server, root, new_layout(), pregenerate=True)


async def from_files(root: OpenBao, cluster: RegisteredCluster, place: Path) -> FilePairs:
    registered, files = await read_files(root, cluster.fingerprint, layout=cluster.layout)
    write_files(place, files, cluster.fingerprint)
    names = ("client.crt", "client.key", "ca.crt", "pod.crt", "pod.key")
    return FilePairs(PairFiles(registered.info_hash, *(str(place / name) for name in names)))


async def forgotten(root: OpenBao, cluster: RegisteredCluster) -> None:
    layout: Layout = cluster.layout
    for record in layout.cluster_records(cluster.fingerprint):
        await root.kv_forget(layout.state_mount, record, namespace=layout.system_namespace)


async def changed(root: OpenBao, cluster: RegisteredCluster, **fields: object) -> Registered:
    records = Records(root, cluster.layout)
    record, version = await records.registered_version(cluster.fingerprint)
    assert record is not None
    wanted = replace(record, **fields)  # type: ignore[arg-type]  # fields by name
    await records.write_registered(wanted, version)
    return wanted


async def test_a_registered_cluster_is_served_by_its_records(
    root: OpenBao, cluster: RegisteredCluster, tmp_path: Path
) -> None:
    one = OneCluster(root, cluster.layout, await from_files(root, cluster, tmp_path))
    assert await one.clusters() == [cluster.fingerprint]
    recorded = await Records(root, cluster.layout).registered(cluster.fingerprint)
    assert await one.registered(cluster.fingerprint) == recorded
    assert await one.initialized(cluster.fingerprint) is None
    assert await Records(root, cluster.layout).create_initialized(cluster.fingerprint, NOT_YET)
    assert await one.initialized(cluster.fingerprint) == NOT_YET


async def test_a_registration_that_is_taken_back_is_not_replaced_by_the_files(
    root: OpenBao, cluster: RegisteredCluster, tmp_path: Path
) -> None:
    one = OneCluster(root, cluster.layout, await from_files(root, cluster, tmp_path))
    assert await one.registered(cluster.fingerprint) is not None
    await forgotten(root, cluster)
    assert await one.registered(cluster.fingerprint) is None
    assert await one.registered(cluster.fingerprint) is None


async def test_files_of_a_ca_that_the_registration_does_not_know_are_refused_but_a_suspension_holds(
    root: OpenBao, cluster: RegisteredCluster, tmp_path: Path
) -> None:
    one = OneCluster(root, cluster.layout, await from_files(root, cluster, tmp_path))
    recorded = await Records(root, cluster.layout).registered(cluster.fingerprint)
    assert recorded is not None
    await changed(root, cluster, tunnel_ca=recorded.pod_ca)
    with pytest.raises(ProtocolError, match=r"another tunnel CA than the registration \(--tls-ca\)"):
        await one.registered(cluster.fingerprint)
    former = Former(recorded.tunnel_ca, "issuer", "2026-01-01T00:00:00Z")
    rotating = await changed(root, cluster, former_tunnel_ca=former)
    assert await one.registered(cluster.fingerprint) == rotating
    suspended = await changed(root, cluster, former_tunnel_ca=None, suspended=True)
    assert await one.registered(cluster.fingerprint) == suspended


async def test_without_a_registration_the_space_says_who_the_cluster_is(
    root: OpenBao, cluster: RegisteredCluster, tmp_path: Path
) -> None:
    files = await from_files(root, cluster, tmp_path)
    recorded = await Records(root, cluster.layout).registered(cluster.fingerprint)
    assert recorded is not None
    await forgotten(root, cluster)
    one = OneCluster(root, cluster.layout, files)
    given = await one.registered(cluster.fingerprint)
    assert given is not None
    assert (given.tunnel_ca, given.pod_ca) == (recorded.tunnel_ca, recorded.pod_ca)
    assert (given.space, given.namespace) == (recorded.space, recorded.namespace)
    initialized = await one.initialized(cluster.fingerprint)
    assert initialized is not None
    assert initialized.issuer == ISSUER
    keys, version = await one.keys(cluster.fingerprint)
    assert keys is not None
    assert [key["kid"] for key in keys.jwks["keys"]] == [jwk_of(cluster.public_key())["kid"]]
    snapshot = Snapshot(given, initialized, keys, version, Revoked(), Grants())
    assert rooms_of(snapshot, 2e9) == {Room.OPERATIONAL, Room.RETURN}

    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    path, where = cluster.space.login_config, cluster.space.namespace
    body = {"jwt_validation_pubkeys": [pem], "bound_issuer": ISSUER}
    await root.request("POST", path, namespace=where, body=body)
    assert await one.registered(cluster.fingerprint) == given
    fresh, later = await one.keys(cluster.fingerprint)
    assert fresh is not None
    assert fresh != keys
    assert later > version

    await root.request("DELETE", f"sys/auth/{cluster.space.jwt}", namespace=where)
    assert await one.registered(cluster.fingerprint) is None
    with pytest.raises(ProtocolError, match="neither a registration nor a login"):
        await one.registered(cluster.fingerprint)


async def test_a_login_without_keys_is_one_line(
    root: OpenBao, cluster: RegisteredCluster, tmp_path: Path
) -> None:
    files = await from_files(root, cluster, tmp_path)
    await forgotten(root, cluster)
    path, where = cluster.space.login_config, cluster.space.namespace
    body = {"jwt_validation_pubkeys": [cluster.public_key()], "bound_issuer": ""}
    await root.request("POST", path, namespace=where, body=body)
    with pytest.raises(ProtocolError, match="no keys and issuer of the cluster"):
        await OneCluster(root, cluster.layout, files).registered(cluster.fingerprint)


async def test_a_token_without_the_records_serves_from_files_unless_they_were_seen(
    root: OpenBao, cluster: RegisteredCluster, tmp_path: Path
) -> None:
    files = await from_files(root, cluster, tmp_path)
    system, space = cluster.layout.system_namespace, cluster.space
    rule = f'path "{space.name}/{space.login_config}" {{ capabilities = ["read"] }}'
    await root.request("POST", "sys/policies/acl/narrow", namespace=system, body={"policy": rule})
    body = {"policies": ["narrow"], "no_default_policy": True}
    made = await root.request("POST", "auth/token/create-orphan", namespace=system, body=body)
    async with OpenBao(root.address, token=Secret(made["auth"]["client_token"])) as narrow:
        one = OneCluster(narrow, cluster.layout, files)
        given = await one.registered(cluster.fingerprint)
        assert given is not None
        assert given.created_at == ""
        assert (await one.revoked(cluster.fingerprint)).serials == ()
        assert (await one.grants(cluster.fingerprint)).roles == {}
        seen = OneCluster(root, cluster.layout, files)
        assert await seen.registered(cluster.fingerprint) is not None
        seen._client = narrow
        with pytest.raises(PermissionDenied):
            await seen.registered(cluster.fingerprint)


async def test_the_pod_ca_may_stand_behind_the_certificate_in_its_file(
    root: OpenBao, cluster: RegisteredCluster, tmp_path: Path
) -> None:
    files = await from_files(root, cluster, tmp_path)
    await forgotten(root, cluster)
    where = cluster.space.namespace
    await root.request("DELETE", f"sys/mounts/{cluster.space.pki_pod}", namespace=where)
    with pytest.raises(ProtocolError, match="pod CA of the pods' certificate is not known"):
        await OneCluster(root, cluster.layout, files).registered(cluster.fingerprint)
    pod_ca = (tmp_path / pair_files.POD_CA).read_text()
    with (tmp_path / pair_files.POD_CERTIFICATE).open("a") as file:
        file.write(pod_ca)
    await files.refresh()
    given = await OneCluster(root, cluster.layout, files).registered(cluster.fingerprint)
    assert given is not None
    assert given.pod_ca.strip() == pod_ca.strip()
