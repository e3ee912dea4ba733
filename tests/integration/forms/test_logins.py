"""A bridge that logs in by itself is never without a token for long: tried against a real OpenBao."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloudtaser.demo.openbao import DevServer, OpenBaoServer
from cloudtaser.errors import CloudtaserError, ConfigError, NotAuthorisedError
from cloudtaser.openbao.bridge_login import BridgeLogin, make_bridge_login
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.credentials import AppRole, Credential, TlsCertificate
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.login_keeper import LoginKeeper
from cloudtaser.openbao.records import Records
from cloudtaser.openbao.registration import register
from cloudtaser.secret import Secret
from tests.chain_tools import eventually
from tests.integration.forms.client_certificates import ClientAuthority
from tests.integration.openbao.support import new_fingerprint, new_layout


@pytest.fixture
def layout() -> Layout:
    return new_layout()


def app_role(
    server: OpenBaoServer | DevServer, made: BridgeLogin, directory: Path, *, wrapped: bool = False
) -> AppRole:
    return AppRole(
        server.address,
        ca_file=server.ca_file,
        namespace=made.namespace,
        mount=made.mount,
        role_id=Secret(made.role_id),
        secret_id_file=str(directory / "secret-id"),
        wrapped=wrapped,
    )


async def made_app_role(root: OpenBao, layout: Layout, directory: Path) -> BridgeLogin:
    await register(root, new_fingerprint(), layout=layout)
    made = await make_bridge_login(root, "eu-1", layout=layout)
    (directory / "secret-id").write_text(f"{made.secret_id.reveal_text()}\n")
    return made


async def shorten(root: OpenBao, made: BridgeLogin, kind: str, **settings: object) -> None:
    """Tokens of seconds instead of an hour, so that a test sees them end."""
    path = f"auth/{made.mount}/{kind}/{made.role}"
    await root.request("POST", path, namespace=made.namespace, body=settings)


@contextlib.asynccontextmanager
async def kept(
    server: OpenBaoServer | DevServer, credential: Credential
) -> AsyncIterator[tuple[OpenBao, LoginKeeper, list[CloudtaserError]]]:
    """A client that a keeper keeps logged in, and what it had to complain about."""
    troubles: list[CloudtaserError] = []
    async with OpenBao(server.address, ca_file=server.ca_file) as client:
        keeper = LoginKeeper(client, credential, on_trouble=troubles.append, check_every=0.1)
        await keeper.start()
        stop = asyncio.Event()
        running = asyncio.create_task(keeper.run(stop))
        try:
            yield client, keeper, troubles
        finally:
            stop.set()
            await running
            await keeper.close()


async def accessor(client: OpenBao) -> str:
    return str((await client.lookup_self())["accessor"])


async def works(client: OpenBao, layout: Layout) -> bool:
    try:
        return len(await Records(client, layout).clusters()) == 1
    except CloudtaserError:
        return False


async def test_a_login_by_app_role_may_do_what_a_bridge_may_and_is_given_back(
    server: DevServer, root: OpenBao, layout: Layout, tmp_path: Path
) -> None:
    made = await made_app_role(root, layout, tmp_path)
    async with kept(server, app_role(server, made, tmp_path)) as (client, keeper, _):
        about = await client.lookup_self()
        assert about["policies"] == ["cloudtaser-bridge", "cloudtaser-bridge_eu-1"]
        assert (about["period"], about["orphan"]) == (3600, True)
        assert await works(client, layout)
        token = keeper.current()
    async with OpenBao(server.address, token=token) as afterwards:
        with pytest.raises(NotAuthorisedError):
            await afterwards.lookup_self()


async def test_the_token_is_renewed_before_it_ends(
    server: DevServer, root: OpenBao, layout: Layout, tmp_path: Path
) -> None:
    made = await made_app_role(root, layout, tmp_path)
    await shorten(root, made, "role", token_period="1s")
    async with kept(server, app_role(server, made, tmp_path)) as (client, keeper, troubles):
        token = keeper.current()
        await asyncio.sleep(2.5)  # two and a half lives of a token that nobody renews
        assert await works(client, layout)
        assert keeper.current() == token
        assert not troubles


async def test_a_token_that_cannot_be_renewed_any_further_is_replaced_in_time(
    server: DevServer, root: OpenBao, layout: Layout, tmp_path: Path
) -> None:
    made = await made_app_role(root, layout, tmp_path)
    await shorten(root, made, "role", token_period="0s", token_ttl="2s", token_max_ttl="3s")
    async with kept(server, app_role(server, made, tmp_path)) as (client, keeper, troubles):
        token = keeper.current()

        async def replaced() -> bool:
            assert await works(client, layout)
            return keeper.current() != token

        await eventually(replaced, "a new token")
        assert not troubles


async def test_a_revoked_token_is_replaced_by_a_new_login(
    server: DevServer, root: OpenBao, layout: Layout, tmp_path: Path
) -> None:
    made = await made_app_role(root, layout, tmp_path)
    async with kept(server, app_role(server, made, tmp_path)) as (client, keeper, troubles):
        body = {"accessor": await accessor(client)}
        await root.request("POST", "auth/token/revoke-accessor", namespace=made.namespace, body=body)
        await eventually(lambda: works(client, layout), "logged in anew")
        assert "revoked" in troubles[0].diagnostic()
        assert keeper.current().reveal_text() not in "".join(error.diagnostic() for error in troubles)


async def test_a_secret_id_that_changes_is_read_again_and_a_wrong_one_is_named(
    server: DevServer, root: OpenBao, layout: Layout, tmp_path: Path
) -> None:
    made = await made_app_role(root, layout, tmp_path)
    (tmp_path / "secret-id").write_text("canary-wrong")
    credential = app_role(server, made, tmp_path)
    with pytest.raises(NotAuthorisedError, match="refuses the login") as refused:
        await credential.log_in()
    assert "canary" not in refused.value.diagnostic()
    (tmp_path / "secret-id").write_text(made.secret_id.reveal_text())
    assert (await credential.log_in())["client_token"]
    (tmp_path / "secret-id").unlink()
    with pytest.raises(ConfigError, match="secret-id"):
        await credential.log_in()
    await credential.close()


async def wrap(root: OpenBao, namespace: str, path: str) -> str:
    """A wrapping token of what a POST to `path` answers, as `bao write -wrap-ttl` makes it."""
    import aiohttp

    assert root._token is not None
    headers = {
        "X-Vault-Token": root._token.reveal_text(),
        "X-Vault-Namespace": namespace,
        "X-Vault-Wrap-TTL": "60",
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{root.address}/v1/{path}", headers=headers) as answer,
    ):
        return str((await answer.json())["wrap_info"]["token"])


async def test_a_wrapped_secret_id_is_opened_once_and_logs_in_again_and_again(
    server: DevServer, root: OpenBao, layout: Layout, tmp_path: Path
) -> None:
    made = await made_app_role(root, layout, tmp_path)
    wrapping = await wrap(root, made.namespace, f"auth/approle/role/{made.role}/secret-id")
    (tmp_path / "secret-id").write_text(wrapping)
    credential = app_role(server, made, tmp_path, wrapped=True)
    first, second = await credential.log_in(), await credential.log_in()
    assert first["client_token"] != second["client_token"]
    late = app_role(server, made, tmp_path, wrapped=True)
    with pytest.raises(ConfigError, match="opened it before"):
        await late.log_in()
    await credential.close()
    await late.close()


async def test_a_wrapping_of_something_else_is_not_opened(
    server: DevServer, root: OpenBao, layout: Layout, tmp_path: Path
) -> None:
    made = await made_app_role(root, layout, tmp_path)
    foreign = await wrap(root, made.namespace, "sys/wrapping/wrap")
    (tmp_path / "secret-id").write_text(foreign)
    credential = app_role(server, made, tmp_path, wrapped=True)
    with pytest.raises(ConfigError, match="does not hold a secret id"):
        await credential.log_in()
    await credential.close()
    answer = await root.request("POST", "sys/wrapping/lookup", body={"token": foreign})
    assert answer["data"]["creation_path"] == "sys/wrapping/wrap"


@pytest.fixture
def authority() -> ClientAuthority:
    return ClientAuthority()


def certificate_login(server: OpenBaoServer, made: BridgeLogin, directory: Path) -> TlsCertificate:
    return TlsCertificate(
        server.address,
        ca_file=server.ca_file,
        namespace=made.namespace,
        mount=made.mount,
        certificate_file=str(directory / "login.crt"),
        key_file=str(directory / "login.key"),
        role=made.role,
    )


async def test_a_login_by_certificate_is_renewed_and_follows_a_certificate_that_changes(
    tls_server: OpenBaoServer,
    tls_root: OpenBao,
    layout: Layout,
    authority: ClientAuthority,
    tmp_path: Path,
) -> None:
    await register(tls_root, new_fingerprint(), layout=layout)
    made = await make_bridge_login(tls_root, "eu-1", certificate_pem=authority.pem, layout=layout)
    await shorten(tls_root, made, "certs", certificate=authority.pem, token_period="1s")
    authority.issue(tmp_path / "login.crt", tmp_path / "login.key")
    credential = certificate_login(tls_server, made, tmp_path)
    async with kept(tls_server, credential) as (client, keeper, troubles):
        assert await works(client, layout)
        token = keeper.current()
        await asyncio.sleep(1.5)
        assert await works(client, layout)
        assert (keeper.current() == token, troubles) == (True, [])
        authority.issue(tmp_path / "login.crt", tmp_path / "login.key")
        body = {"accessor": await accessor(client)}
        await tls_root.request("POST", "auth/token/revoke-accessor", namespace=made.namespace, body=body)
        await eventually(lambda: works(client, layout), "logged in with the new certificate")
        assert keeper.current() != token


async def test_a_certificate_of_nobodys_is_refused_in_one_line(
    tls_server: OpenBaoServer,
    tls_root: OpenBao,
    layout: Layout,
    authority: ClientAuthority,
    tmp_path: Path,
) -> None:
    made = await make_bridge_login(tls_root, "eu-1", certificate_pem=authority.pem, layout=layout)
    ClientAuthority().issue(tmp_path / "login.crt", tmp_path / "login.key")
    credential = certificate_login(tls_server, made, tmp_path)
    with pytest.raises(NotAuthorisedError, match="refuses the login"):
        await credential.log_in()
    ClientAuthority().issue(tmp_path / "other.crt", tmp_path / "login.key")
    with pytest.raises(ConfigError, match=r"login\.crt, .*login\.key"):
        await credential.log_in()
    await credential.close()


async def test_a_login_outlasts_a_restart_of_openbao(
    tls_server: OpenBaoServer, tls_root: OpenBao, layout: Layout, tmp_path: Path
) -> None:
    made = await made_app_role(tls_root, layout, tmp_path)
    await shorten(tls_root, made, "role", token_period="1s")
    async with kept(tls_server, app_role(tls_server, made, tmp_path)) as (client, _, troubles):
        tls_server.kill()
        await asyncio.sleep(1.5)  # longer than the token may live unrenewed
        await asyncio.to_thread(tls_server.start)
        await eventually(lambda: works(client, layout), "logged in after the restart", timeout=20)
        assert any("cannot be reached" in error.diagnostic() for error in troubles)


async def test_making_a_login_again_changes_nothing_but_the_secret_id(root: OpenBao, layout: Layout) -> None:
    await register(root, new_fingerprint(), layout=layout)
    dry = await make_bridge_login(root, "eu-1", cidrs=["127.0.0.1/32"], dry_run=True, layout=layout)
    assert not dry.secret_id
    first = await make_bridge_login(root, "eu-1", cidrs=["127.0.0.1/32"], layout=layout)
    again = await make_bridge_login(root, "eu-1", cidrs=["127.0.0.1/32"], layout=layout)
    assert [action.why for action in again.actions if action.changed] == ["make a secret id"]
    assert first.role_id == again.role_id
    assert first.secret_id != again.secret_id
