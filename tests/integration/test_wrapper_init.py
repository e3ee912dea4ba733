"""The wrapper as init, with real processes: signals, groups, terminals, reaping, exit codes."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtaser.version import VERSION
from cloudtaser.wrapper.signals import is_passed_on
from tests.unit.wrapper.launch import (
    ALL_SIGNALS,
    PATIENCE,
    PREFIX,
    Wrapped,
    run,
    state_of,
    wait_for_state,
)

# As in a container: the wrapper is PID 1 of a PID namespace.
AS_PID_1 = [
    "unshare",
    *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]),
    *("--pid", "--fork", "--mount-proc", "--kill-child"),
]


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_it_exits_as_the_command_does(code: int) -> None:
    assert run("--", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE])
def test_a_command_that_dies_of_a_signal_gives_128_and_the_signal(number: int) -> None:
    assert run("--", "sh", "-c", f"kill -{int(number)} $$").returncode == 128 + number


def test_the_separator_may_be_left_out() -> None:
    assert run("sh", "-c", "exit 3").returncode == 3


def test_help_and_version_are_short() -> None:
    assert run("--version", check_code=0).stdout == f"cloudtaser-wrapper {VERSION}\n"
    assert run("--help", check_code=0).stdout.startswith("usage: cloudtaser-wrapper [--] CMD")
    for arguments in ([], ["--"], ["--frobnicate"]):
        refused = run(*arguments, check_code=64)
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [("no-such-command", 127), ("/no/such/file", 127), ("", 127), ("/etc", 126), ("/etc/passwd", 126)],
)
def test_what_cannot_be_started_exits_as_in_a_shell(command: str, code: int) -> None:
    done = run("--", command, check_code=code)
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stderr)["code"] == code


def test_a_script_without_a_first_line_is_run_by_the_shell(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('echo "ran $1"; exit 5\n')
    script.chmod(0o755)
    done = run("--", str(script), "as a script", check_code=5)
    assert done.stdout == "ran as a script\n"


@pytest.mark.parametrize(
    ("content", "code"), [(b"\x7fELF\0\0not a program", 126), (b"#!/no/such/interpreter\n", 127)]
)
def test_a_file_that_the_kernel_will_not_run_is_refused(tmp_path: Path, content: bytes, code: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    file.chmod(0o755)
    assert run("--", str(file)).returncode == code


def test_arguments_directory_umask_and_environment_are_those_of_the_wrapper(tmp_path: Path) -> None:
    code = (
        "import os, sys, json; "
        "mask = os.umask(0); "
        "print(json.dumps([sys.argv[1:], os.getcwd(), mask, sorted(os.environ)]))"
    )
    odd = ["", "a b", "ünï", "--version", "--"]
    before = os.umask(0o031)
    try:
        done = subprocess.run(
            [*PREFIX, "--", sys.executable, "-c", code, *odd],
            cwd=tmp_path,
            env={
                "PATH": "/bin",
                "LC_ALL": "C.UTF-8",
                "VAULT_ADDR": "its own",
                "CLOUDTASER_LOG_LEVEL": "info",
            },
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [odd, str(tmp_path), 0o031, ["LC_ALL", "PATH", "VAULT_ADDR"]]


def test_the_interpreters_own_locale_variable_does_not_reach_the_command() -> None:
    done = subprocess.run(
        [*PREFIX, "--", "/usr/bin/env"], env={}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == ""


def test_no_descriptor_of_the_wrapper_leaks_and_inherited_ones_stay() -> None:
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [
                *PREFIX,
                "--",
                sys.executable,
                "-c",
                "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd')))",
            ],
            pass_fds=[writing],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        os.close(reading)
        os.close(writing)
    seen = set(json.loads(done.stdout))
    assert {0, 1, 2, writing} <= seen
    assert len(seen) == 5  # and the one through which the directory is listed


def test_closed_standard_descriptors_stay_closed() -> None:
    shell = f"exec {shlex.join([*PREFIX, '--', 'ls', '/proc/self/fd'])} 0<&- 2>&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=PATIENCE)
    # ls itself opens the directory under the lowest free number.
    assert done.stdout.split() == ["0", "1"]


def test_dispositions_and_mask_are_those_the_wrapper_was_started_with() -> None:
    # SIGUSR1 ignored and SIGUSR2 blocked by whoever starts the wrapper; SIGPIPE and SIGXFSZ at their
    # defaults.
    starter = textwrap.dedent(
        f"""
        import os, signal
        for number in signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP}}:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR2])
        os.execv({PREFIX[0]!r}, {[*PREFIX, "--", "grep", "-E", "SigIgn|SigBlk", "/proc/self/status"]!r})
        """
    )
    done = subprocess.run([sys.executable, "-c", starter], capture_output=True, text=True, timeout=PATIENCE)
    lines = dict(line.split(":\t") for line in done.stdout.splitlines())
    # 32 and 33 are the C library's own, which no program may set; make starts its commands with them ignored
    ours = sum(1 << (number - 1) for number in signal.valid_signals())
    assert int(lines["SigIgn"], 16) & ours == 1 << (signal.SIGUSR1 - 1)
    assert int(lines["SigBlk"], 16) == 1 << (signal.SIGUSR2 - 1)


SIGNAL_RECORDER = """
import os, signal, sys
numbers = [int(n) for n in signal.valid_signals()]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", os.getpid(), os.getppid(), os.getpgrp(), flush=True)
while True:
    number = signal.sigwait(numbers)
    print(int(number), flush=True)
    if number == signal.SIGTERM:
        break
