"""No process of a test outlives it: a kill -9 of the test ends what it started.

For `agent` and `subjects`: an agent without its test would go on killing whoever looks at its victims. Call
`tie` after the fork; it follows the thread that forked, which must live as long as the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def tie() -> Callable[[], None]:
    """What a child of this process calls between fork and exec."""
    parent = os.getpid()

    def settle() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # it died before
            os._exit(1)

    return settle
