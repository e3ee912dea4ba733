"""A deployment scales to two hundred pods at once: every wrapper gets its secrets through the one broker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.openbao.client import OpenBao
from tests.unit.wrapper.launch import PREFIX, wait_for_state

pytestmark = pytest.mark.asyncio(loop_scope="session")

WRAPPERS = 200
LONGEST = 400.0  # seconds for all of them on a slow machine; no figure of this test is a bar


class Start:
    """One wrapper whose application writes its value and ends. It waits for somebody to open `gate`."""

    def __init__(self, settings: dict[str, str], directory: Path, gate: Path, number: int) -> None:
        self.output = directory / f"{number}.out"
        self.log = directory / f"{number}.log"
        with self.output.open("wb") as output, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", f': < {gate}; exec "$@"', "sh", *PREFIX, "--", "sh", "-c", 'echo "$VALUE"'],
                env={"PATH": os.environ["PATH"], **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )
        self.code: int | None = None
        self.cpu = 0.0
        self.ended = 0.0

    def poll(self) -> bool:
        """Whether it has ended; keeps what it used, its application included."""
        if self.code is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.code = self.process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu = usage.ru_utime + usage.ru_stime
                self.ended = time.monotonic()
        return self.code is not None


@pytest.mark.slow
@pytest.mark.timeout(LONGEST + 100)
async def test_two_hundred_wrappers_that_start_at_once_all_get_their_secrets(
    chain: Chain, admin: OpenBao, tmp_path: Path
) -> None:
    await setup.write_secret(admin, "shop/crowd", {"value": "for each of them"})
    settings = chain.pod("shop").environment | {"CLOUDTASER_SECRET_PATHS": "secret/data/shop/crowd"}
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    starts = await asyncio.to_thread(
        lambda: [Start(settings, tmp_path, gate, number) for number in range(WRAPPERS)]
    )
    opened = -1
    try:
        for start in starts:
            await asyncio.to_thread(wait_for_state, start.process.pid, "S")
        began = time.monotonic()
        opened = os.open(gate, os.O_WRONLY)
        while sum(start.poll() for start in starts) < WRAPPERS:
            late = [start.log.read_text() for start in starts if start.code is None]
            assert time.monotonic() < began + LONGEST, f"{len(late)} are left: {late[0]}"
            await asyncio.sleep(0.05)
    finally:
        if opened >= 0:
            os.close(opened)
        for start in starts:
            if start.code is None:
                start.process.kill()
                start.process.wait()
    failed = [start.log.read_text() for start in starts if start.code]
    assert failed == []
    assert {start.output.read_text() for start in starts} == {"for each of them\n"}
    took = sorted(start.ended - began for start in starts)
    figures = {
        "cpu of each, ms": round(1000 * sum(start.cpu for start in starts) / WRAPPERS, 1),
        "first, median, last, s": [round(took[at], 2) for at in (0, WRAPPERS // 2, -1)],
        "tried again": sum("trying again" in start.log.read_text() for start in starts),
    }
    print(json.dumps(figures))
