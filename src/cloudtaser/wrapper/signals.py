"""Signals: which are passed on, how they reach the loop, and what the application starts with.

`app` installs them before anything else. Each signal writes its number into a pipe from the interpreter's C
handler (`set_wakeup_fd`), so the loop sees signals as bytes that can be read, and a signal is never waited
for alone. Blocking them and calling sigtimedwait instead would leave no way to wait for a socket at the
same time: there is no signalfd among the C modules.
"""

import _signal
import posix

from cloudtaser.wrapper import extension

# Faults of the wrapper itself, which must stay fatal; what cannot be caught; what means the terminal or our
# own pipes.
_NOT_PASSED_ON = frozenset(
    (
        _signal.SIGKILL, _signal.SIGSTOP, _signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL,
        _signal.SIGTRAP, _signal.SIGSYS, _signal.SIGTTIN, _signal.SIGTTOU, _signal.SIGPIPE, _signal.SIGXFSZ,
    )
)  # fmt: skip
_IGNORED = (_signal.SIGTTIN, _signal.SIGTTOU, _signal.SIGPIPE, _signal.SIGXFSZ)
# The interpreter itself ignores these before we can look, so what they were is not known; programs expect
# the default.
_IGNORED_BY_PYTHON = (_signal.SIGPIPE, _signal.SIGXFSZ)
_READ_SIZE = 4096


class Signals:
    """Signals as readable bytes, and the dispositions and mask that the application is to find."""

    __slots__ = ("_dispositions", "_everything", "_mask", "_reading", "_writing")

    def __init__(self) -> None:
        self._everything = frozenset(int(number) for number in _signal.valid_signals())
        self._dispositions: dict[int, object] = {}
        self._reading, self._writing = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self._mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, self._everything)
        _signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in self._everything - _NOT_PASSED_ON:
            self._handle(number, _noted)
        for number in _IGNORED:
            self._handle(number, _signal.SIG_IGN)
        for number in _IGNORED_BY_PYTHON:
            self._dispositions[number] = _signal.SIG_DFL
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, self._everything)

    def _handle(self, number: int, handler: object) -> None:
        before = _signal.signal(number, handler)
        self._dispositions[number] = _signal.SIG_IGN if before == _signal.SIG_IGN else _signal.SIG_DFL

    def was_ignored(self, number: int) -> bool:
        """Whether the wrapper was started with the signal ignored (nohup, a job in the background)."""
        return bool(self._dispositions.get(number) == _signal.SIG_IGN)

    def fileno(self) -> int:
        """The descriptor that becomes readable when a signal came."""
        return self._reading

    def take(self) -> bytes:
        """The numbers of the signals that came since the last call, in order; SIGCHLD among them.

        What the kernel saved of the registers when they came goes: they may hold a piece of a secret.
        """
        try:
            numbers = posix.read(self._reading, _READ_SIZE)
        except BlockingIOError:
            return b""
        if extension.PRESENT:
            extension.native.wipe_leftovers()
        return numbers

    def block(self) -> None:
        """Hold all signals back, so that a fork's child cannot take one into our pipe."""
        _signal.pthread_sigmask(_signal.SIG_BLOCK, self._everything)

    def unblock(self) -> None:
        """Let signals come again."""
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, self._everything)

    def for_child(self) -> tuple[list[int], list[int], list[int]]:
        """What `restore` would set, for a child that is started without it: the signals that were blocked
        when the wrapper was started, those that were ignored, and those at their defaults.
        """
        ignored = [number for number in self._dispositions if self.was_ignored(number)]
        defaults = [number for number in self._dispositions if not self.was_ignored(number)]
        return [int(number) for number in self._mask], ignored, defaults

    def restore(self) -> None:
        """In the child: dispositions and mask as they were when the wrapper was started."""
        _signal.set_wakeup_fd(-1)
        for number, disposition in self._dispositions.items():
            _signal.signal(number, disposition)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)


def is_passed_on(number: int) -> bool:
    """Whether a signal that comes to the wrapper goes to the application's process group."""
    return number != _signal.SIGCHLD and number not in _NOT_PASSED_ON


def number_of(text: str) -> int | None:
    """The signal that `TERM`, `SIGTERM` or `15` stands for; 0 for "", None for what is none."""
    name = f"SIG{text.upper().removeprefix('SIG')}"
    if not text:
        return 0
    found = int(text) if text.isascii() and text.isdigit() and len(text) < 3 else getattr(_signal, name, None)
    is_one = isinstance(found, int) and int(found) in set(map(int, _signal.valid_signals()))
    return int(found) if is_one and found is not None else None


def _noted(number: int, frame: object) -> None:
    """The byte in the pipe is all that is needed; a handler must exist for it to be written."""
