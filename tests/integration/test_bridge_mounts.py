"""Cluster A tries to reach cluster B through the bridge on a server without namespaces, a real OpenBao.

A's token may do anything on the whole server. Pods speak the same paths as anywhere else.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from cloudtaser.openbao.errors import OpenBaoError
from tests.integration.bridge_world import Bridge, Pod, bridge_for
from tests.integration.mounts_world import MountsWorld, RootSpace, build_mounts_world

WRAP = [("X-Vault-Wrap-TTL", "300")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountsWorld]:
    made = build_mounts_world(tmp_path_factory.mktemp("openbao"))
    yield made
    made.server.stop()


@pytest.fixture
async def bridge(world: MountsWorld) -> AsyncIterator[Bridge]:
    async with bridge_for(world.a, world.server.address) as made:
        yield made


async def at(world: MountsWorld, space: RootSpace, method: str, path: str, **request: Any) -> Any:
    """The same through a bridge that serves `space`, on behalf of a pod that may do anything."""
    async with bridge_for(space, world.server.address) as bridge, bridge.pod() as pod:
        token = await pod.login(space)
        return await pod.ask(method, path, token=token, **request)


async def lives(world: MountsWorld, token: str) -> bool:
    async with world.holder(token) as client:
        try:
            await client.lookup_self()
        except OpenBaoError:
            return False
        return True


async def b_token(world: MountsWorld) -> str:
    """One that B's own pod got at its login."""
    async with bridge_for(world.b, world.server.address) as bridge, bridge.pod() as pod:
        return await pod.login(world.b)


# What passes


