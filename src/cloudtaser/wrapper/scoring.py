"""`cloudtaser-wrapper score`: the protection score of a running wrapper, or of what this machine offers one.

`app` calls it. A running wrapper is asked first, as it knows most about itself; where it does not answer it
is measured from outside.
"""

import posix

from cloudtaser.wrapper import memory
from cloudtaser.wrapper.buffers import span_of
from cloudtaser.wrapper.measure import measure
from cloudtaser.wrapper.outside import measure_outside
from cloudtaser.wrapper.scoreboard import ask

EX_USAGE = 64
USAGE = "usage: cloudtaser-wrapper score [--pid PID]"


def score(arguments: list[str]) -> tuple[int, bytes, str]:
    """Exit code, JSON for standard output, and what to say on standard error."""
    if not arguments:
        return 0, _here(), ""
    if len(arguments) == 1 and arguments[0].startswith("--pid="):
        arguments = ["--pid", arguments[0].removeprefix("--pid=")]
    pid = arguments[1] if len(arguments) == 2 and arguments[0] == "--pid" else ""
    if not (pid.isascii() and pid.isdigit()) or not 0 < int(pid[:10]) < 1 << 31:
        return EX_USAGE, b"", USAGE
    number = int(pid)
    if answer := ask(number):
        return 0, answer, ""
    found = measure_outside(number)
    if found is None:
        return 1, b"", f"no process {number} is seen in /proc"
    return 0, found.document(), ""


def _here() -> bytes:
    """Of this process, closed as a wrapper is and with a token's worth of secret memory."""
    memory.close(required=False)
    token = span_of(posix.urandom(24))
    return measure(None, token, [], 0).document()
