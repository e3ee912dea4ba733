"""OpenBao goes away, is sealed, forgets tokens, loses secrets: the application runs on, and it all heals."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtaser.demo.openbao import DevServer, OpenBaoServer
from tests.integration.test_wrapper_openbao import administer
from tests.integration.wrapper_vault import POLICY, PRINT_AND_WAIT, QUICK, Vault, started
from tests.unit.wrapper.launch import Wrapped, state_of


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    directory = tmp_path_factory.mktemp("vault")
    with DevServer(directory / "bao") as server:
        assert isinstance(server, DevServer)
        yield Vault(server, directory)


def is_alive(pid: int) -> bool:
    return state_of(pid) not in ("", "Z", "T")


def end(wrapped: Wrapped) -> str:
    """End it; the log lines that were not looked at."""
    wrapped.signal(signal.SIGTERM)
    assert wrapped.wait() == 0
    return wrapped.log()


# -- versions


def test_a_deleted_version_that_is_undeleted_restarts_nothing(vault: Vault) -> None:
    vault.put("secret/data/undeleted", value="one")
    settings = vault.settings("secret/data/undeleted", **QUICK)
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        pid, _ = started(wrapped)
        vault.api("DELETE", "secret/data/undeleted")
        said = wrapped.event("a secret is gone")
        assert said["path"] == "secret/data/undeleted"
        assert "deleted" in str(said["reason"])
        vault.api("POST", "secret/undelete/undeleted", {"versions": [1]})
        wrapped.event("readable again")
        assert is_alive(pid)
        assert "restarted" not in end(wrapped)


def test_a_destroyed_version_is_gone_until_there_is_another(vault: Vault) -> None:
    vault.put("secret/data/destroyed", value="one")
    with Wrapped(
        "sh", "-c", PRINT_AND_WAIT, settings=vault.settings("secret/data/destroyed", **QUICK)
    ) as wrapped:
        pid, _ = started(wrapped)
        vault.api("PUT", "secret/destroy/destroyed", {"versions": [1]})
        wrapped.event("a secret is gone")
        assert is_alive(pid)
        vault.put("secret/data/destroyed", value="two")
        assert started(wrapped)[1] == "two"


def test_an_older_version_that_is_deleted_and_a_pinned_one_that_is_destroyed_are_nobodys_concern(
    vault: Vault,
) -> None:
    vault.put("secret/data/older", value="one")
    vault.put("secret/data/older", value="two")
    vault.put("secret/data/marker", value="x")
    settings = vault.settings(
        "secret/data/older,secret/data/older#1,secret/data/marker",
        "value=VALUE;value=PINNED;value=MARKER",
        CLOUDTASER_ROTATION_INTERVAL="0.2",
        CLOUDTASER_ROTATION_DEBOUNCE="0.1",
    )
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        started(wrapped)
        vault.api("PUT", "secret/destroy/older", {"versions": [1]})
        vault.put("secret/data/marker", value="y")  # a look that sees this has seen the other too
        _, value = started(wrapped)
        assert value == "two"
        assert Path(f"/proc/{wrapped.process.pid}").exists()
        log = end(wrapped)
        assert "gone" not in log
        assert "forbidden" not in log


# -- tokens


def test_a_given_token_whose_parent_is_revoked_is_said_once_and_the_application_runs_on(vault: Vault) -> None:
    vault.put("secret/data/parent", value="one")
    creating = 'path "auth/token/create" { capabilities = ["create", "update"] }'
    vault.api("POST", "sys/policies/acl/parent", {"policy": POLICY + creating})
    parent = vault.api("POST", "auth/token/create", {"policies": ["parent"]})["auth"]["client_token"]
    child = vault.api("POST", "auth/token/create", {"policies": ["parent"]}, parent)["auth"]["client_token"]
    settings = vault.settings("secret/data/parent", VAULT_AUTH_METHOD="token", VAULT_TOKEN=child, **QUICK)
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        pid, _ = started(wrapped)
        vault.api("POST", "auth/token/revoke", {"token": parent})
        said = wrapped.event("the application keeps the values it has")
        assert "VAULT_TOKEN" in str(said["reason"])
        assert "revoked" in str(said["reason"])
        vault.put("secret/data/parent", value="two")
        # three attempts more, and nothing is said again
        time.sleep(1)
        assert is_alive(pid)
        assert "keeps the values" not in end(wrapped)


def test_a_token_that_expires_while_openbao_is_away_is_replaced_when_it_is_back(vault: Vault) -> None:
    vault.put("secret/data/expiring", value="one")
    vault.role("expiring", token_ttl="2s", token_max_ttl="2s")
    settings = vault.settings(
        "secret/data/expiring", VAULT_AUTH_ROLE="expiring", CLOUDTASER_REQUEST_TIMEOUT="0.3", **QUICK
    )
    assert vault.server.pid is not None
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        pid, _ = started(wrapped)
        os.kill(vault.server.pid, signal.SIGSTOP)
        try:
            wrapped.event("OpenBao unreachable, the application runs on")
            time.sleep(2.5)  # longer than the token lives
            assert is_alive(pid)
        finally:
            os.kill(vault.server.pid, signal.SIGCONT)
        wrapped.event("logged in anew")
        vault.put("secret/data/expiring", value="two")
        assert started(wrapped)[1] == "two"


def test_a_login_that_is_refused_while_running_heals_when_the_role_is_back(vault: Vault) -> None:
    vault.put("secret/data/role", value="one")
    vault.role("comes-and-goes")
    settings = vault.settings("secret/data/role", VAULT_AUTH_ROLE="comes-and-goes", **QUICK)
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        pid, _ = started(wrapped)
        vault.api("DELETE", "auth/jwt/role/comes-and-goes")
        vault.revoke_all()
        said = wrapped.event("the application keeps the values it has")
        assert "role comes-and-goes" in str(said["reason"])
        assert is_alive(pid)
        vault.role("comes-and-goes")
        wrapped.event("logged in anew")
        wrapped.event("kept fresh again")


def test_a_policy_that_is_removed_and_made_again_leaves_a_wrapper_that_still_notices_a_revoked_token(
    vault: Vault,
) -> None:
    """As `source register` makes pods' tokens: without the default policy, so that the right to look at
    oneself goes with the rest.
    """
    own = POLICY + "".join(
        f'path "{path}" {{ capabilities = ["read", "update"] }}\n'
        for path in ("auth/token/lookup-self", "auth/token/renew-self", "sys/capabilities-self")
    )
    vault.api("POST", "sys/policies/acl/whole", {"policy": own})
    vault.role("whole", token_policies=["whole"], token_no_default_policy=True)
    vault.put("secret/data/whole", value="one")
    settings = vault.settings("secret/data/whole", VAULT_AUTH_ROLE="whole", **QUICK)
    vault.revoke_all()
    with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
        pid, _ = started(wrapped)
        vault.api("DELETE", "sys/policies/acl/whole")
        wrapped.event("logged in anew")  # nothing else can tell a lost token from a lost right
        assert wrapped.event("forbidden")["path"] == "secret/data/whole"
        vault.api("POST", "sys/policies/acl/whole", {"policy": own})
        wrapped.event("readable again")
        vault.revoke_all()
        wrapped.event("logged in anew")
        assert is_alive(pid)
        vault.put("secret/data/whole", value="two")
        assert started(wrapped)[1] == "two"


# -- the server


def unseal_key(server: DevServer) -> str:
    """From what a dev server writes when it is up."""
    deadline = time.monotonic() + 30
    while not (found := re.search(r"Unseal Key: (\S+)\n", server.log_file.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found[1]


def test_a_server_that_is_sealed_and_unsealed_again_is_said_once_each(tmp_path: Path) -> None:
    with DevServer(tmp_path / "bao") as server:
        assert isinstance(server, DevServer)
        vault = Vault(server, tmp_path)
        vault.put("secret/data/app", value="one")
        key = unseal_key(server)
        settings = vault.settings("secret/data/app", **QUICK)
        with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
            pid, _ = started(wrapped)
            vault.api("PUT", "sys/seal")
            said = wrapped.event("answers, but is not ready, the application runs on")
            assert "sealed" in str(said["reason"])
            assert is_alive(pid)
            vault.api("PUT", "sys/unseal", {"key": key})
            wrapped.event("OpenBao reachable again")
            vault.put("secret/data/app", value="two")
            assert started(wrapped)[1] == "two"
            assert "not ready" not in end(wrapped)


@pytest.mark.slow
def test_a_server_that_is_away_for_sixty_intervals_costs_nothing_and_is_said_once(tmp_path: Path) -> None:
    """Ten minutes at the default interval are twenty looks; here it is sixty, and ten pauses of the backoff
    at its longest. What an outage does depends on nothing but how many attempts fail.
    """
    interval = 0.5
    with OpenBaoServer(tmp_path) as server:
        assert isinstance(server, OpenBaoServer)
        assert server.ca_file is not None
        administer(server, "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        administer(server, "kv/data/app", {"data": {"value": "one"}})
        settings = {
            "VAULT_ADDR": server.address,
            "VAULT_CACERT": server.ca_file,
            "VAULT_AUTH_METHOD": "token",
            "VAULT_TOKEN": server.root_token.reveal_text(),
            "CLOUDTASER_SECRET_PATHS": "kv/data/app",
            "CLOUDTASER_ROTATION_INTERVAL": str(interval),
        }
        with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
            pid, _ = started(wrapped)
            server.kill()
            wrapped.event("the application runs on")
            before = cpu_seconds(wrapped.process.pid)
            time.sleep(max(60 * interval, 40))
            spent = cpu_seconds(wrapped.process.pid) - before
            assert is_alive(pid)
            server.start()
            administer(server, "kv/data/app", {"data": {"value": "two"}})
            assert wrapped.event("OpenBao")["event"] == "OpenBao reachable again"
            assert started(wrapped)[1] == "two"
            assert "unreachable" not in end(wrapped)
            assert spent < 2, f"{spent} s of CPU while there was nothing to do"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- idle


def switches(pid: int) -> int:
    """How often the process gave up the processor of its own accord: once for each time it was woken."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["voluntary_ctxt_switches"])


