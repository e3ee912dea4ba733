"""No copy left behind: the wrapper's whole memory is searched from outside for what it handed over.

A real OpenBao, behind a TLS server that notes the tokens it gives out. The application is a program that
never looks at its environment, so that what its memory holds is what delivery put there.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtaser.demo.postgres import PostgresServer
from tests.integration.test_wrapper_openbao import dynamic_role, vault  # noqa: F401  # a fixture
from tests.integration.wrapper_vault import Vault
from tests.memory_scan import random_text, scan, secret_mappings
from tests.scanned import SECRET_DATA, Scanned
from tests.tls_tap import Tap
from tests.unit.wrapper.launch import (
    APPLICATION,
    PREFIX_WITHOUT_EXTENSION,
    application_of,
    wait_for_state,
)

JSON_ESCAPES = '"\\/\b\f\n\r\t\x01\x1f\x7fé€😀\u2028<>&'


@pytest.fixture
def tap(vault: Vault, tmp_path: Path) -> Iterator[Tap]:  # noqa: F811  # the fixture
    with Tap(tmp_path, vault.server.port) as tap:
        yield tap


@pytest.fixture
def scanned(vault: Vault, tap: Tap) -> Scanned:  # noqa: F811  # the fixture
    return Scanned(vault, tap)


# -- the search itself


def test_the_search_finds_what_is_there(scanned: Scanned) -> None:
    scanned.put(value=random_text(40))
    with scanned.start(*APPLICATION, settings=scanned.settings(), prefix=PREFIX_WITHOUT_EXTENSION) as wrapped:
        application_of(wrapped)
        found = {trace.secret for trace in scan(wrapped.process.pid, scanned.secrets())}
        assert {"value 1", "token 0"} <= found


# -- after the start


def test_after_the_start_no_copy_is_left_and_the_application_has_one(scanned: Scanned) -> None:
    scanned.put(value=random_text(40), escapes=random_text(30) + JSON_ESCAPES + random_text(30))
    scanned.put(value=random_text(40), escapes=JSON_ESCAPES * 200 + random_text(30))
    with scanned.start(*APPLICATION, settings=scanned.settings()) as wrapped:
        application = application_of(wrapped)
        scanned.assert_clean(wrapped)
        environment = Path(f"/proc/{application}/environ").read_bytes()
        assert (JSON_ESCAPES * 200).encode() in environment
        assert scanned.copies_in(application, "value 2") == 1
        assert environment.count(b"VALUE=" + scanned.values["value 2"].encode()) == 1


def test_values_of_64_kib_leave_no_copy(scanned: Scanned) -> None:
    scanned.put(
        large=random_text(65_536), escaped=random_text(20_000) + JSON_ESCAPES * 1000 + random_text(500)
    )
    with scanned.start(*APPLICATION, settings=scanned.settings()) as wrapped:
        application = application_of(wrapped)
        scanned.assert_clean(wrapped)
        assert scanned.copies_in(application, "large 1") == 1


def test_two_hundred_secrets_leave_no_copy(scanned: Scanned) -> None:
    common = random_text(32)
    paths = [f"{SECRET_DATA}-{number}" for number in range(100)]
    for number, path in enumerate(paths):
        scanned.vault.put(path, **{f"a{number}": f"{common} {number}", f"b{number}": f"{number}/{common}"})
    scanned.values = {"all": common}
    with scanned.start(*APPLICATION, settings=scanned.settings(",".join(paths))) as wrapped:
        application = application_of(wrapped)
        scanned.assert_clean(wrapped)
        assert scanned.copies_in(application, "all") == 200


def test_a_given_token_is_taken_out_of_the_wrappers_environment(scanned: Scanned) -> None:
    scanned.put(value=random_text(40))
    answer = scanned.vault.api("POST", "auth/token/create", {"policies": ["pod"], "ttl": "1h"})
    token = answer["auth"]["client_token"]
    scanned.values["given"] = token
    settings = scanned.settings(VAULT_AUTH_METHOD="token", VAULT_TOKEN=f" {token} ")
    with scanned.start(*APPLICATION, settings=settings) as wrapped:
        application_of(wrapped)
        scanned.assert_clean(wrapped)
        environment = Path(f"/proc/{wrapped.process.pid}/environ").read_bytes()
        assert b"VAULT_TOKEN=" in environment
        assert token.encode() not in environment


# -- while it runs


def test_renewals_leave_no_copy(scanned: Scanned) -> None:
    scanned.vault.role("brief", token_ttl="2s", token_max_ttl="1h")
    scanned.put(value=random_text(40))
    with scanned.start(*APPLICATION, settings=scanned.quick(VAULT_AUTH_ROLE="brief")) as wrapped:
        application_of(wrapped)
        scanned.tap.wait_for(b"POST /v1/auth/token/renew-self", count=2)
        scanned.assert_clean(wrapped)


def test_a_rotation_leaves_no_copy_of_either_value(scanned: Scanned) -> None:
    scanned.put(value=random_text(40))
    with scanned.start(*APPLICATION, settings=scanned.quick()) as wrapped:
        first = application_of(wrapped)
        scanned.put(value=random_text(40))
        second = application_of(wrapped, other_than=first)
        scanned.assert_clean(wrapped)
        assert scanned.copies_in(second, "value 1") == 0
        assert scanned.copies_in(second, "value 2") == 1


def test_a_new_login_leaves_no_copy_of_either_token(scanned: Scanned) -> None:
    scanned.put(value=random_text(40))
    with scanned.start(*APPLICATION, settings=scanned.quick()) as wrapped:
        application_of(wrapped)
        scanned.vault.revoke_all()
        wrapped.event("logged in anew")
        scanned.assert_clean(wrapped)
        assert len(scanned.tap.tokens()) == 2


def test_a_crash_after_a_rotation_leaves_no_copy(scanned: Scanned) -> None:
    scanned.put(value=random_text(40), mode="run")
    script = '[ "$MODE" = run ] || exit 3; exec sleep 1000'
    with scanned.start("sh", "-c", script, settings=scanned.quick()) as wrapped:
        first = application_of(wrapped)
        del scanned.values["mode 1"]
        scanned.put(value=random_text(40), mode="fail")
        del scanned.values["mode 2"]
        wrapped.event("back to the values before")
        application_of(wrapped, other_than=first)
        scanned.assert_clean(wrapped)


@pytest.mark.slow
def test_leases_leave_no_copy_of_their_credentials(scanned: Scanned) -> None:
    with tempfile.TemporaryDirectory() as directory:  # PostgreSQL cannot reach root's own
        postgres = PostgresServer(Path(directory))
        postgres.start()
        try:
            dynamic_role(scanned.vault, postgres, "scanned", default_ttl="2s", max_ttl="8s")
            with scanned.start(*APPLICATION, settings=scanned.quick("database/creds/scanned")) as wrapped:
                first = application_of(wrapped)
                scanned.tap.wait_for(b"POST /v1/sys/leases/renew", count=2)
                scanned.assert_clean(wrapped)
                application_of(wrapped, other_than=first)
                scanned.values |= dict(enumerate_names(scanned.tap.answered(rb'"password":"([^"]+)"')))
                assert len(scanned.values) == 2
                scanned.assert_clean(wrapped)
        finally:
            postgres.stop()


def enumerate_names(values: list[str]) -> list[tuple[str, str]]:
    return [(f"password {number}", value) for number, value in enumerate(values)]


# -- when something fails


def test_a_connection_cut_in_the_middle_of_an_answer_leaves_no_copy(scanned: Scanned) -> None:
    scanned.put(value=random_text(20_000))
    scanned.tap.cut_behind(scanned.values["value 1"][5000:5024].encode())
    with scanned.start(*APPLICATION, settings=scanned.settings(CLOUDTASER_LOG_LEVEL="debug")) as wrapped:
        wrapped.event("unreachable")
        scanned.tap.wait_for_cuts(1)
        scanned.assert_clean(wrapped)
        scanned.tap.cut_behind(None)
        application_of(wrapped)
        scanned.assert_clean(wrapped)


def test_a_refused_read_and_a_broken_handshake_leave_no_copy(scanned: Scanned) -> None:
    api, path = scanned.vault.api, "sys/policies/acl/withdrawn"
    api("POST", path, {"policy": 'path "secret/*" { capabilities = ["read"] }'})
    scanned.vault.role("withdrawn", token_policies=["withdrawn"], token_ttl="1h")
    scanned.put(value=random_text(40))
    settings = scanned.quick(VAULT_AUTH_ROLE="withdrawn", CLOUDTASER_LOG_LEVEL="debug")
    with scanned.start(*APPLICATION, settings=settings) as wrapped:
        application_of(wrapped)
        api("POST", path, {"policy": 'path "secret/*" { capabilities = ["deny"] }'})
        wrapped.event("a secret is forbidden")
        scanned.assert_clean(wrapped)
        scanned.tap.refuses_tls = True
        scanned.tap.drop()
        wrapped.event("the application runs on")
        scanned.assert_clean(wrapped)


def test_a_server_that_speaks_no_tls_leaves_no_copy_of_the_jwt(scanned: Scanned) -> None:
    scanned.put(value=random_text(40))
    scanned.tap.refuses_tls = True
    with scanned.start(*APPLICATION, settings=scanned.settings()) as wrapped:
        wrapped.event("unreachable")
        scanned.assert_clean(wrapped)
        scanned.tap.refuses_tls = False
        application_of(wrapped)
        scanned.assert_clean(wrapped)


def test_a_value_that_no_variable_can_hold_leaves_no_copy(scanned: Scanned) -> None:
    scanned.put(value=random_text(40), odd=random_text(40) + "\0")
    with scanned.start(*APPLICATION, settings=scanned.settings()) as wrapped:
        wrapped.event("holds a NUL byte")
        application_of(wrapped)
        scanned.assert_clean(wrapped)


# -- the limits


def test_an_ordinary_start_fits_the_smallest_usual_limit(scanned: Scanned) -> None:
    scanned.put(value=random_text(40), user="app", host="db")
    settings = scanned.quick(CLOUDTASER_REQUIRE_MEMFD_SECRET="true")
    with scanned.start(*APPLICATION, settings=settings, prefix=scanned.limited(65_536)) as wrapped:
        first = application_of(wrapped)
        scanned.put(value=random_text(40), user="app", host="db")
        application_of(wrapped, other_than=first)
        scanned.assert_clean(wrapped)


def test_memfd_secret_can_be_required(scanned: Scanned) -> None:
    scanned.put(value=random_text(40))
    settings = scanned.settings(CLOUDTASER_REQUIRE_MEMFD_SECRET="true")
    with scanned.start(*APPLICATION, settings=settings, prefix=scanned.limited(0)) as wrapped:
        assert wrapped.wait() == 69
        (line,) = wrapped.log().splitlines()
        assert "CLOUDTASER_REQUIRE_MEMFD_SECRET" in line
        assert "RLIMIT_MEMLOCK" in line
    with scanned.start(*APPLICATION, settings=settings, prefix=PREFIX_WITHOUT_EXTENSION) as wrapped:
        assert wrapped.wait() == 69
        assert "C extension" in wrapped.log()
    with scanned.start(*APPLICATION, settings=scanned.settings(), prefix=scanned.limited(0)) as wrapped:
        application_of(wrapped)
        assert not secret_mappings(wrapped.process.pid)


def test_a_value_that_does_not_fit_is_refused_where_memfd_secret_is_required(scanned: Scanned) -> None:
    scanned.put(value=random_text(100_000))
    settings = scanned.settings(CLOUDTASER_REQUIRE_MEMFD_SECRET="true")
    with scanned.start(*APPLICATION, settings=settings, prefix=scanned.limited(65_536)) as wrapped:
        assert wrapped.wait() == 69
        assert "RLIMIT_MEMLOCK" in wrapped.log()


# -- the process


def test_secret_memory_is_locked_and_in_no_core_dump(scanned: Scanned) -> None:
    scanned.put(value=random_text(40))
    with scanned.start(*APPLICATION, settings=scanned.settings()) as wrapped:
        application_of(wrapped)
        mappings = secret_mappings(wrapped.process.pid)
        assert mappings
        assert all({"lo", "dd"} <= flags for flags in mappings)


def test_a_fault_of_the_wrapper_dumps_no_core(scanned: Scanned, tmp_path: Path) -> None:
    scanned.put(value=random_text(40))
    with scanned.start(*APPLICATION, settings=scanned.settings()) as wrapped:
        application = application_of(wrapped)
        pid = wrapped.process.pid
        resource.prlimit(pid, resource.RLIMIT_CORE, resource.prlimit(pid, resource.RLIMIT_CORE)[1:] * 2)
        os.kill(pid, signal.SIGSEGV)
        _, status = os.waitpid(pid, 0)
        wrapped.process.returncode = os.waitstatus_to_exitcode(status)
        os.kill(application, signal.SIGKILL)
        assert os.WTERMSIG(status) == signal.SIGSEGV
        assert not os.WCOREDUMP(status)


def test_the_application_can_be_dumped_as_without_the_wrapper(scanned: Scanned) -> None:
    scanned.put(value=random_text(40))
    code = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True); input()"
    with scanned.start(sys.executable, "-I", "-S", "-c", code, settings=scanned.settings()) as wrapped:
        assert wrapped.line() == "1"


def test_after_a_kill_nothing_is_on_a_disk(scanned: Scanned, tmp_path: Path) -> None:
    scanned.put(value=random_text(40))
    home = tmp_path / "home"
    home.mkdir()
    settings = scanned.settings() | {"HOME": str(home), "TMPDIR": str(home)}
    program, *arguments = scanned.prefix
    # which a first run would write; the payload has nothing to write
    without_bytecode = [program, *(["-B"] if arguments else []), *arguments]
    # A file's time of access counts as written too: of what is new it changes here, and not again.
    with scanned.start("true", settings=settings, prefix=without_bytecode) as first:
        assert first.wait() == 0
    with scanned.start(*APPLICATION, settings=settings, prefix=without_bytecode) as wrapped:
        application = application_of(wrapped)
        counters = Path(f"/proc/{wrapped.process.pid}/io").read_text().split()
        assert counters[counters.index("write_bytes:") + 1] == "0"
        wrapped.process.kill()
        wrapped.wait()
        assert not list(home.iterdir())
        os.kill(application, signal.SIGKILL)
        wait_for_state(application, "Z" if Path(f"/proc/{application}").exists() else "")
