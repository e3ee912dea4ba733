"""A program that is run to its end."""

from __future__ import annotations

import sys

import pytest

from cloudtaser.demo.command import program, run_command
from cloudtaser.errors import UnavailableError


async def test_what_a_command_prints_is_kept_and_a_failure_says_it() -> None:
    result = await run_command([sys.executable, "-c", "print('{\"a\": 1}')"], {})
    assert (result.status, result.json()) == (0, {"a": 1})
    failing = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    assert (await run_command(failing, {}, check=False)).status == 1
    with pytest.raises(UnavailableError, match="no such thing"):
        await run_command(failing, {})


async def test_a_command_that_does_not_end_is_ended() -> None:
    with pytest.raises(UnavailableError, match="did not end"):
        await run_command([sys.executable, "-c", "import time; time.sleep(60)"], {}, timeout=0.2)


def test_a_program_that_is_not_installed_is_named() -> None:
    with pytest.raises(UnavailableError, match="cloudtaser-nothing is not installed"):
        program("cloudtaser-nothing")
