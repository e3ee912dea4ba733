"""No copy left behind by any delivery: the wrapper's memory, and the application's, searched from outside."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration.wrapper_vault import QUICK, Vault
from tests.memory_scan import random_text
from tests.scanned import SECRET_DATA, Scanned
from tests.tls_tap import Tap
from tests.unit.wrapper.launch import APPLICATION, application_of

pytestmark = pytest.mark.slow
ODD = '%/"\\&=@:é'


@pytest.fixture
def scanned(vault: Vault, tmp_path: Path) -> Iterator[Scanned]:
    with Tap(tmp_path, vault.server.port) as tap:
        yield Scanned(vault, tap)


def put(scanned: Scanned) -> None:
    """New values, and what templates make of them, for which the search looks too."""
    value = random_text(40) + ODD + random_text(40)
    scanned.put(value=value, other=random_text(3000))
    number = scanned._puts
    scanned.values[f"urlencoded {number}"] = quote(value, safe="")
    scanned.values[f"base64 {number}"] = base64.b64encode(value.encode()).decode()


def settings(scanned: Scanned, delivery: str, **more: str) -> dict[str, str]:
    templates = {
        "CLOUDTASER_TEMPLATE_URL": "pg://u:{{value|urlencode}}@db",
        "CLOUDTASER_TEMPLATE_MIXED": "{{value|base64}} {{value|json}} {{other}}",
    }
    chosen = scanned.settings(SECRET_DATA, "value=VALUE,other=@FILE", CLOUDTASER_DELIVERY=delivery, **more)
    return chosen | QUICK | templates | {"REFERENCE": f"x-${{vault:{SECRET_DATA}#value}}"}


def copies(scanned: Scanned, pid: int) -> dict[str, int]:
    return {name: scanned.copies_in(pid, name) for name in scanned.values}


@pytest.mark.parametrize("delivery", ["env", "memory", "file"])
def test_no_copy_is_left_after_start_and_restart(scanned: Scanned, delivery: str) -> None:
    put(scanned)
    with scanned.start(*APPLICATION, settings=settings(scanned, delivery)) as wrapped:
        first = application_of(wrapped)
        scanned.assert_clean(wrapped)
        found = copies(scanned, first)
        # in the environment: VALUE, REFERENCE, and one each in URL and MIXED; the file nowhere
        assert found["other 1"] == (1 if delivery == "env" else 0)
        assert sum(found.values()) == 0 or delivery == "env", found
        put(scanned)
        second = application_of(wrapped, other_than=first)
        scanned.assert_clean(wrapped)
        assert sum(copies(scanned, second).values()) == 0 or delivery == "env"


@pytest.mark.parametrize("delivery", ["memory", "file"])
def test_no_copy_is_left_after_new_values_by_sighup(scanned: Scanned, delivery: str) -> None:
    put(scanned)
    application = ["sh", "-c", "trap 'echo told' HUP; echo started; while :; do sleep 0.05; done"]
    chosen = settings(scanned, delivery, CLOUDTASER_ROTATION="sighup")
    with scanned.start(*application, settings=chosen) as wrapped:
        assert wrapped.line() == "started"
        for _ in range(2):
            put(scanned)
            assert wrapped.line() == "told"
            scanned.assert_clean(wrapped)
