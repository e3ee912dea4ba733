"""Supervision: what happens to the application, as a state machine without a process or a clock.

`supervisor` reports signals, ends and stops, `session` brings values; each call returns the commands to
carry out, in order. The promises of spec/wrapper.md "Life" about rotation live here: grace, the crash-loop
guard, and that a shutdown asked for from outside always wins over a restart.
"""

import _signal

START, SEND, CLEAR, EXIT = "start", "send", "clear", "exit"
FOREGROUND, SUSPEND = "foreground", "suspend"
INFORM, WARN = "inform", "warn"

_ENDS_AN_IDLE_WRAPPER = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGHUP)
_ENDS_A_ROTATION = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGQUIT)
_TERMINAL_STOPS = (_signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU)

_WAITING, _RUNNING, _STOPPING = range(3)


class Command:
    """One thing to do: a kind from above and its argument (values, a signal, an exit code, a log line)."""

    __slots__ = ("argument", "kind")

    def __init__(self, kind: str, argument: object = None) -> None:
        self.kind = kind
        self.argument = argument

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Command):
            return NotImplemented
        return (self.kind, self.argument) == (other.kind, other.argument)

    def __hash__(self) -> int:
        return hash(self.kind)

    def __repr__(self) -> str:
        return f"Command({self.kind}, {self.argument})"


class Supervision:
    """The application's life. Times are seconds on the caller's clock.

    `terminal`: the application has one; `shell`: somebody above can resume the wrapper when it is stopped.
    """

    __slots__ = (
        "_current", "_deadline", "_good", "_grace", "_on_probation", "_pending", "_probation", "_shell",
        "_state", "_terminal", "_terminating",
    )  # fmt: skip

    def __init__(
        self, *, grace: float, probation: float, terminal: bool = False, shell: bool = False
    ) -> None:
        self._grace = grace
        self._probation = probation
        self._terminal = terminal
        self._shell = shell
        self._state = _WAITING
        self._deadline: float | None = None
        self._current: object = None
        self._good: object = None
        self._pending: object = None
        self._on_probation = False
        self._terminating = False

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do, or None."""
        return self._deadline

    def values(self, values: object, now: float) -> list[Command]:
        """New values are there: the first start the application, later ones restart it."""
        if self._state == _WAITING:
            self._state, self._current, self._good = _RUNNING, values, values
            return [Command(START, values)]
        if self._terminating:
            return [Command(WARN, "secrets changed: not restarted, as the application was told to end")]
        self._pending = values
        if self._state == _STOPPING:
            return []
        self._state, self._deadline, self._on_probation = _STOPPING, now + self._grace, False
        return [
            Command(INFORM, "secrets changed: the application is restarted"),
            Command(SEND, _signal.SIGTERM),
            Command(SEND, _signal.SIGCONT),
        ]

    def signal(self, number: int, *, ignored: bool = False) -> list[Command]:
        """A signal came to the wrapper; `ignored`: without a wrapper it would have had no effect at first."""
        if self._state == _WAITING:
            if ignored:
                return []
            if number == _signal.SIGTSTP:
                return [Command(SUSPEND)]
            return [Command(EXIT, 128 + number)] if number in _ENDS_AN_IDLE_WRAPPER else []
        if number == _signal.SIGTERM or (self._state == _STOPPING and number in _ENDS_A_ROTATION):
            self._terminating = True
        if number == _signal.SIGCONT:
            return [Command(FOREGROUND), Command(SEND, number)]
        return [Command(SEND, number)]

    def exited(self, code: int, now: float) -> list[Command]:
        """The application ended with `code` (128 + signal for a signal)."""
        if self._state == _STOPPING and not self._terminating:
            return [Command(CLEAR), *self._start(self._pending, now)]
        if self._on_probation and code and not self._terminating:
            self._on_probation = False
            self._deadline, self._current = None, self._good
            return [
                Command(
                    WARN, f"the application ended with {code} soon after a restart: back to the values before"
                ),
                Command(CLEAR),
                Command(START, self._good),
            ]
        return [Command(EXIT, code)]

    def _start(self, values: object, now: float) -> list[Command]:
        self._state, self._current, self._pending = _RUNNING, values, None
        self._on_probation, self._deadline = True, now + self._probation
        return [Command(START, values)]

    def stopped(self, number: int, *, ours: bool) -> list[Command]:
        """The application was stopped by `number`; `ours`: the wrapper's own group has the terminal."""
        if not self._terminal or number not in _TERMINAL_STOPS:
            return []
        if self._shell:
            return [Command(FOREGROUND), Command(SEND, _signal.SIGCONT)] if ours else [Command(SUSPEND)]
        return [Command(SEND, _signal.SIGCONT)] if number == _signal.SIGTSTP else []

    def tick(self, now: float) -> list[Command]:
        """The deadline may have passed."""
        if self._deadline is None or now < self._deadline:
            return []
        self._deadline = None
        if self._state == _STOPPING:
            return [
                Command(WARN, "the application did not stop in time and is killed"),
                Command(SEND, _signal.SIGKILL),
            ]
        self._on_probation = False
        self._good = self._current
        return []
