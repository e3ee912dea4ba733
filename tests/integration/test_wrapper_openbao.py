"""The wrapper against a real OpenBao in direct mode: logins, values, rotation, leases, outages."""

from __future__ import annotations

import json
import os
import signal
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtaser.demo.openbao import DevServer, OpenBaoServer
from cloudtaser.demo.postgres import PostgresServer
from tests.integration.wrapper_vault import (
    POLICY,
    PRINT_AND_WAIT,
    QUICK,
    Vault,
    environment_of,
    error_of,
    started,
)
from tests.unit.wrapper.launch import Wrapped, run, wait_for_state

# what other suites of the wrapper take from here
__all__ = ["QUICK", "Vault", "dynamic_role", "vault"]


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    directory = tmp_path_factory.mktemp("vault")
    with DevServer(directory / "bao") as server:
        assert isinstance(server, DevServer)
        yield Vault(server, directory)


# -- values


def test_a_pod_gets_its_secrets_and_nothing_of_the_wrappers(vault: Vault) -> None:
    vault.put("secret/data/app", password="hunter2", user="app")
    vault.put("secret/data/db", dsn="postgres://db/app", **{"not-a-name": "x", "path": "/evil"})
    found = environment_of(
        vault.settings("secret/data/app,secret/data/db", "password=DB_PASSWORD,user=DB_USER")
    )
    assert found["DB_PASSWORD"] == "hunter2"
    assert found["DB_USER"] == "app"
    assert found["DSN"] == "postgres://db/app"
    assert found["PATH"] == os.environ["PATH"]
    assert not [name for name in found if name.startswith(("VAULT_", "CLOUDTASER_", "NOT"))]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x" * 65536,
        "ünïcödé €😀\u2028 日本",
        "\x01\x02\x7f\x1b[31m\t\r\n\\\"'",
        '{"looks": ["like", "json"]}',
        "=;,&$(rm -rf)`",
        "-----BEGIN KEY-----\nAAAA\n-----END KEY-----\n",
    ],
    ids=["empty", "64KiB", "unicode", "binary", "json", "shell", "pem"],
)
def test_a_value_arrives_as_it_was_stored(vault: Vault, value: str) -> None:
    vault.put("secret/data/value", value=value)
    assert environment_of(vault.settings("secret/data/value"))["VALUE"] == value


def test_what_is_no_string_arrives_as_its_json_text(vault: Vault) -> None:
    vault.put("secret/data/types", n=9007199254740991, f=1.5, t=True, none=None, o={"a": ["ü", "\n"]})
    found = environment_of(vault.settings("secret/data/types"))
    assert (found["N"], found["F"], found["T"], found["NONE"]) == ("9007199254740991", "1.5", "true", "null")
    assert json.loads(found["O"]) == {"a": ["ü", "\n"]}


def test_five_hundred_fields_arrive(vault: Vault) -> None:
    # OpenBao accepts a thousand strings in one request, names included.
    fields = {f"field_{number}": number if number < 10 else f"value {number} é" for number in range(500)}
    vault.put("secret/data/many", **fields)
    found = environment_of(vault.settings("secret/data/many"))
    assert {name: found[name.upper()] for name in fields} == {
        name: str(value) for name, value in fields.items()
    }


def test_many_paths_are_read_over_one_connection(vault: Vault) -> None:
    for number in range(40):
        vault.put(f"secret/data/path{number}", **{f"key{number}": f"v{number}"})
    found = environment_of(vault.settings(",".join(f"secret/data/path{number}" for number in range(40))))
    assert all(found[f"KEY{number}"] == f"v{number}" for number in range(40))


def test_versions_can_be_pinned_and_other_engines_read(vault: Vault) -> None:
    vault.put("secret/data/pinned", key="one")
    vault.put("secret/data/pinned", key="two")
    vault.api("POST", "kv1/plain", {"v1": "classic"})
    found = environment_of(
        vault.settings("secret/data/pinned#1,secret/data/pinned,kv1/plain", "key=OLD;key=NEW;v1=CLASSIC")
    )
    assert (found["OLD"], found["NEW"], found["CLASSIC"]) == ("one", "two", "classic")


