"""One OpenBao for all tests of delivery, and programs in C, built once."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtaser.demo.openbao import DevServer
from tests.integration.wrapper_vault import Vault

SOURCES = Path(__file__).parent / "programs"


@pytest.fixture(scope="package")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    directory = tmp_path_factory.mktemp("vault")
    with DevServer(directory / "bao") as server:
        assert isinstance(server, DevServer)
        yield Vault(server, directory)


@pytest.fixture(scope="package")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`programs/*.c` for glibc and musl, dynamic and static: NAME-glibc, NAME-musl, NAME-static."""
    folder = tmp_path_factory.mktemp("programs")
    for source in sorted(SOURCES.glob("*.c")):
        for form, command in {
            "glibc": ["gcc", "-pthread", "-ldl"],
            "musl": ["musl-gcc", "-pthread"],
            "static": ["gcc", "-static", "-pthread"],
        }.items():
            target = str(folder / f"{source.stem}-{form}")
            subprocess.run([*command, "-Wall", "-Werror", "-o", target, str(source)], check=True)
    return folder
