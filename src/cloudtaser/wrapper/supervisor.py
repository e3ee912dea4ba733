"""The supervisor: carries out what `supervision` decides, and reaps whatever ends.

The thin shell of PID 1. One task of the loop: woken by a signal, by its deadline, or by `deliver`.
"""

import _signal
import posix

from cloudtaser.wrapper import supervision
from cloudtaser.wrapper.child import Application, exit_code
from cloudtaser.wrapper.delivery import Environment, Values
from cloudtaser.wrapper.errors import CommandError, DeliveryError, WrapperError
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import READ, Loop, Task, Wait
from cloudtaser.wrapper.signals import Signals, is_passed_on
from cloudtaser.wrapper.supervision import Command, Supervision

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    EnvironmentOf = Callable[[Values], Environment]
    Renew = Callable[[Values], None]

_REAPED_AT_ONCE = 256
_CLEARING_POLL = 0.05  # seconds: members of the group that are not our children end without a signal to us


class Supervisor:
    """Starts, signals and reaps; `run` ends with the exit code of the application."""

    __slots__ = (
        "_application",
        "_code",
        "_environment",
        "_log",
        "_loop",
        "_more",
        "_pid",
        "_signals",
        "_supervision",
        "renew",
        "task",
    )

    def __init__(
        self,
        loop: Loop,
        signals: Signals,
        application: Application,
        decisions: Supervision,
        environment: "EnvironmentOf",
        log: Log,
    ) -> None:
        self._loop = loop
        self._signals = signals
        self._application = application
        self._supervision = decisions
        self._environment = environment
        self._log = log
        self._pid = 0
        self._code: int | None = None
        self._more = True  # whoever was here before us may have left zombies, of which no signal tells
        self.task: Task | None = None
        self.renew: Renew | None = None
        """Brings new values to the running application; None where the delivery cannot."""

    @property
    def pid(self) -> int:
        """Of the application, 0 before it was started."""
        return self._pid

    def deliver(self, values: Values) -> None:
        """Values for the application: the first set starts it."""
        self._carry_out(self._supervision.values(values, self._loop.now()))
        if self.task is not None:
            self.task.wake()

    async def run(self) -> int:
        """Until the application has ended for good, or a signal ended the wait for it."""
        while self._code is None:
            await Wait(self._signals.fileno(), READ, self._deadline())
            self._take_signals()
            self._reap()
            if self._supervision.is_clearing and not self._is_left():
                self._carry_out(self._supervision.cleared(self._loop.now()))
            self._carry_out(self._supervision.tick(self._loop.now()))
        return self._code

    def _deadline(self) -> float | None:
        if self._more:
            return self._loop.now()
        deadline = self._supervision.deadline
        if not self._supervision.is_clearing:
            return deadline
        soon = self._loop.now() + _CLEARING_POLL
        return soon if deadline is None else min(deadline, soon)

    async def wait_for_impatience(self) -> None:
        """After the end: go on reaping until a signal says that nobody wants to wait."""
        while True:
            await Wait(self._signals.fileno(), READ, None)
            if any(
                number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGQUIT)
                for number in self._signals.take()
            ):
                return
            self._reap()

    def _take_signals(self) -> None:
        for number in self._signals.take():
            if is_passed_on(number):
                self._carry_out(self._supervision.signal(number, ignored=self._signals.was_ignored(number)))

    def _reap(self) -> None:
        """Collect what ended, a bounded number at a time, so that a storm of children cannot hold up a
        signal.
        """
        self._more = False
        for _ in range(_REAPED_AT_ONCE):
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG | posix.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._changed(status)
        self._more = True

    def _changed(self, status: int) -> None:
        if posix.WIFSTOPPED(status):
            terminal = self._application.terminal
            ours = terminal is not None and terminal.is_ours()
            self._carry_out(self._supervision.stopped(posix.WSTOPSIG(status), ours=ours))
        else:
            code = exit_code(status)
            self._carry_out(self._supervision.exited(code, self._loop.now(), left=self._is_left()))

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            argument = command.argument
            if command.kind == supervision.SEND and isinstance(argument, int):
                self._send(argument)
            elif command.kind == supervision.START and isinstance(argument, Values):
                self._start(argument)
            elif command.kind == supervision.RENEW and isinstance(argument, Values):
                if not self._renew(argument):
                    break
            elif command.kind == supervision.CLEAR:
                self._send_to_group(_signal.SIGKILL)
            elif command.kind == supervision.FOREGROUND:
                self._foreground()
            elif command.kind == supervision.SUSPEND:
                self._suspend()
            elif command.kind == supervision.EXIT and isinstance(argument, int):
                self._code = argument if self._code is None else self._code
            elif command.kind == supervision.INFORM:
                self._log.info(str(argument))
            elif command.kind == supervision.WARN:
                self._log.warning(str(argument))

    def _start(self, values: Values) -> None:
        terminal = self._application.terminal
        foreground = terminal is not None and (
            terminal.is_ours() or (self._pid > 0 and terminal.is_with(self._pid))
        )
        try:
            self._pid = self._application.start(self._environment(values), foreground=foreground)
        except (CommandError, DeliveryError) as error:
            self._log.error(error.diagnostic())
            undelivered = isinstance(error, DeliveryError)
            self._carry_out(
                self._supervision.not_started(error.code, self._loop.now(), undelivered=undelivered)
            )
        else:
            self._supervision.started()

    def _renew(self, values: Values) -> bool:
        """Bring new values to the running application. Where that fails it is restarted instead."""
        try:
            if self.renew is not None:
                self.renew(values)
                return True
            reason = "this delivery cannot bring them to a running application"
        except WrapperError as error:
            reason = error.diagnostic()
        self._log.warning("new values were not delivered", reason=reason)
        self._carry_out(self._supervision.not_renewed(self._loop.now()))
        return False

    def _is_left(self) -> bool:
        """Whether anything is left of the application's process group."""
        if not self._pid:
            return False
        try:
            posix.kill(-self._pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True  # it is there, and not ours to signal
        return True

    def _send(self, number: int) -> None:
        """To the application's group, and to the application itself where it has left that group."""
        self._send_to_group(number)
        try:
            if self._pid and posix.getpgid(self._pid) != self._pid:
                posix.kill(self._pid, number)
        except OSError:
            return

    def _send_to_group(self, number: int) -> None:
        if self._pid:
            try:
                posix.kill(-self._pid, number)
            except OSError:
                return

    def _foreground(self) -> None:
        terminal = self._application.terminal
        if terminal is not None and self._pid and terminal.is_ours():
            terminal.give(self._pid)

    def _suspend(self) -> None:
        """Stop as the application did, so that the shell above sees a stopped job; SIGCONT resumes both."""
        terminal = self._application.terminal
        if terminal is not None and self._pid and terminal.is_with(self._pid):
            terminal.take()
        posix.kill(0, _signal.SIGSTOP)
