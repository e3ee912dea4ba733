"""Suspension against a real OpenBao and a real database: everything ends, and comes back when it should."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from cloudtaser.demo.openbao import DevServer
from cloudtaser.demo.postgres import PostgresServer
from cloudtaser.errors import CloudtaserError, NotAuthorisedError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Keys, Records
from cloudtaser.openbao.registration import register
from cloudtaser.openbao.suspension import resume, suspend
from tests.integration.openbao.support import (
    InterruptedClient,
    RegisteredCluster,
    Run,
    accessors,
    come_in,
    each_kill,
    every,
    logs_in,
    new_fingerprint,
    put_secret,
    recorded,
    registered_cluster,
)

KEYS = "jwt_validation_pubkeys"


@pytest.fixture
async def live(root: OpenBao, cluster: RegisteredCluster) -> RegisteredCluster:
    """A cluster that has come in, with a secret that its pods may read."""
    await come_in(root, cluster)
    await put_secret(root, cluster, "shop/db")
    return cluster


async def test_every_token_of_the_space_is_dead_after_a_suspension(
    root: OpenBao, live: RegisteredCluster
) -> None:
    operator = await live.log_in("cloudtaser-operator", live.operator_token())
    made = await operator.request(
        "POST", "auth/token/create/cloudtaser-pod", body={"policies": ["ct-pod_shop_web"]}
    )
    assert made["auth"]["client_token"]
    async with operator, await live.log_in("default", live.token("shop", "web")) as pod:
        assert await pod.kv_read(live.space.secret, "shop/db") is not None
        result = await suspend(root, live.fingerprint, layout=live.layout)
        for client in (pod, operator):
            with pytest.raises(NotAuthorisedError):
                await client.lookup_self()
    assert (result.suspended, result.left) == (True, ())
    assert await accessors(root, live) == []
    assert (await recorded(root, live)).suspended


async def test_an_answer_that_a_pod_had_wrapped_cannot_be_unwrapped_after_a_suspension(
    root: OpenBao, live: RegisteredCluster
) -> None:
    where = {"X-Vault-Namespace": live.space.namespace}
    async with (
        await live.log_in("default", live.token("shop", "web")) as pod,
        aiohttp.ClientSession() as http,
    ):
        assert pod._token is not None
        asked = where | {"X-Vault-Token": pod._token.reveal_text(), "X-Vault-Wrap-TTL": "3600"}
        url = f"{root.address}/v1/secret/data/shop/db"
        wrapped = await (await http.get(url, headers=asked)).json()
        token = wrapped["wrap_info"]["token"]
        await suspend(root, live.fingerprint, layout=live.layout)
        url = f"{root.address}/v1/sys/wrapping/unwrap"
        answer = await http.post(url, headers=where | {"X-Vault-Token": token})
        assert answer.status in (400, 403)


async def test_a_suspended_cluster_logs_in_nowhere_until_it_is_resumed(
    root: OpenBao, live: RegisteredCluster
) -> None:
    assert await logs_in(live)
    await suspend(root, live.fingerprint, layout=live.layout)
    assert not await logs_in(live)
    result = await resume(root, live.fingerprint, layout=live.layout)
    assert (result.suspended, result.changed) == (False, True)
    assert await logs_in(live)
    assert not (await recorded(root, live)).suspended
    kept = await root.kv_read(live.space.secret, "shop/db", namespace=live.space.namespace)
    assert kept is not None


async def test_a_resumed_cluster_logs_in_with_the_keys_that_were_read_last(
    root: OpenBao, live: RegisteredCluster
) -> None:
    other = RegisteredCluster(live.fingerprint, live.layout, live.space, live.server)
    keys = Keys(other.jwks(), "2026-01-01T00:00:00Z", "eu-1")
    await Records(root, live.layout).write_keys(live.fingerprint, keys, 0)
    await suspend(root, live.fingerprint, layout=live.layout)
    await resume(root, live.fingerprint, layout=live.layout)
    assert await logs_in(other)
    assert not await logs_in(live)


async def test_suspending_again_does_all_of_it_again_and_resuming_again_changes_nothing(
    root: OpenBao, live: RegisteredCluster
) -> None:
    await suspend(root, live.fingerprint, layout=live.layout)
    # somebody with a bridge's token lets himself in again
    await root.request(
        "POST",
        "auth/jwt/config",
        namespace=live.space.namespace,
        body={"jwt_validation_pubkeys": [live.public_key()], "bound_issuer": ""},
    )
    async with await live.log_in("default", live.token("shop", "web")) as intruder:
        await suspend(root, live.fingerprint, layout=live.layout)
        with pytest.raises(NotAuthorisedError):
            await intruder.lookup_self()
    assert not await logs_in(live)
    await resume(root, live.fingerprint, layout=live.layout)
    assert not (await resume(root, live.fingerprint, layout=live.layout)).changed


async def test_whoever_logs_in_because_a_bridge_let_the_keys_in_again_meanwhile_is_out_too(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    let_in: list[OpenBao] = []

    async def overtake() -> None:
        """A bridge that starts just then, a pod that logs in, and the bridge that notices."""
        where, path = live.space.namespace, live.space.login_config
        await root.request(
            "POST", path, namespace=where, body={"jwt_validation_pubkeys": [live.public_key()]}
        )
        let_in.append(await live.log_in("default", live.token("shop", "web")))
        other = RegisteredCluster(live.fingerprint, live.layout, live.space, live.server)
        await root.request(
            "POST", path, namespace=where, body={"jwt_validation_pubkeys": [other.public_key()]}
        )

    async with InterruptedClient(server, overtake, after=0) as counting:
        await suspend(counting, live.fingerprint, layout=live.layout)
    for before_end in (2, 4, 6):  # the last two requests look at the logins and at the registration
        await resume(root, live.fingerprint, layout=live.layout)
        async with InterruptedClient(server, overtake, after=counting.requests - before_end) as client:
            assert (await suspend(client, live.fingerprint, layout=live.layout)).left == ()
        async with let_in.pop() as pod:
            with pytest.raises(NotAuthorisedError):
                await pod.lookup_self()
        assert not await logs_in(live)


async def test_a_login_that_was_under_way_when_logins_were_closed_is_out_too(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    late: list[OpenBao] = []

    async def come_out() -> None:
        """A login that OpenBao had let in before, and that has its token only now: logins stay closed."""
        where, path = live.space.namespace, live.space.login_config
        closed = (await root.request("GET", path, namespace=where))["data"][KEYS]
        await root.request("POST", path, namespace=where, body={KEYS: [live.public_key()]})
        late.append(await live.log_in("default", live.token("shop", "web")))
        await root.request("POST", path, namespace=where, body={KEYS: closed})

    class Overtaken(OpenBao):
        async def _exchange(
            self, method: str, url: URL, headers: dict[str, str], body: Mapping[str, Any] | None
        ) -> tuple[int, bytes]:
            answer = await super()._exchange(method, url, headers, body)
            if not late and answer[0] == 404 and url.path.endswith("sys/leases/lookup/auth"):
                await come_out()  # right after the answer that nothing is left
            return answer

    async with Overtaken(server.address, token=server.root_token) as client:
        assert (await suspend(client, live.fingerprint, layout=live.layout)).left == ()
    async with late.pop() as pod:
        with pytest.raises(NotAuthorisedError):
            await pod.lookup_self()


async def test_a_cluster_that_never_came_in_is_suspended_too(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await suspend(root, cluster.fingerprint, layout=cluster.layout)
    assert not await logs_in(cluster)
    await resume(root, cluster.fingerprint, layout=cluster.layout)
    assert not (await recorded(root, cluster)).suspended


async def test_other_clusters_notice_nothing(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    other = await registered_cluster(server, root, live.layout)
    async with await other.log_in("default", other.token("shop", "web")) as pod:
        await suspend(root, live.fingerprint, layout=live.layout)
        await pod.lookup_self()


async def test_a_dry_run_shows_the_whole_and_does_nothing(root: OpenBao, live: RegisteredCluster) -> None:
    async with await live.log_in("default", live.token("shop", "web")) as pod:
        planned = await suspend(root, live.fingerprint, layout=live.layout, dry_run=True)
        await pod.lookup_self()
    done = await suspend(root, live.fingerprint, layout=live.layout)
    assert [(a.method, a.path) for a in planned.actions] == [(a.method, a.path) for a in done.actions]
    assert (await resume(root, live.fingerprint, layout=live.layout, dry_run=True)).changed
    assert not await logs_in(live)


async def test_registering_again_leaves_a_suspended_cluster_suspended(
    root: OpenBao, live: RegisteredCluster
) -> None:
    await suspend(root, live.fingerprint, layout=live.layout)
    again = await register(root, live.fingerprint, layout=live.layout)
    assert not again.changed
    assert not await logs_in(live)


@pytest.mark.slow
async def test_a_suspension_killed_after_any_request_is_completed_by_another_run(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    async def prepare() -> OpenBao:
        await resume(root, live.fingerprint, layout=live.layout)
        return await live.log_in("default", live.token("shop", "web"))

    async def run(client: OpenBao, _: OpenBao) -> None:
        await suspend(client, live.fingerprint, layout=live.layout)

    async for last, _, pod in each_kill(server, prepare, run):
        result = await suspend(root, live.fingerprint, layout=live.layout)
        assert result.suspended, f"killed after request {last}"
        assert (await recorded(root, live)).suspended
        assert await accessors(root, live) == []
        assert not await logs_in(live)
        await pod.close()


@pytest.mark.slow
async def test_a_resumption_killed_after_any_request_is_completed_by_another_run(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    async def prepare() -> None:
        await suspend(root, live.fingerprint, layout=live.layout)

    async def run(client: OpenBao, _: None) -> None:
        await resume(client, live.fingerprint, layout=live.layout)

    async for last, _, _ in each_kill(server, prepare, run):
        await resume(root, live.fingerprint, layout=live.layout)
        assert await logs_in(live), f"killed after request {last}"
        assert not (await recorded(root, live)).suspended


@pytest.mark.slow
async def test_whoever_suspends_and_resumes_at_once_logins_follow_the_registration(
    server: DevServer, root: OpenBao, live: RegisteredCluster
) -> None:
    interrupted = 0
    for first, second in ((suspend, resume), (resume, suspend)):

        async def interrupt() -> None:
            await second(root, live.fingerprint, layout=live.layout)  # noqa: B023  # run in this round

        for after in every(40):
            await second(root, live.fingerprint, layout=live.layout)
            async with InterruptedClient(server, interrupt, after=after) as client:
                try:
                    await first(client, live.fingerprint, layout=live.layout)
                except CloudtaserError as error:
                    interrupted += "meanwhile" in error.what
            suspended = (await recorded(root, live)).suspended
            assert await logs_in(live) is not suspended, f"{first.__name__}, interrupted after {after}"
            if client.requests < after:
                break
    assert interrupted > 6


async def test_an_unknown_cluster_and_a_weak_token_get_one_clear_line(
    root: OpenBao, layout: Layout, live: RegisteredCluster
) -> None:
    for run in (suspend, resume):
        with pytest.raises(CloudtaserError, match="not registered"):
            await run(root, new_fingerprint(), layout=layout)
    async with await live.log_in("default", live.token("shop", "web")) as pod:
        with pytest.raises(NotAuthorisedError) as refused:
            await suspend(pod, live.fingerprint, layout=live.layout)
    assert f"clusters/{live.fingerprint}/registered" in refused.value.diagnostic()


# A lease that reaches beyond OpenBao


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory() as directory:  # PostgreSQL cannot reach root's own
        server = PostgresServer(Path(directory))
        server.start()
        yield server
        server.stop()


@pytest.fixture
async def user(root: OpenBao, live: RegisteredCluster, postgres: PostgresServer) -> AsyncIterator[str]:
    """A user of the database that a pod got from the space's database engine."""
    where = live.space.namespace
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/app?sslmode=disable"
    connection = {"plugin_name": "postgresql-database-plugin", "allowed_roles": ["*"], "connection_url": url}
    account = {"username": postgres.user, "password": postgres.password.reveal_text()}
    create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
    role = {"db_name": "app", "creation_statements": [create], "default_ttl": "1h"}
    await root.request("POST", "sys/mounts/database", namespace=where, body={"type": "database"})
    await root.request("POST", "database/config/app", namespace=where, body=connection | account)
    await root.request("POST", "database/roles/web", namespace=where, body=role)
    answer = await root.request("GET", "database/creds/web", namespace=where)
    yield str(answer["data"]["username"])
    await root.request("POST", "sys/leases/revoke-prefix/database", namespace=where, body={})


