"""What a real registry holds: the resolver finds the configuration that a node would run."""

from __future__ import annotations

import pytest

from cloudtaser.kube.registry.errors import ImageNotFoundError, ImageUnusableError
from cloudtaser.kube.registry.image import Platform
from tests.image_registry import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    RegistryServer,
    configuration,
    described,
    digest,
    encoded,
    index,
    manifest,
    platform,
)
from tests.integration.registry.support import Resolving

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("docker", [False, True])
async def test_entrypoint_command_user_and_directory_come_from_the_image(
    public: RegistryServer, docker: bool
) -> None:
    config = configuration(["/bin/serve", "--fast"], ["all", ""], User="65532:65532", WorkingDir="/srv")
    name = f"plain{int(docker)}/app:1"
    pushed = await public.push(name, config, docker=docker)
    async with Resolving(public) as resolve:
        found = await resolve(f"{public.host}/{name}")
    assert found.entrypoint == ("/bin/serve", "--fast")
    assert found.cmd == ("all", "")
    assert (found.user, found.working_dir) == ("65532:65532", "/srv")
    assert found.env_names == ("PATH", "MODE")
    assert found.digest == found.manifest_digest == pushed


async def test_an_image_is_found_by_tag_by_digest_and_by_both(public: RegistryServer) -> None:
    first = await public.push("by/app:1", configuration(["/one"]))
    await public.push("by/app:latest", configuration(["/latest"]))
    async with Resolving(public) as resolve:
        assert (await resolve(f"{public.host}/by/app")).entrypoint == ("/latest",)
        assert (await resolve(f"{public.host}/by/app@{first}")).entrypoint == ("/one",)
        both = await resolve(f"{public.host}/by/app:latest@{first}")
        assert (both.entrypoint, both.digest) == (("/one",), first)


async def _push_platforms(
    server: RegistryServer, repository: str, *names: str, docker: bool = False
) -> list[dict[str, object]]:
    """One image for each `arch/variant`, whose entrypoint is that name; the entries for an index."""
    entries = []
    kind = DOCKER_MANIFEST if docker else OCI_MANIFEST
    for name in names:
        architecture, _, variant = name.partition("/")
        config = configuration([f"/{name}"], architecture=architecture)
        await server.push(repository, config, docker=docker)
        entries.append(
            described(kind, manifest(config, docker=docker), platform=platform(architecture, variant or None))
        )
    return entries


@pytest.mark.parametrize("docker", [False, True])
async def test_of_an_index_the_nodes_platform_is_taken(public: RegistryServer, docker: bool) -> None:
    repository = f"index{int(docker)}/app"
    entries = await _push_platforms(public, repository, "s390x", "arm64/v8", "amd64", "arm/v7", docker=docker)
    document = index(entries, docker=docker)
    top = await public.push_manifest(repository, "1", document, DOCKER_LIST if docker else OCI_INDEX)
    async with Resolving(public) as resolve:
        image = f"{public.host}/{repository}:1"
        for architecture, variant, expected in [
            ("amd64", None, "/amd64"),
            ("x86_64", None, "/amd64"),
            ("amd64", "v3", "/amd64"),
            ("arm64", None, "/arm64/v8"),
            ("aarch64", "v8", "/arm64/v8"),
            ("arm", "v8", "/arm/v7"),
            ("s390x", None, "/s390x"),
        ]:
            found = await resolve(image, platform=Platform("linux", architecture, variant))
            assert found.entrypoint == (expected,)
            assert found.digest == top
            assert found.manifest_digest != top
        with pytest.raises(ImageUnusableError, match=r"nothing for linux/ppc64le, but for linux/s390x"):
            await resolve(image, platform=Platform("linux", "ppc64le"))
        with pytest.raises(ImageUnusableError, match=r"nothing for linux/arm/v6"):
            await resolve(image, platform=Platform("linux", "arm", "v6"))


