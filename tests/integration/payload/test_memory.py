"""No copy left behind by the payload: the searches of test_wrapper_memory, of the static program."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.integration.test_wrapper_memory import (  # noqa: F401  # fixtures, and tests to be run here as well
    tap,
    test_a_connection_cut_in_the_middle_of_an_answer_leaves_no_copy,
    test_a_crash_after_a_rotation_leaves_no_copy,
    test_a_given_token_is_taken_out_of_the_wrappers_environment,
    test_a_new_login_leaves_no_copy_of_either_token,
    test_a_refused_read_and_a_broken_handshake_leave_no_copy,
    test_a_rotation_leaves_no_copy_of_either_value,
    test_after_the_start_no_copy_is_left_and_the_application_has_one,
    test_an_ordinary_start_fits_the_smallest_usual_limit,
    test_renewals_leave_no_copy,
    test_secret_memory_is_locked_and_in_no_core_dump,
    test_two_hundred_secrets_leave_no_copy,
    test_values_of_64_kib_leave_no_copy,
)
from tests.integration.test_wrapper_openbao import vault  # noqa: F401  # a fixture
from tests.integration.wrapper_vault import Vault
from tests.memory_scan import random_text
from tests.scanned import SECRET_DATA, Scanned
from tests.tls_tap import Tap
from tests.unit.wrapper.launch import APPLICATION, application_of

pytestmark = pytest.mark.slow  # the payload is built first


@pytest.fixture
def scanned(vault: Vault, tap: Tap, payload: Path) -> Scanned:  # noqa: F811  # the fixtures
    return Scanned(vault, tap, [str(payload / "wrapper")])


AS_ANOTHER = ("setpriv", "--reuid", "65532", "--regid", "65532", "--clear-groups")


def test_its_own_user_cannot_look_into_it(scanned: Scanned) -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are for root alone
        Path(directory).chmod(0o755)
        scanned.prefix = [shutil.copy(scanned.prefix[0], directory)]
        look_as_its_own_user(scanned)


def look_as_its_own_user(scanned: Scanned) -> None:
    scanned.vault.token_file()  # among what is searched for
    scanned.put(value=random_text(40))
    answer = scanned.vault.api("POST", "auth/token/create", {"policies": ["pod"], "ttl": "1h"})
    settings = {
        "VAULT_ADDR": scanned.vault.server.address,
        "VAULT_AUTH_METHOD": "token",
        "VAULT_TOKEN": answer["auth"]["client_token"],
        "CLOUDTASER_SECRET_PATHS": SECRET_DATA,
    }
    with scanned.start(*APPLICATION, settings=settings, prefix=[*AS_ANOTHER, *scanned.prefix]) as wrapped:
        application = application_of(wrapped)

        def reads(pid: int, file: str) -> bool:
            command = [*AS_ANOTHER, "head", "-c", "1", f"/proc/{pid}/{file}"]
            return not subprocess.run(command, capture_output=True, check=False).returncode

        files = ("environ", "maps", "auxv", "syscall", "io")
        assert [file for file in files if reads(wrapped.process.pid, file)] == []
        assert [file for file in files if reads(application, file)] == list(files)
        scanned.assert_clean(wrapped)
