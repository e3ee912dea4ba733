"""What is asked of PID 1 at the edges: exec failures, daemons, storms, terminals, its own end."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

from cloudtaser.wrapper.child import exit_code
from tests.integration.test_wrapper_init import AS_PID_1, OnTerminal, init_of
from tests.unit.wrapper.launch import (
    PATIENCE,
    PREFIX,
    PREFIX_WITHOUT_EXTENSION,
    Wrapped,
    python,
    run,
    state_of,
    wait_for_state,
)


def test_every_exit_code_and_every_signal_comes_out_as_a_shell_would_say_it() -> None:
    assert [exit_code(code << 8) for code in range(256)] == list(range(256))
    for number in range(1, 65):
        assert exit_code(number) == 128 + number
        assert exit_code(number | 0x80) == 128 + number  # with a core file


# -- what cannot be executed


def in_a_loop(directory: Path) -> list[str]:
    (directory / "loop").symlink_to("loop")
    return [str(directory / "loop")]


def without_permission(directory: Path) -> list[str]:
    (directory / "file").write_text("#!/bin/sh\n")
    return [str(directory / "file")]


def below_a_file(directory: Path) -> list[str]:
    return ["/etc/passwd/x"]


def with_a_long_name(directory: Path) -> list[str]:
    return ["/" + "x" * 300]


def of_another_machine(directory: Path) -> list[str]:
    file = directory / "elf"
    file.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    file.chmod(0o755)
    return [str(file)]


def with_a_lost_interpreter(directory: Path) -> list[str]:
    file = directory / "script"
    file.write_text("#!/no/such/interpreter\n")
    file.chmod(0o755)
    return [str(file)]


@pytest.mark.parametrize(
    "make",
    [
        in_a_loop,
        without_permission,
        below_a_file,
        with_a_long_name,
        of_another_machine,
        with_a_lost_interpreter,
    ],
)
def test_what_cannot_be_executed_ends_as_in_a_shell_with_one_line(make: object, tmp_path: Path) -> None:
    command = make(tmp_path)  # type: ignore[operator]  # one of the above
    shell = subprocess.run(["sh", "-c", shlex.join(command)], capture_output=True, timeout=PATIENCE)
    done = run("--", *command)
    assert done.returncode == shell.returncode
    assert done.stderr.count("\n") == 1
    assert '"level":"error"' in done.stderr


def test_a_command_line_that_is_too_long_is_said_to_be(tmp_path: Path) -> None:
    """More than a quarter of the stack's limit, which the values that the wrapper adds may be."""

    def small_stack() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (512 << 10, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    words = " ".join(f'"$(head -c {size} /dev/zero | tr "\\0" x)"' for size in (100_000, 30_000))
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(PREFIX)} -- true {words}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        preexec_fn=small_stack,
    )
    assert done.returncode == 126, done.stderr
    assert "too long" in done.stderr


def test_a_busy_file_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    with program.open("r+b"):  # open for writing: ETXTBSY
        done = run("--", str(program), check_code=126)
    assert "busy" in done.stderr.lower()


# -- orphans and daemons


def test_zombies_that_were_there_before_the_wrapper_are_reaped() -> None:
    """A start script leaves dead children behind and becomes the wrapper: no signal tells of them again."""
    script = f"for i in 1 2 3; do (exit 0) & done; sleep 0.2; exec {shlex.join(PREFIX)} -- "
    code = """
import os, time
while True:
    children = open(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read().split()
    if children == [str(os.getpid())]:
        break
    time.sleep(0.02)
print("alone", flush=True)
"""
    with Wrapped(prefix=["sh", "-c", script + shlex.join(python(code)), "sh"]) as wrapped:
        assert wrapped.line() == "alone"
        assert wrapped.wait() == 0


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    mother = os.getpid()
    if os.fork() == 0:
        while os.getppid() == mother:
            time.sleep(0.01)
        print("daemon", os.getpid(), os.getppid(), flush=True)
        {then}
    os._exit(0)
os.wait()
{first}
"""


def test_outside_a_container_orphans_become_the_wrappers_children_and_are_reaped() -> None:
    code = DAEMON.format(first="time.sleep(1000)", then="os._exit(0)")
    with Wrapped(*python(code)) as wrapped:
        _, pid, parent = wrapped.line().split()
        assert int(parent) == wrapped.process.pid
        wait_for_state(int(pid), "")


def test_an_application_that_becomes_a_daemon_ends_the_wrapper_with_its_first_process() -> None:
    """As with any init. A container ends then; elsewhere the daemon lives on."""
    code = DAEMON.format(first="sys.exit(3)", then="time.sleep(1000)")
    with Wrapped(*python(code)) as wrapped:
        assert wrapped.wait() == 3
        pid = int(wrapped.line().split()[1])
        assert state_of(pid) == "S"
        os.kill(pid, signal.SIGKILL)
    with Wrapped(*python(code), prefix=[*AS_PID_1, *PREFIX]) as wrapped:
        assert wrapped.wait() == 3


@pytest.mark.slow
def test_ten_thousand_dying_orphans_are_all_reaped_and_a_signal_gets_through() -> None:
    code = """
import os, signal
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"heard\\n"))
print("ready", flush=True)
for number in range(10_000):
    if not number % 500:
        os.write(1, b"more\\n")  # at once: unbuffered, print writes line and end apart
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
while open("/proc/1/task/1/children").read().split() != [str(os.getpid())]:
    pass