"""


def recorder() -> list[str]:
    return [sys.executable, "-u", "-c", SIGNAL_RECORDER]


def test_every_signal_that_can_be_passed_on_is_passed_on() -> None:
    passed = [number for number in ALL_SIGNALS if is_passed_on(number) and number != signal.SIGTERM]
    assert len(passed) > 45
    with Wrapped(*recorder()) as wrapped:
        assert wrapped.line().startswith("ready")
        for number in passed:
            wrapped.signal(number)
            assert wrapped.line() == str(number)
        wrapped.signal(signal.SIGTERM)
        assert wrapped.line() == str(int(signal.SIGTERM))
        assert wrapped.wait() == 0


def test_queued_signals_are_passed_on_in_their_number() -> None:
    realtime = int(signal.SIGRTMIN) + 3
    with Wrapped(*recorder()) as wrapped:
        assert wrapped.line().startswith("ready")
        for _ in range(20):
            wrapped.signal(realtime)
            assert wrapped.line() == str(realtime)
        wrapped.signal(signal.SIGTERM)


LEAVES_ITS_GROUP = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    os.close(writing)
    os.read(reading, 1)  # until the parent is gone
    os._exit(0)
os.setpgid(child, child)
os.setpgid(0, child)
print("left", flush=True)
while True:
    time.sleep(1)
"""


def test_an_application_that_left_its_group_is_reached_all_the_same() -> None:
    with Wrapped(sys.executable, "-u", "-c", LEAVES_ITS_GROUP) as wrapped:
        assert wrapped.line() == "left"
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 5


