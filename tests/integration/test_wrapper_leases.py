"""Rotation and leases against a real OpenBao and a real PostgreSQL: the application never stops for them."""

from __future__ import annotations

import base64
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from cloudtaser.demo.openbao import DevServer
from cloudtaser.demo.postgres import PostgresServer
from tests.integration.wrapper_vault import POLICY, PRINT_AND_WAIT, QUICK, Vault, started
from tests.unit.wrapper.launch import Wrapped, state_of

LEASES = """
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "pki/issue/*" { capabilities = ["update"] }
path "database/static-creds/*" { capabilities = ["read"] }
"""
# PostgreSQL's part of a dynamic role's life
CREATE = "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"


class World:
    """OpenBao with a database engine in front of PostgreSQL."""

    def __init__(self, vault: Vault, postgres: PostgresServer) -> None:
        self.vault = vault
        self.postgres = postgres
        vault.api("POST", "sys/mounts/database", {"type": "database"})
        url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/app?sslmode=disable"
        plugin = {"plugin_name": "postgresql-database-plugin", "allowed_roles": ["*"], "connection_url": url}
        account = {"username": postgres.user, "password": postgres.password.reveal_text()}
        vault.api("POST", "database/config/app", plugin | account)
        self.allow()

    def allow(self, more: str = "") -> None:
        self.vault.api("POST", "sys/policies/acl/pod", {"policy": POLICY + LEASES + more})

    def role(self, name: str, ttl: str, most: str = "1h") -> None:
        role = {"db_name": "app", "creation_statements": [CREATE], "default_ttl": ttl, "max_ttl": most}
        self.vault.api("POST", f"database/roles/{name}", role)

    def settings(self, role: str, **more: str) -> dict[str, str]:
        return self.vault.settings(
            f"database/creds/{role}", "username=VALUE,password=PGPASSWORD", **(QUICK | more)
        )

    def lease(self, role: str) -> str:
        (key,) = self.vault.leases(f"database/creds/{role}/")
        return f"database/creds/{role}/{key}"

    def users(self) -> set[str]:
        return set(self.postgres.run("select rolname from pg_roles").split())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("leases")
    with (
        tempfile.TemporaryDirectory() as postgres_directory,  # PostgreSQL cannot reach root's own
        DevServer(directory / "bao") as server,
    ):
        assert isinstance(server, DevServer)
        postgres = PostgresServer(Path(postgres_directory))
        postgres.start()
        try:
            yield World(Vault(server, directory), postgres)
        finally:
            postgres.stop()


def is_alive(pid: int) -> bool:
    return state_of(pid) not in ("", "Z", "T")


def revoke_by_id(world: World, role: str) -> None:
    world.vault.api("PUT", "sys/leases/revoke", {"lease_id": world.lease(role), "sync": True})


def revoke_by_prefix(world: World, role: str) -> None:
    world.vault.api("PUT", f"sys/leases/revoke-prefix/database/creds/{role}", {"sync": True})


@pytest.mark.parametrize("revoke", [revoke_by_id, revoke_by_prefix])
def test_a_revoked_lease_is_noticed_at_the_next_look_and_replaced(
    world: World, revoke: Callable[[World, str], None]
) -> None:
    role = revoke.__name__
    world.role(role, "1h")
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=world.settings(role)) as wrapped:
        _, first = started(wrapped)
        assert first in world.users()
        revoke(world, role)
        assert wrapped.event("a lease was revoked")["path"] == f"database/creds/{role}"
        _, second = started(wrapped)
        assert second != first
        assert first not in world.users()
        assert second in world.users()


def test_an_application_that_breaks_of_a_revoked_lease_finds_new_credentials_when_it_starts_again(
    world: World,
) -> None:
    """The application notices before the wrapper does: its end is the container's, and a new start."""
    world.role("broken", "1h")
    settings = world.settings("broken", CLOUDTASER_ROTATION_INTERVAL="1h")
    with Wrapped("sh", "-c", f"{PRINT_AND_WAIT}", settings=settings) as wrapped:
        pid, first = started(wrapped)
        revoke_by_id(world, "broken")
        os.kill(pid, signal.SIGKILL)
        assert wrapped.wait() == 128 + signal.SIGKILL
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        _, second = started(wrapped)
        assert second != first
        assert second in world.users()


def test_a_database_that_is_away_when_a_credential_is_to_be_made_is_waited_for(world: World) -> None:
    world.role("away", "1h")
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=world.settings("away")) as wrapped:
        pid, first = started(wrapped)
        world.postgres.stop()
        try:
            world.vault.api("PUT", "sys/leases/revoke-force/database/creds/away")
            wrapped.event("a lease was revoked")
            said = wrapped.event("cannot be made anew now")
            assert said["path"] == "database/creds/away"
            assert "refused" in str(said["reason"])
            assert is_alive(pid)
        finally:
            world.postgres.start()
        wrapped.event("readable again")
        assert started(wrapped)[1] != first


def test_a_token_that_was_revoked_takes_its_leases_with_it_and_both_are_replaced_once(world: World) -> None:
    world.role("withtoken", "1h")
    world.vault.revoke_all()
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=world.settings("withtoken")) as wrapped:
        _, first = started(wrapped)
        world.vault.revoke_all()
        wrapped.event("logged in anew")
        _, second = started(wrapped)
        assert second != first
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 0
        assert "started anew" not in wrapped.log()


