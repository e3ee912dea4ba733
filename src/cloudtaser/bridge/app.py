"""cloudtaser-bridge, also installed as vault-bridge: reads its settings and runs, or prints how it is.

`main` is the entry of both names. What a bridge is made of is imported only to run one: probes ask for the
status often.
"""

from __future__ import annotations

import json
import sys
from typing import Final

from cloudtaser.bridge.config import StatusRequest, parse
from cloudtaser.bridge.status import ask
from cloudtaser.errors import CloudtaserError

PROGRAM: Final = "cloudtaser-bridge"


def main() -> int:
    """Run the program and return its exit status."""
    try:
        parsed = parse(sys.argv[1:])
        if isinstance(parsed, StatusRequest):
            return print_status(parsed)
    except CloudtaserError as error:
        print(f"{PROGRAM}: {error.diagnostic()}", file=sys.stderr)
        return error.exit_code

    from cloudtaser.bridge.podcas import ignore_names_that_are_none
    from cloudtaser.bridge.service import Bridge
    from cloudtaser.net.log import configure
    from cloudtaser.net.serve import run

    configure(parsed.log_level, PROGRAM)
    ignore_names_that_are_none()
    return run(lambda stop: Bridge(parsed).run(stop))


def print_status(request: StatusRequest) -> int:
    """Print the status document; 0 when the bridge is ready, else 1."""
    status = ask(request.status_socket)
    print(json.dumps(status, indent=2))
    return 0 if status.get("ready") is True else 1
