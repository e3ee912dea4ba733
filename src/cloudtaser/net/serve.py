"""Running a program until it is told to stop, and ending it the way a user can read.

Called by each `app.py` with its main coroutine. Needs nothing but uvloop: the beacon uses it too.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

from cloudtaser.errors import CloudtaserError

_log = logging.getLogger("cloudtaser.serve")


def run(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run `main` on uvloop and return the exit status. SIGTERM and SIGINT set the event it is given.

    A CloudtaserError becomes one line on stderr and its exit code; so does anything else, with the traceback
    at level debug only. A second signal while draining ends the program at once with 128 + signal. Whatever
    happens, no memory is written to a core file: it holds keys and tokens.
    """
    raise_descriptor_limit()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        return uvloop.run(_until_signal(main))
    except CloudtaserError as error:
        print(error.diagnostic(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001  # the last line before the user
        _log.debug("unexpected failure", exc_info=error)
        print(f"unexpected failure: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns what then holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            return soft
    return hard


async def _until_signal(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main(stop))
    forced: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            forced.append(number)
            task.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await task
    except asyncio.CancelledError:
        if forced:
            return 128 + forced[0]
        raise
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
