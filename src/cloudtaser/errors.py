"""Every error a user can meet: what failed, on what, what to do.

Raised by every program, printed by its `app.py` as one line through `diagnostic()`, with `exit_code` as the
process's exit status (spec/cli.md). Anything else that reaches a user is a bug.
"""

from __future__ import annotations

from typing import ClassVar


class CloudtaserError(Exception):
    """An expected failure. `what` failed, `on` what, and the `fix`, each a phrase without a final stop."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, on: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.on = on
        self.fix = fix

    def diagnostic(self) -> str:
        """One line for the person in front of it; never holds a secret."""
        line = f"{self.what} ({self.on})" if self.on else self.what
        line = f"{line}; {self.fix}" if self.fix else line
        return " ".join(line.split())

    def __str__(self) -> str:
        return self.diagnostic()


class UsageError(CloudtaserError):
    """The command line, or a file given on it, cannot be used as it is."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is bad: `on` names the flag, variable or file it came from."""


class DiffersError(CloudtaserError):
    """What is there differs from what was asked to be there (as `kubectl diff`)."""

    exit_code = 3


class NotAuthorisedError(CloudtaserError):
    """The credential that was used may not do this."""

    exit_code = 4


class ProtocolError(CloudtaserError):
    """A peer said something that the protocol does not allow; the connection is over."""


class RefusedError(CloudtaserError):
    """A peer understood, and said no."""


class UnavailableError(CloudtaserError):
    """A peer cannot be reached or is not ready; trying again later may help."""
