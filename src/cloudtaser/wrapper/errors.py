"""What can stop the wrapper, and the exit code each stop has (spec/wrapper.md "Configuration").

Raised everywhere in the wrapper, printed by `app` as one line. The wrapper cannot share
`cloudtaser.errors`: it imports nothing outside itself.
"""

EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_TEMPFAIL = 75
EX_NOPERM = 77
EX_CONFIG = 78
EX_NOT_EXECUTABLE = 126
EX_NOT_FOUND = 127


class WrapperError(Exception):
    """An expected failure: `what` failed, `on` what, and the `fix`, each a phrase without a final stop."""

    code = 1

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


class ConfigError(WrapperError):
    """A setting is bad, or names something that is not there: `on` is the variable."""

    code = EX_CONFIG


class RefusedError(WrapperError):
    """OpenBao or the bridge knows who asks, and says no."""

    code = EX_NOPERM


class UnavailableError(WrapperError):
    """OpenBao cannot be reached or is not ready. `retry_after` is what the server asked for, in seconds, or
    0.
    """

    code = EX_TEMPFAIL

    def __init__(self, what: str, *, on: str = "", fix: str = "", retry_after: float = 0.0) -> None:
        super().__init__(what, on=on, fix=fix)
        self.retry_after = retry_after


class NotReadyError(UnavailableError):
    """OpenBao answers, and says that it cannot do it now: sealed, without a leader, too busy."""


class ProtocolError(UnavailableError):
    """The peer sent something that is not what it should be; another connection may do better."""


class MemoryRefusedError(WrapperError):
    """There is no memory of the kind that a secret needs."""

    code = EX_UNAVAILABLE


class AgentError(WrapperError):
    """The node's agent does not protect this process."""

    code = EX_UNAVAILABLE


class DeliveryError(WrapperError):
    """Values cannot be brought to the application in the way that was chosen."""

    code = EX_UNAVAILABLE


class CommandError(WrapperError):
    """The command cannot be started; `code` is what a shell would exit with."""

    def __init__(self, what: str, code: int, *, on: str = "", fix: str = "") -> None:
        super().__init__(what, on=on, fix=fix)
        self.code = code


def fault(error: Exception) -> str:
    """A fault of the wrapper's own in one line: its kind and place. Not its text, which may hold a value."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = f" in {at.tb_frame.f_code.co_name}, line {at.tb_lineno}" if at is not None else ""
    return f"unexpected {type(error).__name__}{place}"