print("clean", flush=True)
signal.pause()
"""
    with Wrapped(*python(code), prefix=[*AS_PID_1, *PREFIX]) as wrapped:
        assert wrapped.line() == "ready"
        init = init_of(wrapped)
        os.kill(init, signal.SIGUSR1)
        lines = set(iter(wrapped.line, "clean"))
        assert lines == {"more", "heard"}
        assert most_memory(init) < 64 << 10
        os.kill(init, signal.SIGTERM)
        assert wrapped.wait() == 128 + signal.SIGTERM


def most_memory(pid: int) -> int:
    """What a process ever had resident at once, in KiB."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0])


# -- the wrapper's own end


def test_an_application_may_be_bound_to_the_wrappers_life() -> None:
    settings = {"CLOUDTASER_PARENT_DEATH_SIGNAL": "TERM"}
    script = "trap 'echo told; exit' TERM; echo $$; while :; do sleep 0.02; done"
    with Wrapped("sh", "-c", script, settings=settings) as wrapped:
        pid = int(wrapped.line())
        wrapped.process.kill()
        assert wrapped.line() == "told"
        wait_for_state(pid, "Z" if state_of(pid) == "Z" else "")


@pytest.mark.parametrize("value", ["NOPE", "0x9", "99", "SIGSIG"])
def test_a_signal_that_is_none_is_refused(value: str) -> None:
    done = run("--", "true", settings={"CLOUDTASER_PARENT_DEATH_SIGNAL": value}, check_code=78)
    assert "CLOUDTASER_PARENT_DEATH_SIGNAL" in done.stderr


def test_without_the_extension_what_needs_it_is_refused_and_the_rest_works() -> None:
    settings = {"CLOUDTASER_PARENT_DEATH_SIGNAL": "KILL"}
    with Wrapped("true", settings=settings, prefix=PREFIX_WITHOUT_EXTENSION) as wrapped:
        assert wrapped.wait() == 78
        assert "C extension" in wrapped.log()
    with Wrapped("true", prefix=PREFIX_WITHOUT_EXTENSION) as wrapped:
        assert wrapped.wait() == 0


def test_as_pid_1_its_end_is_the_end_of_all() -> None:
    with Wrapped("sh", "-c", "setsid sleep 1000 & echo up; wait", prefix=[*AS_PID_1, *PREFIX]) as wrapped:
        assert wrapped.line() == "up"
        os.kill(init_of(wrapped), signal.SIGKILL)
        assert wrapped.wait() != 0
        assert wrapped.process.stdout is not None
        assert wrapped.process.stdout.read() == b""  # nobody is left who holds it open


# -- signals before there is an application


def test_a_signal_during_the_interpreters_start_is_not_lost() -> None:
    """SIGTERM at any moment of a start ends it: whatever the moment, nothing is left running."""
    for pause in (0.0, 0.01, 0.02, 0.03, 0.05, 0.08):
        with Wrapped("sh", "-c", "exec sleep 1000") as wrapped:
            time.sleep(pause)
            wrapped.signal(signal.SIGTERM)
            assert wrapped.wait() in (128 + signal.SIGTERM, -signal.SIGTERM)


# -- terminals


@pytest.fixture
def terminals() -> Iterator[list[OnTerminal]]:
    opened: list[OnTerminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def test_a_window_that_changes_its_size_tells_the_application(terminals: list[OnTerminal]) -> None:
    code = """
import os, signal, time
signal.signal(signal.SIGWINCH, lambda *_: print("size", *os.get_terminal_size(0), flush=True))
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""
    terminal = OnTerminal([*PREFIX, "--", *python(code)])
    terminals.append(terminal)
    terminal.until("ready")
    ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    terminal.until("size 101 33")


def test_a_job_of_the_application_that_reads_in_the_background_stops_alone(
    terminals: list[OnTerminal],
) -> None:
    """Job control inside the application is its own: neither it nor the wrapper stops with the job."""
    terminal = OnTerminal([*PREFIX, "--", "/bin/bash", "--norc", "--noprofile", "-i"])
    terminals.append(terminal)
    terminal.write("stty -echo; echo shell-''up\n")
    terminal.until("shell-up")
    terminal.write("cat & wait -n 2>/dev/null; echo go''on; jobs\n")
    terminal.until("goon")
    terminal.until("Stopped")
    terminal.write("kill %1; fg; echo inner-''alive; exit 7\n")
    terminal.until("inner-alive")
    assert terminal.wait() == 7


def test_ctrl_backslash_and_hang_up_reach_the_application(terminals: list[OnTerminal]) -> None:
    script = "trap 'echo quit' QUIT; trap 'exit 9' HUP; echo ready; while :; do sleep 0.05; done"
    terminal = OnTerminal([*PREFIX, "--", "sh", "-c", script])
    terminals.append(terminal)
    terminal.until("ready")
    terminal.write("\x1c")
    terminal.until("quit")
    os.kill(terminal.pid, signal.SIGHUP)
    assert terminal.wait() == 9


def test_a_start_in_the_background_takes_no_terminal_from_the_shell(terminals: list[OnTerminal]) -> None:
    terminal = OnTerminal(["/bin/bash", "--norc", "--noprofile", "-i"])
    terminals.append(terminal)
    terminal.write("stty -echo; echo shell-''up\n")
    terminal.until("shell-up")
    terminal.write(f"{shlex.join(PREFIX)} -- sh -c 'echo in-the-back; sleep 0.3' &\n")
    terminal.until("in-the-back")
    terminal.write("wait; echo code-$?\n")
    terminal.until("code-0")