def test_the_secret_wins_over_the_container_unless_told_otherwise(vault: Vault) -> None:
    vault.put("secret/data/over", value="secret")
    assert environment_of(vault.settings("secret/data/over") | {"VALUE": "container"})["VALUE"] == "secret"
    kept = vault.settings("secret/data/over", CLOUDTASER_OVERRIDE="false") | {"VALUE": "container"}
    assert environment_of(kept)["VALUE"] == "container"


def test_a_given_token_works_as_well(vault: Vault) -> None:
    vault.put("secret/data/app", password="hunter2")
    token = vault.api("POST", "auth/token/create", {"policies": ["pod"], "ttl": "1h"})["auth"]["client_token"]
    settings = vault.settings("secret/data/app", VAULT_AUTH_METHOD="token", VAULT_TOKEN=token)
    assert environment_of(settings)["PASSWORD"] == "hunter2"
    vault.api("GET", "auth/token/lookup-self", token=token)  # it was not ours to revoke


def test_no_value_and_no_token_is_ever_logged(vault: Vault) -> None:
    vault.put("secret/data/canary", value="CANARY-7f3a", **{"odd-name": "CANARY-b1"})
    settings = vault.settings("secret/data/canary", "", CLOUDTASER_LOG_LEVEL="debug")
    done = run("--", "true", settings=settings, check_code=0)
    assert "secrets loaded" in done.stderr
    assert "odd-name" in done.stderr
    token = Path(settings["VAULT_JWT_FILE"]).read_text().strip()
    for canary in ("CANARY", "s.", token, token.split(".")[1]):
        assert canary not in done.stderr.replace("CLOUDTASER_", "").replace("cloudtaser-wrapper", "")


# -- errors


def test_a_refused_login_is_77_and_says_why(vault: Vault) -> None:
    settings = vault.settings("secret/data/app", VAULT_AUTH_ROLE="nobody")
    assert "nobody" in error_of(settings, 77)
    expired = str(vault.token_file("expired", exp=int(time.time()) - 600, iat=0, nbf=0))
    assert "expired" in error_of(settings | {"VAULT_AUTH_ROLE": "default", "VAULT_JWT_FILE": expired}, 77)
    stranger = str(vault.token_file("stranger", aud="cloudtaser:other"))
    assert "audience" in error_of(settings | {"VAULT_AUTH_ROLE": "default", "VAULT_JWT_FILE": stranger}, 77)
    assert "VAULT_TOKEN" in error_of(settings | {"VAULT_AUTH_METHOD": "token", "VAULT_TOKEN": "s.wrong"}, 77)


def test_a_forbidden_path_is_77_and_names_it(vault: Vault) -> None:
    assert "secret/data/forbidden" in error_of(vault.settings("secret/data/forbidden"), 77)


def test_what_is_not_there_is_78_and_names_the_setting(vault: Vault) -> None:
    vault.put("secret/data/app", password="hunter2")
    missing = error_of(vault.settings("secret/data/missing"), 78)
    assert "CLOUDTASER_SECRET_PATHS" in missing
    assert "secret/data/missing" in missing
    field = error_of(vault.settings("secret/data/app", "nofield=X"), 78)
    assert "CLOUDTASER_ENV_MAP" in field
    assert "nofield" in field
    assert "CLOUDTASER_SECRET_PATHS" in error_of(vault.settings("secret/data/app#99"), 78)
    vault.put("secret/data/deleted", key="x")
    vault.api("DELETE", "secret/data/deleted")
    assert "secret/data/deleted" in error_of(vault.settings("secret/data/deleted"), 78)
    assert "VAULT_JWT_FILE" in error_of(vault.settings("secret/data/app", VAULT_JWT_FILE="/no/such"), 78)
    vault.put("secret/data/nul", key="a\0b")
    assert "NUL" in error_of(vault.settings("secret/data/nul", "key=X"), 78)


