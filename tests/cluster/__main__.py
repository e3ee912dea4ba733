"""A cluster to try things in by hand: `make cluster-up` and `make cluster-down`.

    python -m tests.cluster up | down

`up` starts a keeper in the background, which runs the cluster until `down` ends it, and prints where its
kubeconfig is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from cloudtaser.errors import CloudtaserError
from tests.cluster import binaries
from tests.cluster.leftovers import start_time, sweep
from tests.cluster.node import Cluster

_PLACE: Final = Path(".cache") / "cluster"
_KUBECONFIG: Final = _PLACE / "kubeconfig"
_KEEPER: Final = _PLACE / "keeper"
_LOG: Final = _PLACE / "keeper.log"
_UP_TIMEOUT: Final = 300.0  # seconds
_DOWN_TIMEOUT: Final = 120.0
_POLL: Final = 0.2


def main(arguments: list[str]) -> int:
    """The exit status."""
    try:
        if arguments == ["up"]:
            return _up()
        if arguments == ["down"]:
            return _down()
        if arguments == ["keep"]:
            asyncio.run(_keep())
            return 0
    except CloudtaserError as error:
        print(f"cluster: {error.diagnostic()}", file=sys.stderr)
        return 1
    print("usage: python -m tests.cluster up | down", file=sys.stderr)
    return 2


def _up() -> int:
    if _keeper():
        print(f"it runs already: export KUBECONFIG={_KUBECONFIG.absolute()}")
        return 0
    binaries.programs()  # here, where somebody sees how long it takes
    shutil.rmtree(_PLACE, ignore_errors=True)
    _PLACE.mkdir(parents=True)
    with _LOG.open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster", "keep"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + _UP_TIMEOUT
    while not _KUBECONFIG.exists():
        if keeper.poll() is not None or time.monotonic() > deadline:
            print(f"cluster: it did not start: {_LOG.read_text(errors='replace').strip()}", file=sys.stderr)
            return 1
        time.sleep(_POLL)
    print(f"export KUBECONFIG={_KUBECONFIG.absolute()}")
    print(f"export PATH={binaries.programs()}:$PATH")
    return 0


def _down() -> int:
    keeper = _keeper()
    if not keeper:
        left = sweep()
        print(f"no cluster runs; removed what was left of {', '.join(left)}" if left else "no cluster runs")
        return 0
    os.kill(keeper, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_TIMEOUT
    while _keeper():
        if time.monotonic() > deadline:
            print(f"cluster: process {keeper} does not end; see {_LOG}", file=sys.stderr)
            return 1
        time.sleep(_POLL)
    sweep()  # had it been killed meanwhile
    shutil.rmtree(_PLACE, ignore_errors=True)
    return 0


def _keeper() -> int:
    """The keeper's process id, 0 where none runs; a number that another process has now counts for none."""
    try:
        number, started = _KEEPER.read_text().split()
        return int(number) if start_time(int(number)) == started else 0
    except (OSError, ValueError):
        return 0


async def _keep() -> None:
    _KEEPER.write_text(f"{os.getpid()} {start_time(os.getpid())}")
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with Cluster(_PLACE.absolute()) as cluster:
        ready = _KUBECONFIG.with_suffix(".new")
        ready.touch(mode=0o600)
        ready.write_bytes(cluster.control_plane.kubeconfig.read_bytes())
        ready.rename(_KUBECONFIG)
        await ended.wait()
    with contextlib.suppress(FileNotFoundError):
        _KEEPER.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
