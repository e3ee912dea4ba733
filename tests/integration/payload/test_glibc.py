"""The payload with glibc: what the containers' tests promise of the usual one, and its lookup of names."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cloudtaser.demo.openbao import OpenBaoServer
from tests.integration.payload.built import build
from tests.integration.payload.containers import APPLICATION, Container, Images, told
from tests.integration.payload.test_containers import (  # noqa: F401  # a fixture, and tests to be run here as well
    server,
    settings,
    test_a_secret_comes_over_tls,
    test_exit_codes_are_those_of_the_application,
    test_hostile_variables_reach_the_application_unchanged_and_do_nothing_to_the_wrapper,
    test_it_copies_itself_into_a_volume_from_an_image_that_holds_nothing_else,
    test_it_is_pid_1_of_a_restricted_container_and_the_application_finds_what_the_image_says,
    test_it_starts_from_any_place_and_directory,
    test_it_works_without_proc_dev_and_tmp,
    test_orphans_are_reaped_and_signals_arrive,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # where nothing is cached, it is built first


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("glibc")
    directory.chmod(0o755)  # read by the containers' user
    return build(directory, "--form", "glibc")


def test_it_is_another_program_and_static_too(payload: Path) -> None:
    def told_by(*command: str) -> str:
        return subprocess.run(
            [*command, str(payload / "wrapper")], capture_output=True, text=True, check=True
        ).stdout

    headers = told_by("readelf", "-lW")
    assert "INTERP" not in headers
    assert "DYNAMIC" not in headers
    assert "glibc 2." in told_by("strings")


def test_names_are_looked_up_without_the_images_modules(
    images: Images,
    payload: Path,
    server: OpenBaoServer,  # noqa: F811  # the fixture
    tmp_path: Path,
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "ca.pem").write_bytes(Path(str(server.ca_file)).read_bytes())
    (files / "hosts").write_text("127.0.0.1 localhost\n")
    (files / "nsswitch.conf").write_text("hosts: module\n")
    address = server.address.replace("127.0.0.1", "localhost")
    done = Container(
        images.root("glibc"), payload, tmp_path, APPLICATION, "show", "3",
        environment=settings(server, VAULT_ADDR=address), mounts={"/secrets": files, "/etc": files},
    ).run()  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "PGUSER=shop" in told(done.stdout)["variable"]