def test_a_nameless_variable_does_not_keep_the_command_from_starting() -> None:
    exec_with = textwrap.dedent(
        f"""
        import ctypes
        argv = {[*PREFIX, "--", "env"]!r}
        words = (ctypes.c_char_p * (len(argv) + 1))(*map(str.encode, argv), None)
        environ = (ctypes.c_char_p * 4)(b"PATH={os.environ["PATH"]}", b"=x=y", b"bare", None)
        ctypes.CDLL(None).execve(words[0], words, environ)
        """
    )
    done = subprocess.run([sys.executable, "-c", exec_with], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"PATH={os.environ['PATH']}\n"


def test_signals_reach_the_whole_process_group() -> None:
    with Wrapped("sh", "-c", "sleep 1000 & echo $! $$; wait") as wrapped:
        sleeper, shell = map(int, wrapped.line().split())
        assert os.getpgid(sleeper) == shell != os.getpgid(wrapped.process.pid)
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 128 + signal.SIGTERM
        wait_for_state(sleeper, "Z" if state_of(sleeper) == "Z" else "")


def test_a_stopped_application_is_continued() -> None:
    with Wrapped("sh", "-c", "echo $$; exec sleep 1000") as wrapped:
        pid = int(wrapped.line())
        wrapped.signal(signal.SIGTSTP)
        wait_for_state(pid, "T")
        assert state_of(wrapped.process.pid) in "SR"
        wrapped.signal(signal.SIGCONT)
        wait_for_state(pid, "S")
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 128 + signal.SIGTERM


ORPHANS = """
import os, sys, time

def parent_of(pid):
    try:
        return open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()[1]
    except OSError:
        return ""

for _ in range({count}):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.05)
        os._exit(0)
    os.wait()
print("orphaned", flush=True)
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    if [parent_of(pid) for pid in os.listdir("/proc") if pid.isdigit()].count("1") == 1:
        print("reaped", flush=True)  # nobody but this process is a child of the wrapper
        sys.exit(9)
    time.sleep(0.02)
sys.exit(1)
"""


@pytest.mark.parametrize("count", [3, 600])
def test_as_pid_1_it_reaps_orphans(count: int) -> None:
    with Wrapped(
        sys.executable,
        "-u",
        "-c",
        ORPHANS.format(count=count),
        prefix=[*AS_PID_1, *PREFIX],
    ) as wrapped:
        assert wrapped.line() == "orphaned"
        assert wrapped.line() == "reaped"
        assert wrapped.wait() == 9


def init_of(wrapped: Wrapped) -> int:
    """The wrapper's own process id, seen from outside its namespace."""
    pid = wrapped.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


STORM = """
import os, signal, sys
stop = []
signal.signal(signal.SIGUSR1, lambda *_: stop.append(1))
print("ready", flush=True)
made = 0
while not stop:
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
    made += 1
print("stopped", flush=True)
"""


def test_a_storm_of_dying_children_does_not_hold_up_a_signal() -> None:
    with Wrapped(sys.executable, "-u", "-c", STORM, prefix=[*AS_PID_1, *PREFIX]) as wrapped:
        assert wrapped.line() == "ready"
        children = (
            Path(f"/proc/{wrapped.process.pid}/task/{wrapped.process.pid}/children").read_text().split()
        )
        os.kill(int(children[0]), signal.SIGUSR1)
        assert wrapped.line() == "stopped"
        assert wrapped.wait() == 0


def test_as_pid_1_a_first_signal_works_and_the_rest_of_the_container_ends_with_it() -> None:
    with Wrapped(
        "sh",
        "-c",
        "trap 'exit 33' TERM; echo ready; while :; do sleep 0.05; done",
        prefix=[*AS_PID_1, *PREFIX],
    ) as wrapped:
        assert wrapped.line() == "ready"
        children = (
            Path(f"/proc/{wrapped.process.pid}/task/{wrapped.process.pid}/children").read_text().split()
        )
        os.kill(int(children[0]), signal.SIGTERM)
        assert wrapped.wait() == 33


def test_a_wrapper_that_is_killed_leaves_the_application_running() -> None:
    with Wrapped("sh", "-c", "echo $$; exec sleep 1000") as wrapped:
        pid = int(wrapped.line())
        wrapped.process.kill()
        wrapped.wait()
        wait_for_state(pid, "S")
        os.kill(pid, signal.SIGKILL)


class OnTerminal:
    """A session with a terminal of its own, and what was written to it."""

    def __init__(self, argv: list[str], environment: dict[str, str] | None = None) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            for number in (signal.SIGINT, signal.SIGQUIT):  # ignored where the tests run in the background
                signal.signal(number, signal.SIG_DFL)
            os.execve(
                argv[0], argv, {"PATH": os.environ["PATH"], "PS1": "", "TERM": "dumb", **(environment or {})}
            )
        self.seen = ""

    def until(self, text: str) -> str:
        """Read until `text` appears; what came before it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} not in {self.seen!r}"
            self.seen += os.read(self.fd, 4096).decode()
        before, _, self.seen = self.seen.partition(text)
        return before

    def write(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait(self) -> int:
        while True:
            try:
                if not os.read(self.fd, 4096):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        os.close(self.fd)
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@pytest.fixture
def terminals() -> Iterator[list[OnTerminal]]:
    opened: list[OnTerminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def test_on_a_terminal_the_application_is_in_the_foreground(terminals: list[OnTerminal]) -> None:
    terminal = OnTerminal(
        [*PREFIX, "--", "sh", "-c", 'read line; echo "got <$line>"; ps -o stat= -p $$; exit 4']
    )
    terminals.append(terminal)
    terminal.write("typed\n")
    terminal.until("got <typed>")
    terminal.until("+")
    assert terminal.wait() == 4


def test_ctrl_c_reaches_the_application_and_not_the_wrapper(terminals: list[OnTerminal]) -> None:
    script = "trap 'echo interrupted; exit 6' INT; echo ready; while :; do sleep 0.05; done"
    terminal = OnTerminal([*PREFIX, "--", "sh", "-c", script])
    terminals.append(terminal)
    terminal.until("ready")
    terminal.write("\x03")
    terminal.until("interrupted")
    assert terminal.wait() == 6


def test_ctrl_z_has_no_effect_where_no_shell_could_resume(terminals: list[OnTerminal]) -> None:
    terminal = OnTerminal([*PREFIX, "--", "sh", "-c", "echo ready; read line; echo still $line; exit 0"])
    terminals.append(terminal)
    terminal.until("ready")
    terminal.write("\x1a")
    terminal.write("here\n")
    terminal.until("still here")
    assert terminal.wait() == 0


def test_a_shell_stops_and_resumes_it_as_any_job(terminals: list[OnTerminal], tmp_path: Path) -> None:
    inner = tmp_path / "inner.sh"
    inner.write_text('echo "inner ready"; read line; echo "resumed $line"; exit 8\n')
    launcher = tmp_path / "wrapped"
    launcher.write_text(f"#!/bin/sh\nexec {shlex.join(PREFIX)} -- sh {inner}\n")
    launcher.chmod(0o755)
    terminal = OnTerminal(["/bin/bash", "--norc", "--noprofile", "-i"])
    terminals.append(terminal)
    terminal.write("stty -echo; echo shell-''up\n")
    terminal.until("shell-up")
    terminal.write(f"{launcher}\n")
    terminal.until("inner ready")
    terminal.write("\x1a")
    terminal.until("Stopped")
    terminal.write("echo at-''prompt; fg\n")
    terminal.until("at-prompt")
    terminal.write("again\n")
    terminal.until("resumed again")
    terminal.write("echo code=$?\n")
    terminal.until("code=8")
    terminal.write("exit\n")