def exists(postgres: PostgresServer, user: str) -> bool:
    return postgres.run(f"SELECT count(*) FROM pg_roles WHERE rolname = '{user}'") == "1"


async def test_a_database_user_is_gone_within_ten_seconds_of_a_suspension(
    root: OpenBao, live: RegisteredCluster, postgres: PostgresServer, user: str
) -> None:
    assert exists(postgres, user)
    before = time.monotonic()
    result = await suspend(root, live.fingerprint, layout=live.layout)
    assert time.monotonic() - before < 10
    assert result.left == ()
    assert not exists(postgres, user)


async def test_what_cannot_be_revoked_is_named_and_the_rest_is_revoked_all_the_same(
    root: OpenBao, live: RegisteredCluster, postgres: PostgresServer, user: str
) -> None:
    async with await live.log_in("default", live.token("shop", "web")) as pod:
        postgres.stop()
        try:
            result = await suspend(root, live.fingerprint, layout=live.layout, wait=0.5)
        finally:
            postgres.start()
        with pytest.raises(NotAuthorisedError):
            await pod.lookup_self()
    assert len(result.left) == 1
    assert "1 lease of database/ could not be revoked yet" in result.left[0]
    again = await suspend(root, live.fingerprint, layout=live.layout)
    assert again.left == ()
    assert not exists(postgres, user)


def test_suspend_and_resume_say_what_they_did_and_how_to_come_back(run: Run) -> None:
    fingerprint = new_fingerprint()
    run("register", "--fingerprint", fingerprint)
    code, out, err = run("suspend", fingerprint)
    assert (code, "Suspended the cluster" in out) == (0, True)
    assert f"source resume {fingerprint}" in err
    assert run("show", fingerprint, "-q")[1] == "suspended\n"
    code, out, _ = run("resume", fingerprint)
    assert (code, "Resumed the cluster" in out) == (0, True)
    assert "nothing changed" in run("resume", fingerprint)[1]
    assert json.loads(run("resume", fingerprint, "-o", "json")[1])["suspended"] is False
    code, out, err = run("suspend", new_fingerprint())
    assert (code, out, len(err.splitlines())) == (1, "", 1)