async def test_where_nothing_says_on_which_platform_any_will_do(public: RegistryServer) -> None:
    repository = "elsewhere/app"
    entries = await _push_platforms(public, repository, "arm64", "s390x")
    inner = index(entries)
    await public.push_manifest(repository, "inner", inner, OCI_INDEX)
    await public.push_manifest(repository, "1", index([described(OCI_INDEX, inner)]), OCI_INDEX)
    async with Resolving(public) as resolve:
        image = f"{public.host}/{repository}:1"
        assert (await resolve(image)).entrypoint == ("/arm64",)
        with pytest.raises(ImageUnusableError, match="nothing for linux/amd64"):
            await resolve(image, platform=Platform("linux", "amd64"))


async def test_attestations_are_no_images_and_indexes_may_nest(public: RegistryServer) -> None:
    repository = "nested/app"
    entries = await _push_platforms(public, repository, "arm64", "amd64")
    statement = configuration(["/attestation"])
    await public.push_blobs(repository, statement)
    await public.push(repository, statement)
    attestation = described(
        OCI_MANIFEST,
        manifest(statement),
        platform=platform("unknown", os="unknown"),
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    disguised = attestation | {"platform": platform("amd64")}
    inner = index([attestation, disguised, *entries])
    await public.push_manifest(repository, "inner", inner, OCI_INDEX)
    arm_only = index(entries[:1])
    await public.push_manifest(repository, "arm", arm_only, OCI_INDEX)
    outer = index([attestation, described(OCI_INDEX, arm_only), described(OCI_INDEX, inner)])
    await public.push_manifest(repository, "outer", outer, OCI_INDEX)
    async with Resolving(public) as resolve:
        found = await resolve(f"{public.host}/{repository}:outer")
        assert found.entrypoint == ("/amd64",)
        assert found.digest == digest(outer)


async def test_a_tag_without_an_image_and_a_repository_without_a_tag_are_not_found(
    public: RegistryServer,
) -> None:
    await public.push("some/app:1", configuration())
    async with Resolving(public) as resolve:
        for image in ("some/app:2", "none/app:1", f"some/app@sha256:{'0' * 64}"):
            with pytest.raises(ImageNotFoundError) as caught:
                await resolve(f"{public.host}/{image}")
            assert image in caught.value.diagnostic()
            assert "name the container's command" in caught.value.diagnostic()


async def test_what_is_no_container_is_said_to_be_none(public: RegistryServer) -> None:
    config = encoded({"name": "chart"})
    document = encoded(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described("application/vnd.cncf.helm.config.v1+json", config),
            "layers": [],
        }
    )
    await public.push_blobs("helm/chart", config)
    await public.push_manifest("helm/chart", "1", document, OCI_MANIFEST)
    async with Resolving(public) as resolve:
        with pytest.raises(ImageUnusableError, match=r"no container but .*cncf\.helm\.config"):
            await resolve(f"{public.host}/helm/chart:1")


async def test_an_image_without_entrypoint_and_command_is_told_as_it_is(public: RegistryServer) -> None:
    await public.push("bare/app:1", configuration(None, None))
    async with Resolving(public) as resolve:
        found = await resolve(f"{public.host}/bare/app:1")
        assert (found.entrypoint, found.cmd, found.user) == ((), (), "")


async def test_an_image_is_fetched_once_and_a_tag_that_moved_is_noticed(public: RegistryServer) -> None:
    first = await public.push("moving/app:1", configuration(["/first"]))
    async with Resolving(public) as resolve:
        image = f"{public.host}/moving/app:1"
        for _ in range(3):
            assert (await resolve(image)).digest == first
        assert resolve.requests() == 2  # a manifest and its configuration
        assert (resolve.counted("miss"), resolve.counted("hit")) == (1, 2)
        resolve.clock.now += 61
        assert (await resolve(image)).digest == first
        assert resolve.requests() == 3  # a HEAD
        second = await public.push("moving/app:1", configuration(["/second"]))
        assert (await resolve(image)).digest == first
        resolve.clock.now += 61
        moved = await resolve(image)
        assert (moved.digest, moved.entrypoint) == (second, ("/second",))
        assert resolve.requests() == 6
        assert (await resolve(f"{public.host}/moving/app@{second}")).entrypoint == ("/second",)
        assert resolve.requests() == 7
