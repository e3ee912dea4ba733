"""Who may read what: a real registry with passwords or tokens, and the pull secrets of a pod."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloudtaser.kube.registry.errors import ImageError, ImageForbiddenError, ImageNotFoundError
from cloudtaser.kube.registry.rules import Rule
from tests.image_registry import (
    ALICE,
    BOB,
    RegistryServer,
    TokenServer,
    configuration,
    docker_config,
    encoded,
)
from tests.integration.registry.support import Resolving

pytestmark = pytest.mark.asyncio(loop_scope="session")

WRONG = "alice", "wrong-password-3"


@pytest_asyncio.fixture(loop_scope="session")
async def tokened(tmp_path: Path, tokens: TokenServer) -> AsyncIterator[RegistryServer]:
    """Readable with tokens of `tokens`, whose host is listed for it."""
    server = RegistryServer(tmp_path / "tokened", tokens=tokens)
    await server.start()
    yield server
    await server.stop()


def listed(server: RegistryServer, tokens: TokenServer) -> Rule:
    return Rule(server.host, ca=server.tls.ca.read_text(), realms=frozenset((f"127.0.0.1:{tokens.port}",)))


async def test_a_pull_secret_opens_a_registry_that_wants_a_password(passwords: RegistryServer) -> None:
    await passwords.push("team/app:1", configuration(["/private"]))
    image = f"{passwords.host}/team/app:1"
    async with Resolving(passwords, granted=("shop/regcred",)) as resolve:
        resolve.secrets.add("shop", "regcred", docker_config(passwords.host, ALICE))
        with pytest.raises(ImageForbiddenError) as caught:
            await resolve(image)
        assert "user and password" in caught.value.diagnostic()
        assert "operator.registry.pullSecrets" in caught.value.diagnostic()
        assert (await resolve(image, "regcred")).entrypoint == ("/private",)


async def test_a_secret_that_is_not_granted_is_not_asked_for_and_named(passwords: RegistryServer) -> None:
    await passwords.push("team/app:1", configuration())
    async with Resolving(passwords, granted=("other/regcred",)) as resolve:
        resolve.secrets.add("shop", "regcred", docker_config(passwords.host, ALICE))
        with pytest.raises(ImageForbiddenError) as caught:
            await resolve(f"{passwords.host}/team/app:1", "regcred")
        told = caught.value.diagnostic()
        assert "for its pull secret add {namespace: shop, name: regcred} to operator.registry" in told
        assert resolve.secrets.read == []


async def test_a_grant_without_a_role_a_missing_and_a_broken_secret_are_said_to_be_so(
    passwords: RegistryServer,
) -> None:
    await passwords.push("team/app:1", configuration())
    async with Resolving(
        passwords, granted=("shop/ungranted", "shop/missing", "shop/broken", "shop/opaque")
    ) as resolve:
        resolve.secrets.forbidden.add(("shop", "ungranted"))
        resolve.secrets.add("shop", "broken", b'{"auths": {"x": {"auth": "!secret-canary!"}}}')
        resolve.secrets.held["shop", "opaque"] = {"type": "Opaque", "data": {"password": "c2VjcmV0"}}
        for name, said in [
            ("ungranted", "no Role of its namespace grants get on it"),
            ("missing", "shop/missing does not exist"),
            ("broken", "shop/broken has an auth that is no base64"),
            ("opaque", "shop/opaque is not of type"),
        ]:
            with pytest.raises(ImageForbiddenError) as caught:
                await resolve(f"{passwords.host}/team/app:1", name)
            assert said in caught.value.diagnostic()
            assert "canary" not in caught.value.diagnostic()


async def test_a_public_image_is_found_whatever_the_pull_secrets_are(public: RegistryServer) -> None:
    await public.push("open/app:1", configuration(["/open"]))
    async with Resolving(public) as resolve:
        assert (await resolve(f"{public.host}/open/app:1", "not-granted")).entrypoint == ("/open",)


async def test_of_several_secrets_for_one_host_each_is_tried(passwords: RegistryServer) -> None:
    await passwords.push("team/app:1", configuration(["/private"]))
    names = ["first", "second", "third"]
    async with Resolving(passwords, granted=tuple(f"shop/{name}" for name in names)) as resolve:
        resolve.secrets.add("shop", "first", docker_config("elsewhere.example.com", ALICE))
        resolve.secrets.add("shop", "second", docker_config(passwords.host, WRONG))
        resolve.secrets.add("shop", "third", docker_config(passwords.host, BOB))
        found = await resolve(f"{passwords.host}/team/app:1", *names)
        assert found.entrypoint == ("/private",)
        assert resolve.requests(401) == 1


@pytest.mark.parametrize("kind", ["dockerconfigjson", "dockercfg"])
async def test_both_kinds_of_pull_secret_are_read(passwords: RegistryServer, kind: str) -> None:
    await passwords.push("team/app:1", configuration(["/private"]))
    auths = {f"https://{passwords.host}/v2/": {"username": ALICE[0], "password": ALICE[1]}}
    async with Resolving(passwords, granted=("shop/regcred",)) as resolve:
        config = encoded(auths) if kind == "dockercfg" else encoded({"auths": auths})
        resolve.secrets.add("shop", "regcred", config, kind)
        assert (await resolve(f"{passwords.host}/team/app:1", "regcred")).entrypoint == ("/private",)


async def test_a_namespace_profits_from_the_cache_only_under_its_own_credentials(
    passwords: RegistryServer,
) -> None:
    await passwords.push("team/app:1", configuration(["/private"]))
    image = f"{passwords.host}/team/app:1"
    async with Resolving(passwords, granted=("shop/regcred", "bank/regcred", "evil/regcred")) as resolve:
        resolve.secrets.add("shop", "regcred", docker_config(passwords.host, ALICE))
        resolve.secrets.add("bank", "regcred", docker_config(passwords.host, ALICE))
        resolve.secrets.add("evil", "regcred", docker_config(passwords.host, WRONG))
        digest = (await resolve(image, "regcred")).digest
        by_digest = f"{passwords.host}/team/app@{digest}"
        await resolve(by_digest, "regcred")
        asked = resolve.requests()
        for namespace, secrets in (("evil", ("regcred",)), ("evil", ()), ("else", ("regcred",))):
            for name in (image, by_digest):
                with pytest.raises(ImageError):
                    await resolve(name, *secrets, namespace=namespace)
        assert resolve.requests() == asked
        assert (await resolve(image, "regcred", namespace="bank")).digest == digest
        assert resolve.requests() == asked  # the same credential, proved a moment ago


async def test_a_digest_known_from_one_repository_says_nothing_about_another(public: RegistryServer) -> None:
    pushed = await public.push("mine/app:1", configuration(["/mine"]))
    await public.push("yours/app:1", configuration(["/yours"]))
    async with Resolving(public) as resolve:
        await resolve(f"{public.host}/mine/app@{pushed}")
        await resolve(f"{public.host}/yours/app:1")
        with pytest.raises(ImageNotFoundError):
            await resolve(f"{public.host}/yours/app@{pushed}")


async def test_the_operators_own_credentials_serve_the_namespaces_that_are_listed(
    passwords: RegistryServer, tmp_path: Path
) -> None:
    await passwords.push("team/app:1", configuration(["/private"]))
    image = f"{passwords.host}/team/app:1"
    file = tmp_path / "config.json"
    file.write_bytes(docker_config(passwords.host, WRONG))
    own: dict[str, Any] = {"docker_config": str(file), "docker_config_namespaces": frozenset(("shop",))}
    async with Resolving(passwords, **own) as resolve:
        with pytest.raises(ImageForbiddenError):
            await resolve(image)
        replaced = tmp_path / "new.json"
        replaced.write_bytes(docker_config(passwords.host, ALICE))
        replaced.rename(file)
        assert (await resolve(image)).entrypoint == ("/private",)
        with pytest.raises(ImageForbiddenError):
            await resolve(image, namespace="evil")


async def test_a_token_is_fetched_with_a_password_and_used_again(
    tokened: RegistryServer, tokens: TokenServer
) -> None:
    tokens.readers["alice"] = {"team/app"}
    await tokened.push("team/app:1", configuration(["/tokened"]))
    await tokened.push("team/app:2", configuration(["/second"]))
    image = f"{tokened.host}/team/app"
    async with Resolving(tokened, tokens, rules=(listed(tokened, tokens),), granted=("shop/r",)) as resolve:
        resolve.secrets.add("shop", "r", docker_config(tokened.host, ALICE))
        assert (await resolve(f"{image}:1", "r")).entrypoint == ("/tokened",)
        assert (await resolve(f"{image}:2", "r")).entrypoint == ("/second",)
    assert tokens.asked == [
        {
            "user": "alice",
            "account": "alice",
            "service": "registry.test",
            "scope": "repository:team/app:pull",
        }
    ]


async def test_a_public_repository_behind_tokens_is_read_as_nobody(
    tokened: RegistryServer, tokens: TokenServer
) -> None:
    tokens.readers[""] = {"open/app"}
    await tokened.push("open/app:1", configuration(["/open"]))
    await tokened.push("team/app:1", configuration(["/closed"]))
    async with Resolving(tokened, tokens) as resolve:
        assert (await resolve(f"{tokened.host}/open/app:1")).entrypoint == ("/open",)
        with pytest.raises(ImageForbiddenError, match="answers 401"):
            await resolve(f"{tokened.host}/team/app:1")
    assert [asked["user"] for asked in tokens.asked] == ["", ""]


async def test_no_password_goes_to_a_token_server_that_is_not_listed(
    tokened: RegistryServer, tokens: TokenServer
) -> None:
    tokens.readers["alice"] = {"team/app"}
    await tokened.push("team/app:1", configuration())
    async with Resolving(tokened, tokens, granted=("shop/r",)) as resolve:
        resolve.secrets.add("shop", "r", docker_config(tokened.host, ALICE))
        with pytest.raises(ImageForbiddenError) as caught:
            await resolve(f"{tokened.host}/team/app:1", "r")
        assert "is not listed to be given credentials" in caught.value.diagnostic()
        assert "realms" in caught.value.diagnostic()
    assert all(asked["user"] == "" for asked in tokens.asked)


async def test_identity_tokens_and_registry_tokens_are_credentials_too(
    tokened: RegistryServer, tokens: TokenServer
) -> None:
    tokens.readers["bob"] = {"team/app"}
    tokens.refresh_tokens["refresh-me"] = "bob"
    await tokened.push("team/app:1", configuration(["/tokened"]))
    image = f"{tokened.host}/team/app:1"
    ready = tokens.token("team/app", ["pull"], "carol")
    for fields in (
        {"identitytoken": "refresh-me"},
        {"username": "<token>", "password": "refresh-me"},
        {"registrytoken": ready},
    ):
        async with Resolving(
            tokened, tokens, rules=(listed(tokened, tokens),), granted=("shop/r",)
        ) as resolve:
            resolve.secrets.add("shop", "r", encoded({"auths": {tokened.host: fields}}))
            assert (await resolve(image, "r")).entrypoint == ("/tokened",)
    assert tokens.asked == [{"grant": "refresh_token", "service": "registry.test"}] * 2


async def test_a_refused_identity_token_is_a_refusal(tokened: RegistryServer, tokens: TokenServer) -> None:
    await tokened.push("team/app:1", configuration())
    async with Resolving(tokened, tokens, rules=(listed(tokened, tokens),), granted=("shop/r",)) as resolve:
        resolve.secrets.add("shop", "r", encoded({"auths": {tokened.host: {"identitytoken": "old-canary"}}}))
        with pytest.raises(ImageForbiddenError, match="refuses pull secret shop/r") as caught:
            await resolve(f"{tokened.host}/team/app:1", "r")
        assert "canary" not in caught.value.diagnostic()


async def test_a_pull_secret_is_read_again_after_half_a_minute(passwords: RegistryServer) -> None:
    await passwords.push("team/app:1", configuration(["/private"]))
    image = f"{passwords.host}/team/app:1"
    async with Resolving(passwords, granted=("shop/r",)) as resolve:
        resolve.secrets.add("shop", "r", docker_config(passwords.host, WRONG))
        for _ in range(3):
            with pytest.raises(ImageForbiddenError):
                await resolve(image, "r")
        assert resolve.secrets.read == [("shop", "r")]
        resolve.secrets.add("shop", "r", docker_config(passwords.host, ALICE))
        resolve.clock.now += 31
        assert (await resolve(image, "r")).entrypoint == ("/private",)
        assert resolve.secrets.read == [("shop", "r")] * 2


async def test_many_who_want_one_image_make_one_request(passwords: RegistryServer) -> None:
    await passwords.push("team/app:1", configuration(["/private"]))
    async with Resolving(passwords, granted=("shop/r",)) as resolve:
        resolve.secrets.add("shop", "r", docker_config(passwords.host, ALICE))
        found = await asyncio.gather(*(resolve(f"{passwords.host}/team/app:1", "r") for _ in range(100)))
        assert {config.entrypoint for config in found} == {("/private",)}
        assert resolve.requests() == 2
        assert resolve.secrets.read == [("shop", "r")]
