"""Every error is one line: what failed, on what, what to do."""

import pytest

from cloudtaser.errors import CloudtaserError, DiffersError, NotAuthorisedError, UsageError


def test_the_diagnostic_names_failure_object_and_fix_on_one_line() -> None:
    error = CloudtaserError("cannot read\nthe token", on="/run/token", fix="make it readable")
    assert error.diagnostic() == "cannot read the token (/run/token); make it readable"
    assert str(error) == error.diagnostic()


def test_parts_that_are_not_known_leave_no_trace() -> None:
    assert CloudtaserError("sealed").diagnostic() == "sealed"
    assert CloudtaserError("sealed", fix="unseal it").diagnostic() == "sealed; unseal it"


@pytest.mark.parametrize(
    ("kind", "status"), [(CloudtaserError, 1), (UsageError, 2), (DiffersError, 3), (NotAuthorisedError, 4)]
)
def test_exit_codes_are_those_of_the_documents(kind: type[CloudtaserError], status: int) -> None:
    assert kind("x").exit_code == status
