"""Start: the entry of programs that take a moment to load; a Ctrl-C in that moment ends them without a word.

Named by the entry points in pyproject.toml. Imports nothing of weight itself, and the programs by name only.
"""

from __future__ import annotations

import importlib
import signal


def bridge() -> int:
    """`cloudtaser-bridge`, `vault-bridge`."""
    return run("cloudtaser.bridge.app")


def operator() -> int:
    """`cloudtaser-operator`."""
    return run("cloudtaser.operator.app")


def cli() -> int:
    """`cloudtaser-cli`, `cloudtaser`, `kubectl-cloudtaser`."""
    return run("cloudtaser.cli.app")


def run(module: str) -> int:
    """Load `module`, during which SIGINT has its plain effect, and call its `main`; the exit status."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # not where whoever started us had it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = importlib.import_module(module).main
    signal.signal(signal.SIGINT, handler)
    status: int = main()
    return status
