"""What holds for every test: property tests try the same cases each time, a slow machine fails none, and
signals have their effect wherever the tests run.

`HYPOTHESIS_PROFILE=explore` looks for new ones.
"""

from __future__ import annotations

import os
import signal

from hypothesis import settings

settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# ignored where this runs in the background (a shell's `&`, nohup), and then by all that a test starts
for number, default in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)
