"""Completion as a person has it: the real shells, the printed scripts, the Tab key."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
DEADLINE = 30.0
WORDS = [
    ("cloudtaser-cli sou", "source"),
    ("cloudtaser-cli source reg", "register"),
    ("cloudtaser-cli source register --join", "--join-code"),
    ("cloudtaser-cli source list --output y", "yaml"),
    ("cloudtaser source deny --serv", "--serviceaccount"),
]


def shell(*arguments: str) -> list[str]:
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": "/nonexistent"}
    environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, check=True, timeout=DEADLINE
    )
    assert done.stderr == ""
    return done.stdout.split("\n")


@pytest.mark.parametrize(("line", "word"), WORDS)
def test_bash_completes(line: str, word: str) -> None:
    program = line.split()[0]
    script = (
        'eval "$(cloudtaser-cli completion bash)"; line=$1; COMP_WORDS=($line); '
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); spec=$(complete -p "$2"); '
        'function=${spec#*-F }; ${function%% *} "$2"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert word in shell("bash", "--norc", "-c", script, "bash", line, program)


@pytest.mark.parametrize(("line", "word"), WORDS)
def test_fish_completes(line: str, word: str) -> None:
    script = 'cloudtaser-cli completion fish | source; complete --do-complete "$argv[1]"'
    offered = [given.split("\t")[0] for given in shell("fish", "--no-config", "-c", script, line)]
    assert word in offered


def test_kubectl_is_told_the_words_and_to_offer_no_files() -> None:
    program = str(BIN / "kubectl_complete-cloudtaser")
    assert shell(program, "source", "reg") == ["register", ":4", ""]
    assert shell(program, "source", "list", "--output", "")[:3] == ["table", "json", "yaml"]


class Terminal:
    """A zsh on a pseudo terminal, without anybody's configuration."""

    def __init__(self) -> None:
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "HOME": "/nonexistent"}
            environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
            os.execvpe("zsh", ["zsh", "-f", "-i"], environment)
        self._seen = ""

    def type(self, text: str) -> None:
        """Press these keys."""
        self._seen = ""
        os.write(self._descriptor, text.encode())

    def wait_for(self, text: str) -> None:
        """Read the screen until `text` stands there."""
        deadline = time.monotonic() + DEADLINE
        while text not in self._seen:
            left = deadline - time.monotonic()
            assert left > 0, self._seen
            if select.select([self._descriptor], [], [], left)[0]:
                self._seen += os.read(self._descriptor, 65_536).decode(errors="replace")

    def close(self) -> None:
        os.close(self._descriptor)
        os.waitpid(self._pid, 0)


@pytest.fixture
def zsh() -> Iterator[Terminal]:
    terminal = Terminal()
    try:
        terminal.type('PS1="read""y> "; autoload -Uz compinit; compinit -u -D\n')
        terminal.wait_for("ready> ")
        terminal.type('eval "$(cloudtaser-cli completion zsh)"; echo lo""aded\n')
        terminal.wait_for("loaded")
        yield terminal
    finally:
        terminal.close()


def test_zsh_completes(zsh: Terminal) -> None:
    for line, word in WORDS:
        zsh.type(f"\x15{line}\t")  # empty the line, type, Tab
        zsh.wait_for(f"{line.rsplit(' ', 1)[0]} {word}")