def test_a_server_that_is_away_past_the_timeout_is_75(vault: Vault) -> None:
    settings = vault.settings(
        "secret/data/app", VAULT_ADDR="http://127.0.0.1:9", CLOUDTASER_STARTUP_TIMEOUT="0.3"
    )
    assert "refused" in error_of(settings, 75)


# -- a life


def test_a_rotated_secret_restarts_the_application_once(vault: Vault) -> None:
    vault.put("secret/data/rotating", value="one")
    vault.put("secret/data/other", value="x")
    settings = vault.settings("secret/data/rotating,secret/data/other", "value=VALUE;value=OTHER", **QUICK)
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        first, value = started(wrapped)
        assert value == "one"
        vault.put("secret/data/rotating", value="two")
        vault.put("secret/data/other", value="y")
        second, value = started(wrapped)
        assert (value, second != first) == ("two", True)
        wait_for_state(first, "")
        environment = Path(f"/proc/{second}/environ").read_bytes().split(b"\0")
        assert b"OTHER=y" in environment
        vault.put("secret/data/rotating", value="two")  # a new version of the same values changes nothing
        vault.put("secret/data/rotating", value="three")
        assert started(wrapped)[1] == "three"
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 0


def test_with_rotation_none_nothing_is_restarted(vault: Vault) -> None:
    vault.put("secret/data/still", value="one")
    settings = vault.settings(
        "secret/data/still", CLOUDTASER_ROTATION="none", CLOUDTASER_LOG_LEVEL="debug", **QUICK
    )
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        started(wrapped)
        vault.put("secret/data/still", value="two")
        time.sleep(1)  # three intervals in which nothing may happen
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 0
        assert "restarted" not in wrapped.log()


def test_values_with_which_the_application_crashes_are_taken_back(vault: Vault) -> None:
    vault.put("secret/data/guarded", value="good")
    script = f'[ "$VALUE" = bad ] && exit 3; {PRINT_AND_WAIT}'
    with Wrapped("sh", "-c", script, settings=vault.settings("secret/data/guarded", **QUICK)) as wrapped:
        assert started(wrapped)[1] == "good"
        vault.put("secret/data/guarded", value="bad")
        assert started(wrapped)[1] == "good"
        vault.put("secret/data/guarded", value="better")
        assert started(wrapped)[1] == "better"


def test_where_only_reading_is_allowed_changes_are_seen_too(vault: Vault) -> None:
    vault.put("nometa/data/app", value="one")
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=vault.settings("nometa/data/app", **QUICK)) as wrapped:
        assert started(wrapped)[1] == "one"
        vault.put("nometa/data/app", value="two")
        assert started(wrapped)[1] == "two"


def test_a_secret_that_vanishes_leaves_the_application_running(vault: Vault) -> None:
    vault.put("secret/data/vanishing", value="one")
    with Wrapped(
        "sh", "-c", PRINT_AND_WAIT, settings=vault.settings("secret/data/vanishing", **QUICK)
    ) as wrapped:
        pid, _ = started(wrapped)
        vault.api("DELETE", "secret/data/vanishing")
        assert wrapped.event("gone")["path"] == "secret/data/vanishing"
        assert Path(f"/proc/{pid}").exists()
        vault.put("secret/data/vanishing", value="two")
        assert started(wrapped)[1] == "two"


def test_a_secret_deleted_with_its_versions_and_made_again_is_delivered(vault: Vault) -> None:
    vault.put("secret/data/remade", value="one")
    with Wrapped(
        "sh", "-c", PRINT_AND_WAIT, settings=vault.settings("secret/data/remade", **QUICK)
    ) as wrapped:
        assert started(wrapped)[1] == "one"
        vault.api("DELETE", "secret/metadata/remade")
        vault.put("secret/data/remade", value="two")  # version 1 again
        assert started(wrapped)[1] == "two"


