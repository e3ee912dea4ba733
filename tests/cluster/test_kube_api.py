"""The API client against a real API server: what lists, watches, patches and applies really do there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.errors import (
    ConflictError,
    GoneError,
    KubeForbiddenError,
    KubeRefusedError,
    KubeUnavailableError,
    NotFoundError,
)
from cloudtaser.kube.kinds import CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, PODS
from cloudtaser.kube.transport import Json
from cloudtaser.kube.verbs import PatchType
from tests.cluster.accounts import EVERYTHING, account, client, namespace
from tests.cluster.control_plane import ISSUER, ControlPlane

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

WHERE = "kube-api"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kube(control_plane: ControlPlane) -> AsyncIterator[KubeApi]:
    await namespace(control_plane, WHERE)
    async with client(control_plane, await account(control_plane, WHERE, "all", EVERYTHING)) as kube:
        yield kube


def config_map(name: str, **data: str) -> Json:
    return {"metadata": {"namespace": WHERE, "name": name, "labels": {"test": "kube-api"}}, "data": data}


async def test_a_list_of_many_pages_is_whole(kube: KubeApi) -> None:
    names = {f"page-{n:02}" for n in range(23)}
    for name in names:
        await kube.create_object(CONFIG_MAPS, config_map(name))
    page = await kube.list_page(CONFIG_MAPS, WHERE, label_selector="test=kube-api", limit=5)
    assert (len(page.items), bool(page.continuation)) == (5, True)
    everything = await kube.list_objects(CONFIG_MAPS, WHERE, label_selector="test=kube-api", limit=5)
    assert {item["metadata"]["name"] for item in everything.items} >= names
    only = await kube.list_objects(
        CONFIG_MAPS, WHERE, field_selector="metadata.name=page-03", metadata_only=True
    )
    assert [item["kind"] for item in only.items] == ["PartialObjectMetadata"]
    with pytest.raises(KubeUnavailableError, match="more than 10 configmaps"):
        await kube.list_objects(CONFIG_MAPS, WHERE, limit=5, max_objects=10)


async def test_a_watch_tells_what_happened_since_the_list_and_can_be_resumed(kube: KubeApi) -> None:
    listed = await kube.list_objects(CONFIG_MAPS, WHERE)
    await kube.create_object(CONFIG_MAPS, config_map("watched"))
    await kube.patch_object(CONFIG_MAPS, WHERE, "watched", {"data": {"a": "1"}})
    await kube.delete_object(CONFIG_MAPS, WHERE, "watched")
    seen: list[tuple[str, str]] = []
    version = listed.resource_version
    while len(seen) < 3:  # a watch anew for every event
        watch = kube.watch_objects(CONFIG_MAPS, WHERE, resource_version=version)
        async with contextlib.aclosing(watch) as events:
            async for event in events:
                version = event.resource_version
                if event.type != "BOOKMARK":
                    seen.append((event.type, event.object["metadata"]["name"]))
                    break
    assert seen == [("ADDED", "watched"), ("MODIFIED", "watched"), ("DELETED", "watched")]


async def test_a_watch_ends_in_order_when_its_time_is_up(kube: KubeApi) -> None:
    listed = await kube.list_objects(CONFIG_MAPS, WHERE)
    watch = kube.watch_objects(CONFIG_MAPS, WHERE, resource_version=listed.resource_version, seconds=1)
    assert all([event.type == "BOOKMARK" async for event in watch])


async def test_the_three_patches_and_their_preconditions(kube: KubeApi) -> None:
    made = await kube.create_object(CONFIG_MAPS, config_map("patched", a="1"))
    version = made["metadata"]["resourceVersion"]
    merged = await kube.patch_object(
        CONFIG_MAPS,
        WHERE,
        "patched",
        {"metadata": {"resourceVersion": version}, "data": {"b": "2", "a": None}},
    )
    assert merged["data"] == {"b": "2"}
    with pytest.raises(ConflictError):
        await kube.patch_object(
            CONFIG_MAPS, WHERE, "patched", {"metadata": {"resourceVersion": version}, "data": {"b": "3"}}
        )
    steps = [{"op": "test", "path": "/data/b", "value": "2"}, {"op": "add", "path": "/data/c", "value": "3"}]
    patched = await kube.patch_object(CONFIG_MAPS, WHERE, "patched", steps, content_type=PatchType.JSON)
    assert patched["data"] == {"b": "2", "c": "3"}
    with pytest.raises(KubeRefusedError, match="refused to patch configmaps kube-api/patched"):
        await kube.patch_object(
            CONFIG_MAPS,
            WHERE,
            "patched",
            [{"op": "test", "path": "/data/b", "value": "9"}],
            content_type=PatchType.JSON,
        )


async def test_a_strategic_patch_keeps_the_other_containers(kube: KubeApi) -> None:
    containers = [{"name": name, "image": "tests.invalid/x"} for name in ("one", "two")]
    template = {"metadata": {"labels": {"app": "patched"}}, "spec": {"containers": containers}}
    body = {
        "metadata": {"namespace": WHERE, "name": "patched"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "patched"}}, "template": template},
    }
    await kube.create_object(DEPLOYMENTS, body)
    change = {"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "tests.invalid/y"}]}}}}
    after = await kube.patch_object(DEPLOYMENTS, WHERE, "patched", change, content_type=PatchType.STRATEGIC)
    images = {item["name"]: item["image"] for item in after["spec"]["template"]["spec"]["containers"]}
    assert images == {"one": "tests.invalid/x", "two": "tests.invalid/y"}


async def test_an_applied_field_has_one_owner_until_another_takes_it(kube: KubeApi) -> None:
    first = config_map("applied", mine="1", shared="1")
    await kube.apply_object(CONFIG_MAPS, first, field_manager="first")
    assert (await kube.apply_object(CONFIG_MAPS, first, field_manager="first"))["data"]["shared"] == "1"
    second = config_map("applied", shared="2", theirs="2")
    with pytest.raises(ConflictError, match=r'conflict with "first".*\.data\.shared'):
        await kube.apply_object(CONFIG_MAPS, second, field_manager="second")
    taken = await kube.apply_object(CONFIG_MAPS, second, field_manager="second", force=True)
    assert taken["data"] == {"mine": "1", "shared": "2", "theirs": "2"}
    given_up = await kube.apply_object(CONFIG_MAPS, config_map("applied"), field_manager="first")
    assert given_up["data"] == {"shared": "2", "theirs": "2"}


async def test_only_the_object_that_was_meant_is_deleted(kube: KubeApi) -> None:
    old = await kube.create_object(CONFIG_MAPS, config_map("again"))
    await kube.delete_object(CONFIG_MAPS, WHERE, "again")
    new = await kube.create_object(CONFIG_MAPS, config_map("again"))
    with pytest.raises(ConflictError):
        await kube.delete_object(CONFIG_MAPS, WHERE, "again", uid=old["metadata"]["uid"])
    version = new["metadata"]["resourceVersion"]
    await kube.delete_object(CONFIG_MAPS, WHERE, "again", resource_version=version)
    with pytest.raises(NotFoundError, match="configmaps kube-api/again does not exist"):
        await kube.get_object(CONFIG_MAPS, WHERE, "again")
    with pytest.raises(NotFoundError):
        await kube.delete_object(CONFIG_MAPS, WHERE, "again")


async def test_status_is_patched_apart_from_the_object(kube: KubeApi) -> None:
    container = {"name": "x", "image": "tests.invalid/x"}
    pod = {"metadata": {"namespace": WHERE, "name": "status"}, "spec": {"containers": [container]}}
    await kube.create_object(PODS, pod)
    condition = {"type": "tests/ok", "status": "True"}
    await kube.patch_object(
        PODS,
        WHERE,
        "status",
        {"status": {"conditions": [condition]}},
        content_type=PatchType.STRATEGIC,
        subresource="status",
    )
    found = await kube.get_object(PODS, WHERE, "status")
    assert "tests/ok" in {item["type"] for item in found["status"]["conditions"]}
    await kube.delete_object(PODS, WHERE, "status", grace_seconds=0, propagation="Background")


async def test_a_dry_run_changes_nothing(kube: KubeApi) -> None:
    await kube.create_object(CONFIG_MAPS, config_map("dry"), dry_run=True)
    await kube.apply_object(CONFIG_MAPS, config_map("dry"), dry_run=True)
    with pytest.raises(NotFoundError):
        await kube.get_object(CONFIG_MAPS, WHERE, "dry")


async def test_what_a_role_does_not_give_is_named(control_plane: ControlPlane, kube: KubeApi) -> None:
    async with client(control_plane, await account(control_plane, WHERE, "nobody")) as nobody:
        with pytest.raises(KubeForbiddenError, match="not permitted to list pods kube-api"):
            await nobody.list_objects(PODS, WHERE)
        with pytest.raises(KubeForbiddenError, match="not permitted to watch namespaces"):
            async for _ in nobody.watch_objects(NAMESPACES, resource_version="1"):
                pass


async def test_the_clusters_signing_keys_and_its_issuer_are_read(kube: KubeApi) -> None:
    (key,) = (await kube.jwks())["keys"]
    assert (key["use"], key["kty"], key["alg"]) == ("sig", "EC", "ES256")
    assert await kube.issuer() == ISSUER


async def test_a_dead_api_server_is_said_and_one_that_started_anew_knows_no_old_versions(
    control_plane: ControlPlane, kube: KubeApi
) -> None:
    listed = await kube.list_objects(CONFIG_MAPS, WHERE)
    await kube.create_object(CONFIG_MAPS, config_map("before"))
    seen = asyncio.Event()

    async def watch() -> None:
        version = listed.resource_version
        async for event in kube.watch_objects(CONFIG_MAPS, WHERE, resource_version=version):
            if event.type == "ADDED":
                seen.set()

    watching = asyncio.ensure_future(watch())
    await seen.wait()
    await control_plane.apiserver.kill()
    with pytest.raises(KubeUnavailableError):
        await watching
    with pytest.raises(KubeUnavailableError, match="cannot reach the API server"):
        await kube.list_objects(CONFIG_MAPS, WHERE)
    control_plane.apiserver.start()
    await control_plane.apiserver.wait_until(control_plane.is_ready, "ready again", 120)
    assert (await kube.list_objects(CONFIG_MAPS, WHERE)).items
    with pytest.raises(GoneError, match="too old"):
        async for _ in kube.watch_objects(CONFIG_MAPS, WHERE, resource_version="1", seconds=60):
            pass