def test_a_permission_that_is_taken_away_and_given_back_heals_by_itself(world: World) -> None:
    world.role("permitted", "1h")
    denied = 'path "database/creds/permitted" { capabilities = ["deny"] }'
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=world.settings("permitted")) as wrapped:
        pid, first = started(wrapped)
        world.allow(denied)
        try:
            revoke_by_id(world, "permitted")
            said = wrapped.event("forbidden")
            assert said["path"] == "database/creds/permitted"
            assert "capability read is missing" in str(said["reason"])
            assert "policies are default, pod" in str(said["reason"])
            assert is_alive(pid)
        finally:
            world.allow()
        wrapped.event("readable again")
        assert started(wrapped)[1] != first


def test_a_secret_and_a_credential_that_change_together_cause_one_restart(world: World) -> None:
    world.role("together", "1h")
    world.vault.put("secret/data/together", value="one")
    settings = world.vault.settings(
        "secret/data/together,database/creds/together",
        "value=VALUE;username=PGUSER,password=PGPASSWORD",
        CLOUDTASER_ROTATION_INTERVAL="0.3",
        CLOUDTASER_ROTATION_DEBOUNCE="2",
    )
    script = 'trap "exit 0" TERM; echo "pid=$$ value=$VALUE user=$PGUSER"; while :; do sleep 0.02; done'
    with Wrapped("sh", "-c", script, settings=settings) as wrapped:
        first = started(wrapped)[1]
        revoke_by_id(world, "together")
        world.vault.put("secret/data/together", value="two")
        second = started(wrapped)[1]
        assert second.startswith("two ")
        assert second.split()[1] != first.split()[1]
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 0
        assert wrapped.log().count("is restarted") <= 1  # the event that was not read yet


@pytest.mark.slow
def test_a_token_that_may_look_at_nothing_has_its_leases_renewed_all_the_same(world: World) -> None:
    """Neither at itself nor at a lease: one login too many shows it, and then it is left alone."""
    world.role("blind", "4s")
    own = {"database/creds/*": ["read"], "sys/leases/renew": ["update"]}
    policy = {"path": {path: {"capabilities": may} for path, may in own.items()}}
    world.vault.api("POST", "sys/policies/acl/blind", {"policy": json.dumps(policy)})
    world.vault.role("blind", token_policies=["blind"], token_no_default_policy=True)
    settings = world.settings("blind", VAULT_AUTH_ROLE="blind")
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        started(wrapped)
        wrapped.event("logged in anew")
        pid, account = started(wrapped)
        until = time.monotonic() + 4.5  # longer than the lease
        while time.monotonic() < until:
            assert is_alive(pid)
            time.sleep(0.1)
        assert account in world.users()
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 0
        assert "logged in anew" not in wrapped.log()


# -- what expires without a lease


SHOW_CERTIFICATE = """
trap "exit 0" TERM
echo "pid=$$ value=$(echo "$CERT" | base64 -w0)"
while :; do sleep 0.02; done
"""


@pytest.mark.parametrize("leased", [False, True])
def test_a_certificate_is_made_anew_before_it_expires(world: World, leased: bool) -> None:
    name = "leased" if leased else "plain"
    if "pki/" not in world.vault.api("GET", "sys/mounts")["data"]:
        world.vault.api("POST", "sys/mounts/pki", {"type": "pki"})
        root = {"common_name": "an authority", "key_type": "ec", "key_bits": 256}
        world.vault.api("POST", "pki/root/generate/internal", root)
    role = {"allow_any_name": True, "key_type": "ec", "key_bits": 256, "generate_lease": leased}
    world.vault.api("POST", f"pki/roles/{name}", role)
    settings = world.vault.settings(
        f"pki/issue/{name}?common_name=app.shop.svc&ttl=4s", "certificate=CERT,private_key=KEY", **QUICK
    )
    with Wrapped("sh", "-c", SHOW_CERTIFICATE, settings=settings) as wrapped:
        first = certificate(wrapped)
        second = certificate(wrapped)
        assert first.serial_number != second.serial_number
        assert first.subject.rfc4514_string() == "CN=app.shop.svc"
        assert second.not_valid_after_utc.timestamp() > first.not_valid_after_utc.timestamp()


def certificate(wrapped: Wrapped) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(started(wrapped)[1]))


@pytest.mark.slow
def test_a_static_roles_password_is_read_anew_when_the_server_has_changed_it(world: World) -> None:
    world.postgres.run("create role legacy login password 'x'")
    static = {"db_name": "app", "username": "legacy", "rotation_period": "5s"}
    world.vault.api("POST", "database/static-roles/legacy", static)
    settings = world.vault.settings("database/static-creds/legacy", "password=VALUE", **QUICK)
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        _, first = started(wrapped)
        _, second = started(wrapped)
        assert second != first


@pytest.mark.slow
def test_a_database_that_is_away_when_a_lease_is_renewed_costs_no_restart(world: World) -> None:
    world.role("patient", "30s")
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=world.settings("patient")) as wrapped:
        pid, first = started(wrapped)
        world.postgres.stop()
        try:
            said = wrapped.event("cannot be renewed now")  # at two thirds: ten seconds are left
            assert "refused" in str(said["reason"])
        finally:
            world.postgres.start()
        wrapped.event("readable again")
        assert is_alive(pid)
        assert first in world.users()
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 0
        assert "restarted" not in wrapped.log()
