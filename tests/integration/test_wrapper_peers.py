"""The wrapper beside tini and dumb-init: one script under each, and what it sees and leaves must be the same.

Where the three differ, the table says what each does, so that a difference is a decision.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_wrapper_init import AS_PID_1
from tests.unit.wrapper.launch import ALL_SIGNALS, PATIENCE, PREFIX, Wrapped, python, wait_for_state


def peer(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed; tools/prepare test installs it"
    return found


def inits() -> dict[str, list[str]]:
    """Each init as PID 1 of a namespace of its own, but for the command."""
    return {"wrapper": PREFIX, "tini": [peer("tini"), "-g"], "dumb-init": [peer("dumb-init")]}


NAMES = ("wrapper", "tini", "dumb-init")


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -SEGV $$", 139),
        ("kill -ABRT $$", 134),
        ("kill -HUP $$", 129),
        ("(exit 3) & wait $!", 3),
        ("sleep 5 & exit 4", 4),  # what the application leaves behind holds up nothing
        ("(sleep 5 &) ; exit 5", 5),
        ("setsid sleep 5 & exit 6", 6),
        ("exec false", 1),
        ("exec no-such-command", 127),
    ],
)
@pytest.mark.parametrize("pid_1", [False, True], ids=["", "pid1"])
def test_the_exit_code_is_the_same(script: str, code: int, pid_1: bool) -> None:
    for name, command in inits().items():
        argv = [*(AS_PID_1 if pid_1 else []), *command, "--", "sh", "-c", script]
        # no pipe: what is left behind would keep it open
        done = subprocess.run(argv, timeout=PATIENCE, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        assert done.returncode == code, name


RECORDER = """
import os, signal
numbers = [int(n) for n in signal.valid_signals()]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", flush=True)
while True:
    number = int(signal.sigwait(numbers))
    if number != signal.SIGCHLD:
        print(number, flush=True)
    if number == signal.SIGTERM:
        break
"""
# what each does not pass on, of the signals from 1 to 31
KEPT = {
    # faults of the wrapper's own, the terminal's, and the broken pipe and full disk of its own log
    "wrapper": {"ILL", "TRAP", "BUS", "FPE", "SEGV", "PIPE", "CHLD", "TTIN", "TTOU", "XFSZ", "SYS"},
    "tini": {"ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "CHLD", "TTIN", "TTOU", "SYS"},
    # it stops itself at those of the terminal, and passes SIGSTOP on in their place
    "dumb-init": {"CHLD", "TSTP", "TTIN", "TTOU"},
}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_signals_arrive(name: str) -> None:
    kept = {int(signal.Signals[f"SIG{short}"]) for short in KEPT[name]}
    passed = [number for number in ALL_SIGNALS if number < 32 and number not in kept | {9, 15, 19}]
    with Wrapped(*python(RECORDER), prefix=inits()[name]) as wrapped:
        assert wrapped.line() == "ready"
        for number in passed:
            wrapped.signal(number)
            assert wrapped.line() == str(number)
        wrapped.signal(signal.SIGTERM)
        assert wrapped.line() == "15"
        assert wrapped.wait() == 0


def test_nobody_keeps_a_signal_that_both_peers_pass_on_but_the_wrapper_for_a_reason() -> None:
    only_ours = KEPT["wrapper"] - KEPT["tini"] - KEPT["dumb-init"]
    assert only_ours == {"PIPE", "XFSZ"}


@pytest.mark.parametrize("name", NAMES)
def test_a_group_is_reached_as_a_whole(name: str) -> None:
    child = "trap 'echo child; exit' TERM; echo up; while :; do sleep 0.05; done"
    script = f"trap 'echo parent; wait; exit 7' TERM; sh -c \"{child}\" & wait"
    with Wrapped("sh", "-c", script, prefix=inits()[name]) as wrapped:
        assert wrapped.line() == "up"
        wrapped.signal(signal.SIGTERM)
        assert {wrapped.line(), wrapped.line()} == {"parent", "child"}
        assert wrapped.wait() == 7


ORPHANS = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        os.fork()
        os._exit(0)
    os.wait()
while True:
    left = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            left += open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            pass
    if not left:
        break
    time.sleep(0.02)
print("clean", flush=True)
"""


@pytest.mark.parametrize("name", NAMES)
def test_orphans_are_reaped(name: str) -> None:
    with Wrapped(*python(ORPHANS), prefix=[*AS_PID_1, *inits()[name]]) as wrapped:
        assert wrapped.line() == "clean"
        assert wrapped.wait() == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_application_starts_with_default_signals_and_an_empty_mask(name: str, tmp_path: Path) -> None:
    grep = ("grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status")
    starter = f"""
import os, signal
for number in signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP}}:
    signal.signal(number, signal.SIG_DFL)
os.execv({inits()[name][0]!r}, {[*inits()[name], "--", *grep]!r})
"""
    done = subprocess.run([sys.executable, "-c", starter], capture_output=True, text=True, timeout=PATIENCE)
    lines = dict(line.split(":\t") for line in done.stdout.splitlines())
    ours = sum(1 << (number - 1) for number in signal.valid_signals())
    assert int(lines["SigBlk"], 16) & ours == 0
    assert int(lines["SigIgn"], 16) & ours == 0


@pytest.mark.parametrize("name", ["wrapper", "tini"])
def test_a_stopped_application_is_continued(name: str) -> None:
    """dumb-init stops itself too, which PID 1 cannot."""
    with Wrapped("sh", "-c", "echo $$; exec sleep 1000", prefix=inits()[name]) as wrapped:
        pid = int(wrapped.line())
        wrapped.signal(signal.SIGTSTP)
        wait_for_state(pid, "T")
        wrapped.signal(signal.SIGCONT)
        wait_for_state(pid, "S")
        wrapped.signal(signal.SIGTERM)
        assert wrapped.wait() == 128 + signal.SIGTERM