async def test_a_pod_speaks_the_paths_that_it_speaks_anywhere(world: MountsWorld, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        token = await pod.login(world.a, "default", namespace="shop")
        read = await pod.ask("GET", "/v1/secret/data/shop/db", token=token)
        assert read.json["data"]["data"]["v"] == world.a.canary
        assert (await pod.ask("GET", "/v1/secret/metadata/shop/db", token=token)).status == 200
        granted = await pod.ask("GET", "/v1/secret/data/common/db", token=token)
        assert granted.status == 200, "the role of the grant was picked, under the name that it has there"
        assert (await pod.ask("PUT", "/v1/auth/token/renew-self", token=token, body={})).status == 200
        mount = await pod.ask("GET", "/v1/sys/internal/ui/mounts/secret/data/shop/db", token=token)
        assert (mount.json["data"]["path"], mount.json["data"]["options"]) == ("secret/", {"version": "2"})
    assert [line["path"] for line in bridge.lines][1] == "/v1/secret/data/shop/db"


async def test_writing_listing_and_deleting_stay_in_the_space(world: MountsWorld, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        token = await pod.login(world.a)
        written = await pod.ask("POST", "/v1/secret/data/new/y", token=token, body={"data": {"v": "1"}})
        assert written.status == 200
        listed = await pod.ask("LIST", "/v1/secret/metadata/new", token=token)
        assert listed.json["data"]["keys"] == ["y"]
        in_other_words = await pod.ask("GET", "/v1/secret/metadata/new?list=true", token=token)
        assert in_other_words.json["data"] == listed.json["data"]
        assert (await pod.ask("DELETE", "/v1/secret/metadata/new/y", token=token)).status == 204
    async with world.admin() as admin:
        assert await admin.find(f"{world.b.corner.secret}/data/new/y") is None


async def test_capabilities_are_told_by_the_names_that_were_asked_for(
    world: MountsWorld, bridge: Bridge
) -> None:
    async with bridge.pod() as pod:
        token = await pod.login(world.a, "default", namespace="shop")
        asked = {"paths": ["secret/data/shop/db", "secret/data/bank/db", "auth/token/lookup-self"]}
        told = (await pod.ask("POST", "/v1/sys/capabilities-self", token=token, body=asked)).json
        for answer in (told, told["data"]):
            assert answer["secret/data/shop/db"] == ["read"]
            assert answer["secret/data/bank/db"] == ["deny"]
            assert answer["auth/token/lookup-self"] == ["read"]
        assert "cloudtaser-" not in json.dumps(told)
        one = await pod.ask(
            "POST", "/v1/sys/capabilities-self", token=token, body={"path": "secret/data/shop/db"}
        )
        assert one.json["capabilities"] == ["read"]


async def test_a_lease_is_renewed_by_the_id_that_openbao_gave(world: MountsWorld, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        token = await pod.login(world.a)
        issued = await pod.ask(
            "PUT", "/v1/certificates/issue/leased", token=token, body={"common_name": "mine"}
        )
        lease = issued.json["lease_id"]
        asked: dict[str, Any] = {"token": token, "body": {"lease_id": lease}}
        renewed = await pod.ask("PUT", "/v1/sys/leases/renew", **asked)
        assert "lease is not renewable" in renewed.errors, "OpenBao itself was asked"
        looked_up = await pod.ask("PUT", "/v1/sys/leases/lookup", **asked)
        assert looked_up.json["data"]["id"] == lease


async def test_a_wrapped_secret_and_a_wrapped_login_are_unwrapped_once(
    world: MountsWorld, bridge: Bridge
) -> None:
    async with bridge.pod() as pod:
        token = await pod.login(world.a)
        for by_body in (True, False):
            wrapped = await pod.ask("GET", "/v1/secret/data/x", token=token, headers=WRAP)
            inner = wrapped.json["wrap_info"]["token"]
            named: dict[str, str] = {"token": inner} if by_body else {}
            request: dict[str, Any] = {"token": token if by_body else inner, "body": named}
            assert (await pod.ask("POST", "/v1/sys/wrapping/lookup", **request)).status == 200
            assert (
                world.a.canary in (await pod.ask("POST", "/v1/sys/wrapping/unwrap", **request)).body.decode()
            )
            assert (await pod.ask("POST", "/v1/sys/wrapping/unwrap", **request)).status >= 400
        login = {"role": "default", "jwt": world.a.jwt()}
        wrapped = await pod.ask("POST", "/v1/auth/jwt/login", body=login, headers=WRAP)
        inner = wrapped.json["wrap_info"]["token"]
        unwrapped = await pod.ask("POST", "/v1/sys/wrapping/unwrap", token=inner, body={})
        fresh = unwrapped.json["auth"]["client_token"]
        assert (await pod.ask("GET", "/v1/secret/data/shop/db", token=fresh)).status == 200


async def test_a_token_works_at_a_bridge_that_has_never_seen_it(world: MountsWorld) -> None:
    async with bridge_for(world.a, world.server.address) as first, first.pod() as pod:
        token = await pod.login(world.a, "default", namespace="shop")
    async with bridge_for(world.a, world.server.address) as second, second.pod() as pod:
        for _ in range(2):
            assert (await pod.ask("GET", "/v1/secret/data/shop/db", token=token)).status == 200
        denied = await pod.ask("GET", "/v1/secret/data/bank/db", token=token)
        assert denied.status == 403
        assert len(second.services.holders) == 1


async def test_an_administrator_makes_a_token_for_a_space_by_its_metadata(
    world: MountsWorld, bridge: Bridge
) -> None:
    async with bridge.pod() as pod:
        assert (await pod.ask("GET", "/v1/secret/data/x", token=world.a.minted)).status == 200
        for token in (world.b.minted, world.stranger):
            refused = await pod.ask("GET", "/v1/secret/data/x", token=token)
            assert (refused.status, refused.json["errors"]) == (
                403, ["permission denied: the token is not valid in this cluster's space"],
            )  # fmt: skip


# The operator


async def operator(pod: Pod, space: RootSpace) -> str:
    body = {"role": "cloudtaser-operator", "jwt": space.operator_jwt()}
    answer = await pod.ask("POST", "/v1/auth/jwt/login", body=body)
    assert answer.status == 200, answer.body
    return str(answer.json["auth"]["client_token"])


async def test_the_operator_makes_pod_tokens_and_takes_its_own_back(world: MountsWorld) -> None:
    async with bridge_for(world.a, world.server.address, operator=True) as bridge, bridge.pod() as pod:
        token = await operator(pod, world.a)
        create, shop = "/v1/auth/token/create/cloudtaser-pod", {"policies": ["ct-pod_shop_web"]}
        made = await pod.ask("POST", create, token=token, body=shop)
        assert made.json["auth"]["token_policies"] == ["ct-pod_aaaaaaaa_shop_web"]
        minted, accessor = made.json["auth"]["client_token"], made.json["auth"]["accessor"]
        for foreign in ("all", "root", "cloudtaser-default_bbbbbbbb", "cloudtaser-operator_aaaaaaaa"):
            refused = await pod.ask("POST", create, token=token, body={"policies": [foreign]})
            assert refused.status >= 400, foreign
        asked = {"policies": ["ct-pod_bbbbbbbb_shop_web", "ct-pod_shop_web", "ct-pod_shop_"]}
        both = await pod.ask("POST", create, token=token, body=asked)
        assert both.json["auth"]["token_policies"] == ["ct-pod_aaaaaaaa_shop_web"], "the others are no grants"
        named = await pod.ask("POST", create, token=token, body={"policies": ["ct-pod_bbbbbbbb_shop_web"]})
        assert named.status == 404
        assert f"source allow {world.a.fingerprint} --namespace bbbbbbbb" in named.json["errors"][0]
        renew = "/v1/auth/token/renew-accessor"
        renewed = await pod.ask("POST", renew, token=token, body={"accessor": accessor})
        assert renewed.json["auth"]["lease_duration"] == 3600
        meta = {"namespace": "shop", "serviceaccount": "web", "pod": "web-0", "pod_uid": "u-1"}
        named = await pod.ask("POST", create, token=token, body=shop | {"meta": meta})
        sealed = named.json["auth"]["client_token"]
    async with bridge_for(world.a, world.server.address) as bridge, bridge.pod() as pod:
        for path in ("auth/token/lookup-self", "secret/data/common/db"):
            assert (await pod.ask("GET", f"/v1/{path}", token=sealed)).status == 200
        line = bridge.lines[-1]
        assert (line["namespace"], line["serviceaccount"], line["pod"]) == ("shop", "web", "web-0")
    # a bridge that was restarted in between knows whose it is all the same
    async with bridge_for(world.a, world.server.address, operator=True) as bridge, bridge.pod() as pod:
        assert (await pod.ask("GET", "/v1/secret/data/common/db", token=minted)).status == 200
        body = {"accessor": accessor}
        assert (await pod.ask("POST", "/v1/auth/token/revoke-accessor", token=token, body=body)).status == 204
        assert (await pod.ask("GET", "/v1/secret/data/common/db", token=minted)).status == 403


async def test_an_operator_revokes_no_token_of_anybody_else(world: MountsWorld) -> None:
    theirs = await b_token(world)
    async with world.admin() as admin:
        accessors = [(await admin.lookup_self())["accessor"]]
    for token in (theirs, world.stranger, world.b.minted):
        async with world.holder(token) as client:
            accessors.append((await client.lookup_self())["accessor"])
    async with bridge_for(world.a, world.server.address, operator=True) as bridge, bridge.pod() as pod:
        token = await operator(pod, world.a)
        for accessor in (*accessors, "AAAAAAAAAAAAAAAAAAAAAAAA"):
            body = {"accessor": accessor}
            for path in ("renew-accessor", "revoke-accessor"):
                refused = await pod.ask("POST", f"/v1/auth/token/{path}", token=token, body=body)
                assert refused.status == 403
        everything = await pod.login(world.a)
        body = {"accessor": accessors[1]}
        refused = await pod.ask("POST", "/v1/auth/token/revoke-accessor", token=everything, body=body)
        assert refused.status == 403
    for token in (theirs, world.stranger, world.b.minted, world.server.root_token.reveal_text()):
        assert await lives(world, token)


# What does not pass


@pytest.mark.parametrize(
    "path",
    [
        "/v1/cloudtaser-bbbbbbbb/secret/data/x",
        "/v1/cloudtaser-aaaaaaaa/secret/data/x",
        "/v1/cloudtaser-bbbbbbbb%2Fsecret%2Fdata%2Fx",
        "/v1/../cloudtaser-bbbbbbbb/secret/data/x",
        "/v1/%2e%2e/cloudtaser-bbbbbbbb/secret/data/x",
        "/v1/secret/../../cloudtaser-bbbbbbbb/secret/data/x",
        "/v1//cloudtaser-bbbbbbbb/secret/data/x",
        "/v1/cloudtaser/data/clusters/bbbbbbbb-0000-4000-8000-00000000000b/registered",
        "/v1/cloudtaser/metadata/clusters",
        "/v1/pki-tunnel/cert/ca",
        "/v1/auth/cloudtaser-bbbbbbbb-jwt/config",
        "/v1/auth/jwt/config",
        "/v1/sys/internal/ui/mounts",
        "/v1/sys/internal/ui/mounts/cloudtaser-bbbbbbbb/secret",
        "/v1/sys/internal/ui/mounts/cloudtaser",
        "/v1/sys/internal/ui/mounts/auth/token",
        "/v1/sys/internal/ui/mounts/auth/cloudtaser-bbbbbbbb-jwt",
        "/v1/sys/mounts",
        "/v1/sys/policies/acl/all",
        "/v1/identity/entity/id",
        "/v1/auth/token/accessors",
        "/v1/auth/token/create/cloudtaser-pod_bbbbbbbb",
    ],
)
@pytest.mark.parametrize("method", ["GET", "LIST", "POST", "DELETE"])
async def test_no_path_leads_out_of_the_space(
    world: MountsWorld, bridge: Bridge, path: str, method: str
) -> None:
    async with bridge.pod() as pod:
        token = await pod.login(world.a)
    async with bridge.pod() as pod:
        answer = await pod.ask(method, path, token=token, body={} if method == "POST" else None)
    assert answer.status >= 400, answer.body
    assert world.b.canary.encode() not in answer.body
    assert bridge.lines[-1]["verdict"] == "refused"


async def test_another_clusters_login_is_no_login_here(world: MountsWorld, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        for path in ("auth/cloudtaser-bbbbbbbb-jwt/login", "auth/cloudtaser-aaaaaaaa-jwt/login"):
            for space in (world.a, world.b):
                answer = await pod.ask("POST", f"/v1/{path}", body={"role": "all", "jwt": space.jwt()})
                assert answer.status == 403
        foreign = await pod.ask("POST", "/v1/auth/jwt/login", body={"role": "all", "jwt": world.b.jwt()})
        assert foreign.status == 403
        for role in ("bbbbbbbb_default", "aaaaaaaa_all"):
            answer = await pod.ask("POST", "/v1/auth/jwt/login", body={"role": role, "jwt": world.a.jwt()})
            assert answer.status >= 400


async def test_another_clusters_token_is_refused_whatever_it_asks_for(
    world: MountsWorld, bridge: Bridge
) -> None:
    for token in (await b_token(world), world.b.minted, world.stranger):
        async with bridge.pod() as pod:
            for method, path in (
                ("GET", "secret/data/x"), ("LIST", "secret/metadata"), ("POST", "secret/data/x"),
                ("GET", "auth/token/lookup-self"), ("POST", "auth/token/renew-self"),
                ("POST", "auth/token/revoke-self"), ("POST", "sys/capabilities-self"),
                ("GET", "sys/internal/ui/mounts/secret/data/x"), ("POST", "sys/leases/lookup"),
                ("POST", "auth/token/create/cloudtaser-pod"), ("POST", "auth/token/revoke-accessor"),
            ):  # fmt: skip
                nothing: dict[str, Any] | None = {} if method == "POST" else None
                answer = await pod.ask(method, f"/v1/{path}", token=token, body=nothing)
                assert answer.status == 403, (path, answer.body)
                assert bridge.lines[-1]["reason"] == "foreign_token"
            own = await pod.login(world.a)
            for path in ("renew-self", "revoke-self"):
                answer = await pod.ask("POST", f"/v1/auth/token/{path}", token=own, body={"token": token})
                assert answer.status == 403
        assert await lives(world, token)


async def test_a_token_that_one_cluster_has_shown_is_not_anothers_at_the_same_bridge(
    world: MountsWorld,
) -> None:
    async with (
        bridge_for(world.a, world.server.address) as ours,
        bridge_for(world.b, world.server.address) as theirs,
    ):
        ours.services.holders = theirs.services.holders
        async with theirs.pod() as pod:
            token = await pod.login(world.b)
        async with ours.pod() as pod:
            assert (await pod.ask("GET", "/v1/secret/data/x", token=token)).status == 403
        async with theirs.pod() as pod:
            assert (await pod.ask("GET", "/v1/secret/data/x", token=token)).status == 200


async def test_another_clusters_wrapped_secret_stays_wrapped(world: MountsWorld, bridge: Bridge) -> None:
    wrapped = await at(world, world.b, "GET", "/v1/secret/data/x", headers=WRAP)
    inner = wrapped.json["wrap_info"]["token"]
    async with bridge.pod() as pod:
        own = await pod.login(world.a)
        attempts: tuple[dict[str, Any], ...] = (
            {"token": own, "body": {"token": inner}},
            {"token": inner, "body": {}},
            {"token": inner, "body": {"token": inner}},
            {"body": {"token": inner}},
            {"token": inner, "body": {"token": own}},
        )
        for request in attempts:
            for path in ("unwrap", "lookup"):
                answer = await pod.ask("POST", f"/v1/sys/wrapping/{path}", **request)
                assert answer.status == 403, answer.body
    kept = await at(world, world.b, "POST", "/v1/sys/wrapping/unwrap", body={"token": inner})
    assert world.b.canary in kept.body.decode(), "and B can still unwrap it"


async def test_another_clusters_leases_are_out_of_reach(world: MountsWorld, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        own = await pod.login(world.a)
        for lease in (
            world.b.lease,
            f"cloudtaser-aaaaaaaa/../{world.b.lease}",
            f"auth/cloudtaser-aaaaaaaa-jwt/login/{'0' * 40}",
            world.b.lease.removeprefix("cloudtaser-bbbbbbbb/"),
        ):
            for path in ("lookup", "renew"):
                answer = await pod.ask("PUT", f"/v1/sys/leases/{path}", token=own, body={"lease_id": lease})
                assert answer.status == 403, (lease, answer.body)
                assert bridge.lines[-1]["reason"] == "foreign_lease_id"


# What is said


async def test_errors_are_in_the_words_in_which_the_pod_asked(world: MountsWorld, bridge: Bridge) -> None:
    async with bridge.pod() as pod:
        token = await pod.login(world.a, "default", namespace="shop")
        denied = await pod.ask("GET", "/v1/secret/data/bank/db", token=token)
        assert "shop/web may not read secret/data/bank/db" in denied.errors
        assert "--path secret/data/bank/db" in denied.errors
        everything = await pod.login(world.a)
        absent = await pod.ask("GET", "/v1/nowhere/x", token=everything)
        assert 'no handler for route "nowhere/x"' in absent.errors
        role = await pod.ask("POST", "/v1/auth/jwt/login", body={"role": "shop_job", "jwt": world.a.jwt()})
        assert "with the role shop_job" in role.errors
        for answer in (denied, absent, role):
            assert "cloudtaser-aaaaaaaa" not in answer.errors
            assert "aaaaaaaa_" not in answer.errors


async def test_openbaos_silence_is_not_taken_for_a_foreign_token(world: MountsWorld) -> None:
    async with bridge_for(world.a, world.server.address) as seen, seen.pod() as pod:
        token = await pod.login(world.a)
    async with bridge_for(world.a, "http://127.0.0.1:1") as bridge, bridge.pod() as pod:
        assert (await pod.ask("GET", "/v1/secret/data/x", token=token)).status == 503
