"""`cloudtaser-operator`: reads the configuration and runs until it is told to stop.

`manager` and `broker` are the two containers of a pod; `--standalone` is both in one process, outside a
cluster.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

from cloudtaser.errors import CloudtaserError
from cloudtaser.net import log, serve
from cloudtaser.operator.broker import Tap
from cloudtaser.operator.broker_container import BrokerContainer
from cloudtaser.operator.config import read, read_broker
from cloudtaser.operator.manager_config import read_manager
from cloudtaser.operator.manager_container import ManagerContainer
from cloudtaser.operator.standalone import Standalone

Run = Callable[[asyncio.Event], Awaitable[int]]


def main(arguments: Sequence[str] | None = None, *, tap: Tap | None = None) -> int:
    """Entry point; the exit status. `tap` is for the demo and tests: it sees what the broker carries."""
    try:
        level, run = _program(list(sys.argv[1:] if arguments is None else arguments), os.environ, tap)
        log.configure(level, "cloudtaser-operator")
    except CloudtaserError as error:
        print(error.diagnostic(), file=sys.stderr)
        return error.exit_code
    return serve.run(run)


def _program(arguments: list[str], environment: Mapping[str, str], tap: Tap | None) -> tuple[str, Run]:
    """The log level, and what is to be run. UsageError when the command line cannot be used.

    Nothing is made yet: what asyncio gives belongs to the loop that is still to come.
    """
    if arguments[:1] == ["manager"]:
        manager = read_manager(arguments[1:], environment)
        return manager.log_level, lambda stop: ManagerContainer(manager).run(stop)
    if arguments[:1] == ["broker"]:
        broker = read_broker(arguments[1:], environment)
        return broker.carrier.log_level, lambda stop: BrokerContainer(broker, tap=tap).run(stop)
    config = read(arguments, environment)
    return config.log_level, lambda stop: Standalone(config, tap=tap).run(stop)


if __name__ == "__main__":
    sys.exit(main())
