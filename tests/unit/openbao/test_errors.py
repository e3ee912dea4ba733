"""Every refusal of OpenBao becomes one line with what failed, on what, and what to do."""

from __future__ import annotations

import pytest

from cloudtaser.errors import NotAuthorisedError, UnavailableError
from cloudtaser.openbao.errors import CasConflict, NotFoundError, OpenBaoError, error_for

ADDRESS = "https://vault.example:8200"


def of(
    status: int, *messages: str, method: str = "GET", path: str = "a/b", namespace: str = "n"
) -> OpenBaoError:
    return error_for(status, method, path, namespace, {"errors": list(messages)}, address=ADDRESS)


@pytest.mark.parametrize(
    ("method", "capability"),
    [
        ("GET", "read"),
        ("LIST", "list"),
        ("POST", "create and update"),
        ("DELETE", "delete"),
        ("PATCH", "patch"),
    ],
)
def test_permission_denied_names_path_and_missing_capability(method: str, capability: str) -> None:
    error = of(403, "1 error occurred:\n\t* permission denied\n\n", method=method)
    assert isinstance(error, NotAuthorisedError)
    assert error.exit_code == 4
    assert f"{method} n/a/b" in error.diagnostic()
    assert f"grant {capability} there" in error.diagnostic()


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        (503, "Vault is sealed", "OpenBao is sealed"),
        (503, "", "OpenBao is sealed"),
        (501, "", "not initialised"),
        (429, "request rate limit exceeded", "limits the rate"),
        (502, "", "status 502"),
        (307, "", "standby"),
    ],
)
def test_a_server_that_cannot_serve_is_unavailable_with_the_fix(status: int, message: str, said: str) -> None:
    error = of(status, *([message] if message else []))
    assert isinstance(error, UnavailableError)
    assert said in error.diagnostic()
    assert ADDRESS in error.diagnostic()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "namespace not found"),
        (404, ""),
        (400, "No secret engine mount at zzz/"),
        (400, "No auth engine at jwt/"),
        (500, "1 error occurred:\n\t* no default issuer currently configured\n\n"),
    ],
)
def test_all_of_openbaos_words_for_absence_are_not_found(status: int, message: str) -> None:
    assert isinstance(of(status, message), NotFoundError)


def test_a_check_and_set_mismatch_is_a_conflict() -> None:
    assert isinstance(of(400, "check-and-set parameter did not match the current version"), CasConflict)
    assert not isinstance(of(400, "check-and-sat"), CasConflict)


def test_a_mount_that_is_being_prepared_passes() -> None:
    assert of(400, "Upgrading from non-versioned to versioned data. …").passes
    assert not of(400, "something else").passes


def test_a_long_or_many_lined_message_becomes_one_short_line() -> None:
    line = of(400, "a\nb\tc\x00" + "x" * 5000, "second\r\n").diagnostic()
    assert "\n" not in line
    assert "\x00" not in line
    assert len(line) < 700