def test_a_secret_that_turns_forbidden_leaves_the_application_running(vault: Vault) -> None:
    vault.put("secret/data/closing", value="one")
    with Wrapped(
        "sh", "-c", PRINT_AND_WAIT, settings=vault.settings("secret/data/closing", **QUICK)
    ) as wrapped:
        pid, _ = started(wrapped)
        denied = 'path "secret/{}/closing" {{ capabilities = ["deny"] }}'
        closed = POLICY + denied.format("data") + denied.format("metadata")
        vault.api("POST", "sys/policies/acl/pod", {"policy": closed})
        assert wrapped.event("forbidden")["path"] == "secret/data/closing"
        assert Path(f"/proc/{pid}").exists()
        vault.api("POST", "sys/policies/acl/pod", {"policy": POLICY})
        wrapped.event("readable again")


def test_a_revoked_token_is_replaced_with_the_token_file_as_it_is_then(vault: Vault) -> None:
    vault.put("secret/data/relogin", value="one")
    with Wrapped(
        "sh", "-c", PRINT_AND_WAIT, settings=vault.settings("secret/data/relogin", **QUICK)
    ) as wrapped:
        started(wrapped)
        vault.token_file(jti="the next one")
        vault.revoke_all()
        wrapped.event("logged in anew")
        vault.put("secret/data/relogin", value="two")
        assert started(wrapped)[1] == "two"


def test_a_token_is_renewed_and_replaced_at_its_maximum(vault: Vault) -> None:
    vault.put("secret/data/short", value="one")
    vault.role("short", token_ttl="2s", token_max_ttl="5s")
    settings = vault.settings("secret/data/short", VAULT_AUTH_ROLE="short", **QUICK)
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        started(wrapped)
        wrapped.event("logged in anew")
        vault.put("secret/data/short", value="two")
        assert started(wrapped)[1] == "two"


def test_the_token_is_given_back_at_the_end(vault: Vault) -> None:
    vault.put("secret/data/app", password="hunter2")
    vault.revoke_all()
    settings = vault.settings("secret/data/app")
    run("--", "true", settings=settings, check_code=0)
    assert vault.tokens() == set()
    run("--", "true", settings=settings | {"CLOUDTASER_REVOKE_ON_EXIT": "false"}, check_code=0)
    assert len(vault.tokens()) == 1
    vault.revoke_all()
    run("--", "true", settings=vault.settings("secret/data/not-there"), check_code=78)
    assert vault.tokens() == set()


def test_a_killed_wrapper_leaves_an_application_that_runs_on(vault: Vault) -> None:
    vault.put("secret/data/killed", value="one")
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=vault.settings("secret/data/killed")) as wrapped:
        pid, _ = started(wrapped)
        wrapped.process.kill()
        wrapped.wait()
        assert Path(f"/proc/{pid}/environ").read_bytes().count(b"VALUE=one") == 1
        os.kill(pid, signal.SIGTERM)
        wait_for_state(pid, "Z" if Path(f"/proc/{pid}").exists() else "")


def test_signals_are_heard_while_secrets_are_waited_for(vault: Vault) -> None:
    settings = vault.settings("secret/data/app", VAULT_ADDR="http://127.0.0.1:9")
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        wrapped.event("unreachable")
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 128 + signal.SIGTERM


# -- dynamic credentials


def test_a_lease_is_renewed_and_its_secret_fetched_anew_at_its_maximum(vault: Vault) -> None:
    with tempfile.TemporaryDirectory() as directory:  # PostgreSQL cannot reach root's own
        postgres = PostgresServer(Path(directory))
        postgres.start()
        try:
            dynamic_credentials(vault, postgres)
        finally:
            postgres.stop()


