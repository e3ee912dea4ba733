"""The application's process: its group, its terminal, its start, and what its end means.

`supervisor` uses it. The application runs in a process group of its own, in the foreground of the terminal
where there is one, so that a signal to the group reaches all of it and Ctrl-C does not reach the wrapper.
"""

import posix

from cloudtaser.wrapper import command, extension, memory
from cloudtaser.wrapper.delivery import Environment
from cloudtaser.wrapper.errors import EX_NOT_EXECUTABLE, CommandError
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.signals import Signals


class Terminal:
    """The controlling terminal, found on one of the standard descriptors."""

    __slots__ = ("_group", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._group = posix.getpgrp()

    @staticmethod
    def find() -> "Terminal | None":
        """The terminal that this process may hand to its child, or None."""
        for fd in (0, 1, 2):
            try:
                if posix.isatty(fd) and posix.tcgetpgrp(fd) >= 0:
                    return Terminal(fd)
            except OSError:
                continue
        return None

    def is_ours(self) -> bool:
        """Whether the wrapper's own group is in the foreground."""
        return self._foreground() == self._group

    def is_with(self, group: int) -> bool:
        """Whether the application's group is in the foreground."""
        return self._foreground() == group

    def give(self, group: int) -> None:
        """Put a group into the foreground. SIGTTOU is ignored, so this never stops us."""
        try:
            posix.tcsetpgrp(self.fd, group)
        except OSError:
            return

    def take(self) -> None:
        """Put the wrapper's own group back into the foreground."""
        self.give(self._group)

    def _foreground(self) -> int:
        try:
            return posix.tcgetpgrp(self.fd)
        except OSError:
            return -1


class Application:
    """How the application is started, again after each rotation."""

    __slots__ = ("_argv", "_log", "_path", "_signals", "terminal")

    def __init__(self, argv: list[bytes], path: bytes | None, signals: Signals, log: Log) -> None:
        self._argv = argv
        self._path = path
        self._signals = signals
        self._log = log
        self.terminal = Terminal.find()

    def check(self) -> None:
        """Raises CommandError where it can already be seen that the command will not start."""
        command.check(self._argv[0], self._path)

    def start(self, environment: Environment, *, foreground: bool) -> int:
        """Start it; the process id, also its group's. Raises CommandError when there is no process.

        Where the command cannot be executed, the log says so and the process ends as a shell would.
        """
        self._signals.block()
        try:
            pid = (self._spawn if extension.PRESENT else self._fork)(environment, foreground)
        except OSError as error:
            raise CommandError(f"no new process: {error.strerror}", EX_NOT_EXECUTABLE, on="fork") from None
        except MemoryError as error:
            raise CommandError(f"no environment: {error}", EX_NOT_EXECUTABLE, on="fork") from None
        finally:
            self._signals.unblock()
            memory.wipe_leftovers()
            environment.close()
        return pid

    def _spawn(self, environment: Environment, foreground: bool) -> int:
        mask, ignored, defaults = self._signals.for_child()
        pid, problem = extension.native.spawn(
            command.candidates(self._argv[0], self._path),
            self._argv,
            [name + b"=" + value for name, value in environment.inherited.items()],
            [(name, span.view()) for name, span in environment.secrets.items()],
            self._terminal_fd(foreground),
            mask,
            ignored,
            defaults,
            list(environment.descriptors),
        )
        if problem:
            self._log.error(command.refusal(self._argv[0], problem).diagnostic())
        return pid

    def _terminal_fd(self, foreground: bool) -> int:
        return self.terminal.fd if foreground and self.terminal is not None else -1

    def _fork(self, environment: Environment, foreground: bool) -> int:
        pid = posix.fork()
        if pid == 0:
            self._become(environment, foreground)
        _group(pid, pid)
        if foreground and self.terminal is not None:
            self.terminal.give(pid)
        return pid

    def _become(self, environment: Environment, foreground: bool) -> None:
        """In the forked child: only here values become bytes."""
        code = EX_NOT_EXECUTABLE
        try:
            _group(0, 0)
            if foreground and self.terminal is not None:
                self.terminal.give(posix.getpid())
            variables = dict(environment.inherited)
            variables.update({name: bytes(span.view()) for name, span in environment.secrets.items()})
            for descriptor in environment.descriptors:
                posix.set_inheritable(descriptor, True)
            self._signals.restore()
            command.execute(self._argv, variables, self._path)
        except CommandError as error:
            code = error.code
            self._log.error(error.diagnostic())
        finally:
            posix._exit(code)


def _group(pid: int, group: int) -> None:
    """Both parent and child do this, so that neither depends on who comes first."""
    try:
        posix.setpgid(pid, group)
    except OSError:
        return


def exit_code(status: int) -> int:
    """What a shell reports for a wait status: the code, or 128 + signal."""
    code = posix.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
