"""`cloudtaser-operator`: reads the configuration and runs until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from cloudtaser.errors import CloudtaserError
from cloudtaser.net import log, serve
from cloudtaser.operator.broker import Tap
from cloudtaser.operator.config import Config, read
from cloudtaser.operator.standalone import Standalone


def main(arguments: Sequence[str] | None = None, *, tap: Tap | None = None) -> int:
    """Entry point; the exit status. `tap` is for the demo and tests: it sees what the broker carries."""
    try:
        config = read(sys.argv[1:] if arguments is None else arguments, os.environ)
        log.configure(config.log_level, "cloudtaser-operator")
    except CloudtaserError as error:
        print(error.diagnostic(), file=sys.stderr)
        return error.exit_code
    return serve.run(lambda stop: _run(config, stop, tap))


async def _run(config: Config, stop: asyncio.Event, tap: Tap | None) -> int:
    return await Standalone(config, tap=tap).run(stop)


if __name__ == "__main__":
    sys.exit(main())