def dynamic_role(vault: Vault, postgres: PostgresServer, name: str, **times: str) -> None:
    """Credentials of that database under `database/creds/NAME`."""
    if "database/" not in vault.api("GET", "sys/mounts"):
        vault.api("POST", "sys/mounts/database", {"type": "database"})
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/app?sslmode=disable"
    connection = {"plugin_name": "postgresql-database-plugin", "allowed_roles": ["*"], "connection_url": url}
    account = {"username": postgres.user, "password": postgres.password.reveal_text()}
    vault.api("POST", f"database/config/{name}", connection | account)
    create = "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"
    role = {"db_name": name, "creation_statements": [create]}
    vault.api("POST", f"database/roles/{name}", role | times)


def dynamic_credentials(vault: Vault, postgres: PostgresServer) -> None:
    dynamic_role(vault, postgres, "reader", default_ttl="2s", max_ttl="6s")
    settings = vault.settings("database/creds/reader", "username=VALUE,password=PGPASSWORD")
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        began = time.monotonic()
        _, first = started(wrapped)
        _, second = started(wrapped)
        assert first != second
        assert time.monotonic() - began > 2.5  # renewed at least once before it was replaced
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 0
    # No lease outlives the token that is given back at the end; OpenBao revokes them in its own time.
    deadline = time.monotonic() + 20
    while vault.leases("database/creds/reader/"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- TLS, and outages


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OpenBaoServer, dict[str, str]]]:
    """A server with TLS and storage, and the settings for it."""
    with OpenBaoServer(tmp_path_factory.mktemp("secured")) as server:
        assert isinstance(server, OpenBaoServer)
        assert server.ca_file is not None
        settings = {
            "VAULT_ADDR": server.address,
            "VAULT_CACERT": server.ca_file,
            "VAULT_AUTH_METHOD": "token",
            "VAULT_TOKEN": server.root_token.reveal_text(),
            "CLOUDTASER_SECRET_PATHS": "kv/data/app",
        }
        administer(server, "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        yield server, settings


def administer(server: OpenBaoServer, path: str, body: object) -> None:
    """POST as root, again while the server is not quite there."""
    headers = {"X-Vault-Token": server.root_token.reveal_text()}
    request = urllib.request.Request(f"{server.address}/v1/{path}", json.dumps(body).encode(), headers)
    context = ssl.create_default_context(cafile=server.ca_file)
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10, context=context):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_outages_at_start_and_while_running_are_survived(
    secured: tuple[OpenBaoServer, dict[str, str]],
) -> None:
    server, settings = secured
    administer(server, "kv/data/app", {"data": {"value": "one"}})
    server.stop()
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings | QUICK) as wrapped:
        wrapped.event("unreachable")
        server.start()
        pid, value = started(wrapped)
        assert value == "one"
        server.kill()
        wrapped.event("the application runs on")
        assert Path(f"/proc/{pid}").exists()
        server.start()
        administer(server, "kv/data/app", {"data": {"value": "two"}})
        wrapped.event("reachable again")
        assert started(wrapped)[1] == "two"


def test_a_certificate_of_another_authority_is_refused(
    secured: tuple[OpenBaoServer, dict[str, str]], tmp_path: Path
) -> None:
    server, settings = secured
    stranger = OpenBaoServer(tmp_path)  # not started: only its authority is wanted
    assert stranger.ca_file is not None
    short = settings | {"CLOUDTASER_STARTUP_TIMEOUT": "0.1"}
    assert "certificate is refused" in error_of(short | {"VAULT_CACERT": stranger.ca_file}, 75)
    other_name = server.address.replace("127.0.0.1", "127.0.0.2")
    assert "refused" in error_of(short | {"VAULT_ADDR": other_name}, 75)
    administer(server, "kv/data/app", {"data": {"value": "one"}})
    unchecked = settings | {"VAULT_CACERT": stranger.ca_file, "VAULT_SKIP_VERIFY": "true"}
    assert environment_of(unchecked)["VALUE"] == "one"
    assert "VAULT_CACERT" in error_of(settings | {"VAULT_CACERT": "/no/such/file"}, 78)
    named = settings | {"VAULT_ADDR": server.address.replace("127.0.0.1", "localhost")}
    assert environment_of(named)["VALUE"] == "one"