@pytest.mark.slow
def test_an_idle_wrapper_uses_no_processor(vault: Vault) -> None:
    """A plain init has no wake-up in a minute; one with a secret a few for each look, and no more."""
    vault.put("secret/data/idle", value="one")
    settings = vault.settings("secret/data/idle", CLOUDTASER_ROTATION_INTERVAL="10")
    script = ("sh", "-c", "echo pid=$$ value=; exec sleep 1000")
    with Wrapped(*script) as plain, Wrapped(*script, settings=settings) as fed:
        started(plain)
        started(fed)
        time.sleep(1)
        pids = plain.process.pid, fed.process.pid
        woken, spent = [switches(pid) for pid in pids], [cpu_seconds(pid) for pid in pids]
        time.sleep(60)
        woken = [switches(pid) - before for pid, before in zip(pids, woken, strict=True)]
        spent = [cpu_seconds(pid) - before for pid, before in zip(pids, spent, strict=True)]
        print(json.dumps({"wake-ups": woken, "cpu seconds": spent}))
        assert woken[0] == 0
        assert spent[0] == 0
        assert woken[1] <= 7 * 12  # seven looks: connect, send, receive, close
        assert spent[1] < 0.2


class Standby(OpenBaoServer):
    """A second node that joins the first one's Raft cluster, under the same seal."""

    def __init__(self, directory: Path, first: OpenBaoServer) -> None:
        super().__init__(directory)
        self.root_token = first.root_token
        (directory / "seal.key").write_bytes((first.directory / "seal.key").read_bytes())
        config = directory / "bao.hcl"
        leader = f'leader_api_addr = "{first.address}"\n leader_ca_cert_file = "{first.ca_file}"'
        text = config.read_text().replace(
            'node_id = "demo"', f'node_id = "second"\nretry_join {{ {leader} }}'
        )
        config.write_text(text[: text.index('initialize "administrator"')])


