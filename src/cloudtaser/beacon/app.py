"""cloudtaser-beacon: reads its settings, runs one beacon, obeys signals.

SIGTERM and SIGINT drain and exit 0, a second one does not wait; SIGHUP reads the certificate again. Under
systemd (Type=notify) it says when it is ready and when it stops.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from cloudtaser.beacon.config import PROGRAM, BeaconConfig, parse
from cloudtaser.beacon.dev import in_memory, self_signed
from cloudtaser.beacon.link import Tap
from cloudtaser.beacon.server import Beacon
from cloudtaser.errors import CloudtaserError, ConfigError


def main(arguments: Sequence[str] | None = None, *, tap: Tap | None = None) -> int:
    """The program. Returns the exit status. `tap` sees what is relayed; no flag reaches it, only tests do."""
    try:
        config = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
        with ExitStack() as stack:
            if config.dev:
                config = _with_dev_certificate(config, stack)
            with asyncio.Runner(loop_factory=_new_loop) as runner:
                return runner.run(_run(config, tap))
    except CloudtaserError as error:
        print(f"{PROGRAM}: {error.diagnostic()}", file=sys.stderr)
        return error.exit_code


async def _run(config: BeaconConfig, tap: Tap | None) -> int:
    beacon = Beacon(config, tap=tap)
    await beacon.start()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    impatient = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: impatient.set() if stop.is_set() else stop.set())
    loop.add_signal_handler(signal.SIGHUP, beacon.reload)
    gc.freeze()  # what was made so far stays for good
    gc.set_threshold(20_000, 20, 50)
    _tell_systemd("READY=1")
    await stop.wait()
    _tell_systemd("STOPPING=1")
    draining = asyncio.create_task(beacon.drain())
    hurry = asyncio.create_task(impatient.wait())
    await asyncio.wait((draining, hurry), return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, hurry):
        task.cancel()
    beacon.close()
    beacon.log.info("stopped")
    return 0


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()  # slower, and good enough to try things out
    return uvloop.new_event_loop()


def _with_dev_certificate(config: BeaconConfig, stack: ExitStack) -> BeaconConfig:
    names = [host for host, _ in config.addr if host and host not in ("0.0.0.0", "::")]  # noqa: S104
    certificate, key = self_signed([*names, "localhost", socket.gethostname(), "127.0.0.1", "::1"])
    if config.dev_cert_out:
        try:
            Path(config.dev_cert_out).write_bytes(certificate)
        except OSError as error:
            raise ConfigError(f"cannot be written: {error.strerror}", on="--dev-cert-out") from None
    cert_file, key_file = stack.enter_context(in_memory(certificate, key))
    return replace(config, tls_cert=cert_file, tls_key=key_file)


def _tell_systemd(state: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.connect(address)
            notify.send(state.encode())
    except OSError:
        pass  # nobody listens


if __name__ == "__main__":
    sys.exit(main())
