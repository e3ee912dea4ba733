"""Trust is written once; racing replicas agree or one of them refuses loudly."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from cloudtaser.demo.apiserver import StandInApiServer
from cloudtaser.errors import ConfigError, RefusedError
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.errors import ConflictError
from cloudtaser.kube.objects import ConfigMap
from cloudtaser.operator.succession import Former
from cloudtaser.operator.trust import Trust, TrustDiffersError, TrustStore
from cloudtaser.wire.hashes import operational_room, return_room
from cloudtaser.wire.names import POD_CA_CONFIGMAP, SYSTEM_NAMESPACE, TRUST_CONFIGMAP
from tests.unit.operator.parties import FINGERPRINT, OTHER_FINGERPRINT, Authority

ONE, TWO = Authority("one"), Authority("two")


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[KubeApi]:
    server = StandInApiServer(tmp_path, FINGERPRINT)
    await server.start()
    async with KubeApi(
        server.url, ca_file=str(server.ca_file), token_file=str(server.operator_token_file)
    ) as kube:
        yield kube
    await server.close()


def store(kube: KubeApi, fingerprint: str = FINGERPRINT) -> TrustStore:
    return TrustStore(kube, SYSTEM_NAMESPACE, fingerprint)


def test_rooms_are_those_of_the_ca() -> None:
    trust = Trust.from_pem(ONE.pem)
    assert trust.operational_room == operational_room(trust.tunnel_ca_der)
    assert trust.return_room == return_room(trust.tunnel_ca_der)
    assert len(trust.short) == 12


async def test_nothing_stored_is_no_trust(kube: KubeApi) -> None:
    assert await store(kube).read() is None
    assert await store(kube).read_pod_ca() is None


async def test_what_is_kept_is_read_by_every_replica(kube: KubeApi) -> None:
    await store(kube).keep(ONE.trust)
    assert await store(kube).keep_pod_ca(TWO.pem)
    assert await store(kube).read() == ONE.trust
    assert await store(kube).read_pod_ca() == TWO.pem
    await store(kube).keep(ONE.trust)
    assert not await store(kube).keep_pod_ca(TWO.pem)


async def test_the_rooms_hash_is_in_no_config_map_that_pods_may_read(kube: KubeApi) -> None:
    await store(kube).keep(ONE.trust)
    await store(kube).keep_pod_ca(TWO.pem)
    public = await kube.get_config_map(SYSTEM_NAMESPACE, POD_CA_CONFIGMAP)
    private = await kube.get_config_map(SYSTEM_NAMESPACE, TRUST_CONFIGMAP)
    assert public is not None
    assert private is not None
    assert public.data == {"pod-ca.crt": TWO.pem, "pod-ca-bundle.crt": TWO.pem}
    assert private.data["info-hash"] == ONE.trust.operational_room.hex()


async def test_racing_replicas_with_the_same_ca_all_succeed(kube: KubeApi) -> None:
    await asyncio.gather(*(store(kube).keep(ONE.trust) for _ in range(8)))
    await asyncio.gather(*(store(kube).keep_pod_ca(TWO.pem) for _ in range(8)))
    assert await store(kube).read() == ONE.trust


async def test_of_two_replicas_with_different_cas_the_second_refuses_and_changes_nothing(
    kube: KubeApi,
) -> None:
    results = await asyncio.gather(
        store(kube).keep(ONE.trust), store(kube).keep(TWO.trust), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, TrustDiffersError)]
    assert len(refused) == 1
    assert "impostor" in refused[0].diagnostic()
    kept = await store(kube).read()
    assert kept == (ONE if results[0] is True else TWO).trust


async def test_a_pod_ca_follows_the_trusted_bridge_and_other_keys_stay(kube: KubeApi) -> None:
    await kube.create_config_map(SYSTEM_NAMESPACE, POD_CA_CONFIGMAP, {"mine": "kept", "pod-ca.crt": ONE.pem})
    assert await store(kube).keep_pod_ca(TWO.pem)
    found = await kube.get_config_map(SYSTEM_NAMESPACE, POD_CA_CONFIGMAP)
    assert found is not None
    assert found.data == {"mine": "kept", "pod-ca.crt": TWO.pem, "pod-ca-bundle.crt": TWO.pem}


async def test_the_bundle_holds_the_pod_cas_that_are_still_served(kube: KubeApi) -> None:
    await store(kube).keep_pod_ca(ONE.pem)
    assert await store(kube).keep_pod_ca(TWO.pem, ONE.pem)
    assert not await store(kube).keep_pod_ca(TWO.pem, ONE.pem)
    found = await kube.get_config_map(SYSTEM_NAMESPACE, POD_CA_CONFIGMAP)
    assert found is not None
    assert found.data == {"pod-ca.crt": TWO.pem, "pod-ca-bundle.crt": TWO.pem + ONE.pem}
    assert await store(kube).keep_pod_ca(TWO.pem)
    found = await kube.get_config_map(SYSTEM_NAMESPACE, POD_CA_CONFIGMAP)
    assert found is not None
    assert found.data["pod-ca-bundle.crt"] == TWO.pem


def successor(to: Authority, *formers: Authority) -> Trust:
    """Trust in `to`, which the last of `formers` endorsed, and so on back."""
    chain = [*formers, to]
    lineage = tuple(Former(ca.pem, ca.endorse(after).pem) for ca, after in itertools.pairwise(chain))
    return Trust(to.pem, to.trust.tunnel_ca_der, lineage)


async def test_an_endorsed_successor_takes_the_place_of_the_pinned_ca_and_its_lineage_is_kept(
    kube: KubeApi,
) -> None:
    await store(kube).keep(ONE.trust)
    followed = successor(TWO, ONE)
    assert await store(kube).keep(followed)
    assert await store(kube).read() == followed
    data = await kube.get_config_map(SYSTEM_NAMESPACE, TRUST_CONFIGMAP)
    assert data is not None
    assert data.data["info-hash"] == TWO.trust.operational_room.hex()
    third = Authority("three")
    assert await store(kube).keep(successor(third, TWO))
    kept = await store(kube).read()
    assert kept is not None
    assert [former.tunnel_ca for former in kept.lineage] == [ONE.pem, TWO.pem]
    assert kept.succeeds(ONE.trust)


async def test_of_replicas_that_follow_one_rotation_all_succeed_and_one_endorsement_is_kept(
    kube: KubeApi,
) -> None:
    await store(kube).keep(ONE.trust)
    assert all(await asyncio.gather(*(store(kube).keep(successor(TWO, ONE)) for _ in range(6))))
    kept = await store(kube).read()
    assert kept is not None
    assert kept.tunnel_ca == TWO.pem
    assert len(kept.lineage) == 1


async def test_a_replica_that_is_behind_takes_nothing_back(kube: KubeApi) -> None:
    followed = successor(TWO, ONE)
    await store(kube).keep(followed)
    assert not await store(kube).keep(ONE.trust)
    assert await store(kube).read() == followed


async def test_a_replica_that_missed_a_rotation_cannot_take_another_branch(kube: KubeApi) -> None:
    await store(kube).keep(successor(TWO, ONE))
    with pytest.raises(TrustDiffersError):
        await store(kube).keep(successor(Authority("three"), ONE))


async def test_a_stored_lineage_that_proves_nothing_is_not_believed(kube: KubeApi) -> None:
    data = {"tunnel-ca.crt": TWO.pem, "tunnel-ca-lineage.crt": ONE.pem + Authority("evil").endorse(TWO).pem}
    await kube.create_config_map(SYSTEM_NAMESPACE, TRUST_CONFIGMAP, data)
    read = await store(kube).read()
    assert read == TWO.trust
    assert read.formers == []


async def test_an_empty_config_map_is_filled(kube: KubeApi) -> None:
    await kube.create_config_map(SYSTEM_NAMESPACE, TRUST_CONFIGMAP, {})
    assert await store(kube).read() is None
    await store(kube).keep(ONE.trust)
    assert await store(kube).read() == ONE.trust


async def test_a_config_map_restored_from_another_cluster_is_named(kube: KubeApi) -> None:
    await store(kube, OTHER_FINGERPRINT).keep(ONE.trust)
    with pytest.raises(ConfigError, match=f"belongs to cluster {OTHER_FINGERPRINT}"):
        await store(kube).read()
    with pytest.raises(ConfigError, match="delete that ConfigMap"):
        await store(kube).keep(ONE.trust)


async def test_a_broken_certificate_is_named_by_its_config_map(kube: KubeApi) -> None:
    await kube.create_config_map(SYSTEM_NAMESPACE, TRUST_CONFIGMAP, {"tunnel-ca.crt": "nonsense"})
    with pytest.raises(ConfigError, match="ConfigMap cloudtaser-system/cloudtaser-trust"):
        await store(kube).read()
    await kube.create_config_map(SYSTEM_NAMESPACE, POD_CA_CONFIGMAP, {"pod-ca.crt": "nonsense"})
    assert await store(kube).read_pod_ca() is None


class Contended(KubeApi):
    """An API server on which somebody else is always faster."""

    def __init__(self) -> None:
        self.tries = 0

    async def get_config_map(self, namespace: str, name: str) -> ConfigMap | None:
        return None

    async def create_config_map(
        self, namespace: str, name: str, data: Mapping[str, str], labels: Mapping[str, str] | None = None
    ) -> ConfigMap:
        self.tries += 1
        raise ConflictError("exists")


async def test_contention_is_bounded() -> None:
    kube = Contended()
    with pytest.raises(RefusedError, match="others keep changing it"):
        await store(kube).keep(ONE.trust)
    assert kube.tries == 8