@pytest.mark.slow
def test_a_standby_serves_and_the_application_outlives_its_leader(
    tmp_path: Path,
) -> None:
    with OpenBaoServer(tmp_path / "first") as first:
        assert isinstance(first, OpenBaoServer)
        administer(first, "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        administer(first, "kv/data/app", {"data": {"value": "one"}})
        with Standby(tmp_path / "second", first) as standby:
            assert standby.ca_file is not None
            settings = {
                "VAULT_ADDR": standby.address,
                "VAULT_CACERT": standby.ca_file,
                "VAULT_AUTH_METHOD": "token",
                "VAULT_TOKEN": first.root_token.reveal_text(),
                "CLOUDTASER_SECRET_PATHS": "kv/data/app",
                "CLOUDTASER_REQUEST_TIMEOUT": "5",
                **QUICK,
            }
            with Wrapped("sh", "-c", PRINT_AND_WAIT, settings=settings) as wrapped:
                pid, value = started(wrapped)
                assert value == "one"
                first.kill()  # of two, one alone elects nobody
                time.sleep(3)  # ten looks, which a standby answers by itself or not at all
                assert is_alive(pid)
                first.start()
                administer(first, "kv/data/app", {"data": {"value": "two"}})
                assert started(wrapped)[1] == "two"
