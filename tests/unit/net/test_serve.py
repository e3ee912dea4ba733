"""A program ends when told to, and what goes wrong is one line and an exit code."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys

import pytest

from cloudtaser.errors import ConfigError
from cloudtaser.net.serve import run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_the_program_ends_as_it_likes(number: signal.Signals) -> None:
    async def main(stop: asyncio.Event) -> int:
        os.kill(os.getpid(), number)
        await stop.wait()
        return 7

    assert run(main) == 7


def test_no_core_file_can_be_written() -> None:
    """Memory holds keys and tokens. In a process of its own: the limit cannot be raised again."""
    code = (
        "import asyncio, resource\n"
        "from cloudtaser.net.serve import run\n"
        "async def main(stop): return max(resource.getrlimit(resource.RLIMIT_CORE))\n"
        "raise SystemExit(run(main))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def test_a_second_signal_ends_a_drain_at_once() -> None:
    async def main(stop: asyncio.Event) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
        return 0

    assert run(main) == 128 + signal.SIGTERM


def test_an_expected_failure_is_one_line_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    async def main(stop: asyncio.Event) -> int:
        raise ConfigError("the port\nis bad", on="--addr", fix="give another")

    assert run(main) == ConfigError.exit_code == 2
    assert capsys.readouterr().err == "the port is bad (--addr); give another\n"


def test_an_unexpected_failure_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    async def main(stop: asyncio.Event) -> int:
        raise KeyError("x")

    assert run(main) == 1
    assert capsys.readouterr().err == "unexpected failure: KeyError: 'x'\n"


def test_the_limit_of_open_files_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))

    async def main(stop: asyncio.Event) -> int:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    try:
        assert run(main) == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_the_beacon_uses_needs_nothing_but_uvloop() -> None:
    code = (
        "import sys\n"
        "import cloudtaser.net.serve, cloudtaser.net.layers, cloudtaser.net.tls, cloudtaser.net.dial\n"
        "third = ('structlog', 'cryptography', 'httptools', 'prometheus_client', 'aiohttp', 'msgspec')\n"
        "print([name for name in third if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
