"""The application's process group at a restart, with real processes: grace for all of it, never two."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.unit.wrapper.launch import SOURCE, Wrapped, python, state_of, wait_for_state

# The wrapper's own supervision, with values that change when it is sent SIGUSR2: no server is needed.
ROTATES_ON_SIGUSR2 = """
import sys; sys.path.insert(0, {source!r})
import _signal, posix
from cloudtaser.wrapper.buffers import span_of
from cloudtaser.wrapper.child import Application
from cloudtaser.wrapper.delivery import Values
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import Loop
from cloudtaser.wrapper.signals import Signals
from cloudtaser.wrapper.supervision import Supervision
from cloudtaser.wrapper.supervisor import Supervisor

class Rotating(Supervision):
    round = 1
    def signal(self, number, *, ignored=False):
        if number != _signal.SIGUSR2:
            return super().signal(number, ignored=ignored)
        self.round += 1
        return self.values(Values({{"ROUND": span_of(b"%d" % self.round)}}), loop.now())

signals, log, loop = Signals(), Log(), Loop()
application = Application([word.encode() for word in sys.argv[1:]], None, signals, log)
supervisor = Supervisor(
    loop, signals, application, Rotating(grace={grace}, probation={probation}),
    lambda values: values.environment(dict(posix.environ), override=True), log,
)
supervising = supervisor.task = loop.spawn(supervisor.run())
supervisor.deliver(Values({{"ROUND": span_of(b"1")}}))
posix._exit(loop.run(supervising))
"""


def rotating(*command: str, grace: float = 30, probation: float = 30) -> Wrapped:
    """`command` under a supervisor that restarts it with another ROUND at SIGUSR2."""
    code = ROTATES_ON_SIGUSR2.format(source=str(SOURCE), grace=grace, probation=probation)
    return Wrapped(*command[1:], prefix=[sys.executable, "-I", "-S", "-c", code, command[0]])


# A shell that is gone at the first SIGTERM, and the server that it started, which still has something to do.
SHELL = "echo round $ROUND; [ $ROUND = 1 ] || exec sleep 1000; {server} & echo server $!; wait"
DRAINS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
print("serving", flush=True)
signal.sigwait([signal.SIGTERM])
print("draining", flush=True)
signal.sigwait([signal.SIGUSR1])
print("drained", flush=True)
"""
DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
signal.pause()
"""


def shell(tmp_path: Path, server: str) -> list[str]:
    file = tmp_path / "server.py"
    file.write_text(server)
    command = SHELL.format(server=f"{sys.executable} -I -S {file}")
    return ["env", "sh", "-c", command]


def test_the_whole_group_has_the_grace_before_the_next_start(tmp_path: Path) -> None:
    with rotating(*shell(tmp_path, DRAINS)) as wrapped:
        assert wrapped.line() == "round 1"
        server = int(wrapped.line().removeprefix("server "))
        assert wrapped.line() == "serving"
        wrapped.signal(signal.SIGUSR2)
        assert wrapped.line() == "draining"  # the shell is gone or will be, and nothing was started
        os.kill(server, signal.SIGUSR1)
        assert wrapped.line() == "drained"
        assert wrapped.line() == "round 2"
        assert state_of(server) in ("", "Z")


def test_what_is_left_of_the_group_after_the_grace_is_killed(tmp_path: Path) -> None:
    with rotating(*shell(tmp_path, DEAF), grace=0.2) as wrapped:
        assert wrapped.line() == "round 1"
        server = int(wrapped.line().removeprefix("server "))
        assert wrapped.line() == "deaf"
        wrapped.signal(signal.SIGUSR2)
        assert wrapped.line() == "round 2"
        wait_for_state(server, "Z" if state_of(server) == "Z" else "")
        assert "left behind did not stop" in str(wrapped.event("did not stop")["event"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_shutdown_while_the_group_has_its_grace_ends_it_at_once(tmp_path: Path, number: int) -> None:
    with rotating(*shell(tmp_path, DRAINS)) as wrapped:
        assert wrapped.line() == "round 1"
        server = int(wrapped.line().removeprefix("server "))
        assert wrapped.line() == "serving"
        shell_pid = os.getpgid(server)
        wrapped.signal(signal.SIGUSR2)
        assert wrapped.line() == "draining"
        wait_for_state(shell_pid, "")  # reaped
        wrapped.signal(number)
        assert wrapped.wait() == 128 + signal.SIGTERM
        os.kill(server, signal.SIGKILL)


def test_a_signal_between_two_lives_goes_to_no_stranger_and_the_next_life_begins() -> None:
    code = "import os, signal; print(os.environ['ROUND'], flush=True); signal.pause()"
    with rotating("env", *python(code), grace=30) as wrapped:
        assert wrapped.line() == "1"
        wrapped.signal(signal.SIGUSR2)
        wrapped.signal(signal.SIGWINCH)
        assert wrapped.line() == "2"


def test_a_stopped_application_is_restarted_all_the_same() -> None:
    code = "import os, signal; print(os.environ['ROUND'], os.getpid(), flush=True); signal.pause()"
    with rotating("env", *python(code)) as wrapped:
        _, pid = wrapped.line().split()
        os.kill(int(pid), signal.SIGSTOP)
        wait_for_state(int(pid), "T")
        wrapped.signal(signal.SIGUSR2)
        assert wrapped.line().startswith("2 ")
