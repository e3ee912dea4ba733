"""Supervision: what happens to the application, as a state machine without a process or a clock.

`supervisor` reports signals, ends and stops, `session` brings values; each call returns the commands to
carry out, in order. The promises of spec/wrapper.md "Life" about rotation live here: grace, the crash-loop
guard, and that a shutdown asked for from outside always wins over a restart.

    waiting ── values ──▶ running ── values ──▶ stopping ── ended ──▶ clearing ── empty ──▶ running
                             └───── ended badly on probation ───────▶

Stopping waits for the application, clearing for what is left of its process group: the grace is that of the
whole group, as a shell that is the application may be gone long before the server that it started.
"""

import _signal

START, SEND, CLEAR, EXIT, RENEW = "start", "send", "clear", "exit", "renew"
FOREGROUND, SUSPEND = "foreground", "suspend"
INFORM, WARN = "inform", "warn"

_ENDS_AN_IDLE_WRAPPER = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGHUP)
_ENDS_A_ROTATION = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGQUIT)
_TERMINAL_STOPS = (_signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU)

_WAITING, _RUNNING, _STOPPING, _CLEARING, _RETRYING = range(5)
_KILLED_BY_SIGHUP = 128 + _signal.SIGHUP
# Somebody ended the application: no crash, whatever the values are.
_ENDED_ON_DEMAND = (0, 128 + _signal.SIGINT, 128 + _signal.SIGQUIT, 128 + _signal.SIGTERM)
_AFTER_SIGKILL = 1.0  # seconds for what SIGKILL ends; a process in the kernel's hands may stay longer
_START_PAUSE = 1.0  # seconds between attempts to get a process at all
_START_ATTEMPTS = 30


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

    `terminal`: the application has one; `shell`: somebody above can resume the wrapper when it is stopped;
    `sighup`: new values reach the running application (RENEW), which is then told by SIGHUP.
    """

    __slots__ = (
        "_attempts", "_code", "_current", "_deadline", "_good", "_grace", "_has_run", "_is_killed",
        "_is_told", "_on_probation", "_pending", "_probation", "_shell", "_sighup", "_state", "_terminal",
        "_terminating",
    )  # fmt: skip

    def __init__(
        self,
        *,
        grace: float,
        probation: float,
        terminal: bool = False,
        shell: bool = False,
        sighup: bool = False,
    ) -> None:
        self._grace = grace
        self._probation = probation
        self._terminal = terminal
        self._shell = shell
        self._sighup = sighup
        self._state = _WAITING
        self._deadline: float | None = None
        self._current: object = None
        self._good: object = None
        self._pending: object = None
        self._code = 0
        self._attempts = 0
        self._has_run = False
        self._on_probation = False
        self._is_told = False
        self._is_killed = False
        self._terminating = False

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do, or None."""
        return self._deadline

    @property
    def is_clearing(self) -> bool:
        """Whether `cleared` is to be called once nothing is left of the application's group."""
        return self._state == _CLEARING

    def values(self, values: object, now: float) -> list[Command]:
        """New values are there: the first start the application, later ones restart it or are told to it."""
        if self._state == _WAITING:
            self._state, self._current, self._good = _RUNNING, values, values
            return [Command(START, values)]
        if self._terminating:
            return [Command(WARN, "secrets changed: not delivered, as the application was told to end")]
        if self._state != _RUNNING:
            self._pending = values
            return []
        if self._sighup:
            self._prove(values, now)
            self._is_told = True
            return [
                Command(RENEW, values),
                Command(SEND, _signal.SIGHUP),
                Command(INFORM, "secrets changed: the application is told by SIGHUP"),
            ]
        return self._stop(values, now)

    def not_renewed(self, now: float) -> list[Command]:
        """RENEW failed, and nothing was sent after it: what the application cannot be told, it is started
        with.
        """
        if self._state != _RUNNING or not self._is_told or self._terminating:
            return []
        return self._stop(self._current, now)

    def _stop(self, values: object, now: float) -> list[Command]:
        self._pending = values
        self._state, self._deadline = _STOPPING, now + self._grace
        self._on_probation = self._is_told = self._is_killed = False
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
        if number == _signal.SIGTERM or (self._state != _RUNNING and number in _ENDS_A_ROTATION):
            self._terminating = True
        if number in _ENDS_A_ROTATION:
            self._on_probation = False  # an end that now follows is no crash
        if number == _signal.SIGCONT:
            return [Command(FOREGROUND), Command(SEND, number)]
        if self._terminating and self._state in (_CLEARING, _RETRYING):  # the application has ended already
            return [Command(SEND, number), Command(EXIT, self._code)]
        return [Command(SEND, number)]

    def exited(self, code: int, now: float, *, left: bool = False) -> list[Command]:
        """The application ended with `code` (128 + signal for a signal); `left`: its group has other
        members.
        """
        self._code = code
        if self._terminating:
            return [Command(EXIT, code)]
        if self._state == _STOPPING:
            self._state = _CLEARING
            if self._is_killed:  # with the rest of its group
                self._deadline = now + _AFTER_SIGKILL
            return [] if left else self.cleared(now)
        if self._is_told and code == _KILLED_BY_SIGHUP:
            self._pending = self._current
            said = "the application does not handle SIGHUP and ended: it is started with the new values"
        elif self._on_probation and code not in _ENDED_ON_DEMAND:
            self._pending = self._good
            said = f"the application ended with {code} soon after new values: back to the values before"
        else:
            return [Command(EXIT, code)]
        self._on_probation = self._is_told = False
        self._state, self._is_killed, self._deadline = _CLEARING, True, now + _AFTER_SIGKILL
        return [Command(WARN, said), Command(CLEAR), *([] if left else self.cleared(now))]

    def cleared(self, now: float) -> list[Command]:
        """Nothing is left of the group of the application that ended."""
        values, self._pending = self._pending, None
        self._state, self._deadline, self._is_killed = _RUNNING, None, False
        if values is self._good:
            self._current = values
        else:
            self._prove(values, now)
        return [Command(START, values)]

    def _prove(self, values: object, now: float) -> None:
        """The application gets values that are good only once it has lived with them."""
        self._current, self._on_probation, self._deadline = values, True, now + self._probation

    def started(self) -> None:
        """START made a process."""
        self._attempts = 0
        self._has_run = True

    def not_started(self, code: int, now: float, *, undelivered: bool = False) -> list[Command]:
        """START made no process, as there may be too many at the moment; `code` is for the end.

        Before an application ever ran, that is the end; later it is tried again for a while. `undelivered`:
        it is the new values that cannot be handed over, so those before are.
        """
        self._attempts += 1
        if not self._has_run or self._attempts >= _START_ATTEMPTS:
            return [Command(EXIT, code)]
        if undelivered and self._current is not self._good:
            self._pending, self._state = self._good, _RETRYING
            self._deadline, self._on_probation = now, False
            return [Command(WARN, "the new values cannot be delivered: back to the values before")]
        self._pending, self._state = self._current, _RETRYING
        self._deadline, self._on_probation = now + _START_PAUSE, False
        return []

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
        if self._state == _RUNNING:
            self._on_probation = self._is_told = False
            self._good = self._current
            return []
        if self._state == _RETRYING:
            return self.cleared(now)
        if self._is_killed:
            said = "what the application left behind is there even after SIGKILL"
            return [Command(WARN, said), *self.cleared(now)] if self._state == _CLEARING else []
        self._is_killed = True
        if self._state == _STOPPING:
            said = "the application did not stop in time and is killed"
        else:
            said = "what the application left behind did not stop in time and is killed"
            self._deadline = now + _AFTER_SIGKILL
        return [Command(WARN, said), Command(SEND, _signal.SIGKILL)]
