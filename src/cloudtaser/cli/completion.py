"""Completion: the words that a shell offers behind `cloudtaser-cli`, in bash, zsh, fish and behind kubectl.

`completion` prints a script for the shell, which asks this program at each Tab. `kubectl` is the program
`kubectl_complete-cloudtaser`, by which kubectl asks for its plugin (Kubernetes, "Extend kubectl with
plugins", shell completion). The work is typer's.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from enum import StrEnum
from typing import Annotated, Final

import typer
from typer.completion import (  # type: ignore[attr-defined]  # typer's own users import them from here
    completion_init,
    get_completion_script,
)

NAMES: Final = ("cloudtaser-cli", "cloudtaser")
"""The names under which the program is installed and completes."""
VARIABLE: Final = "_CLOUDTASER_CLI_COMPLETE"
"""By which a shell's script asks; typer derives it from the program's first name."""
_NO_FILES: Final = 4
"""What kubectl is told: offer these words and no file names (cobra, ShellCompDirectiveNoFileComp)."""


class Shell(StrEnum):
    """The shells there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell to print it for.", show_default=False)],
) -> None:
    """Print a script that completes commands and flags.

    Have the shell read it at its start: `eval "$(cloudtaser-cli completion bash)"` in ~/.bashrc; the same
    with zsh in ~/.zshrc, behind compinit; `cloudtaser-cli completion fish | source` in fish's config.fish.
    For `kubectl cloudtaser`, kubectl's own completion is enough.
    """
    for name in NAMES:
        typer.echo(get_completion_script(prog_name=name, complete_var=VARIABLE, shell=shell.value))


def kubectl() -> int:
    """`kubectl_complete-cloudtaser WORD…`: what may stand for the last of the words, one a line."""
    from cloudtaser.cli.app import main

    words = sys.argv[1:] or [""]
    os.environ[VARIABLE] = "complete_bash"
    os.environ["COMP_WORDS"] = shlex.join([NAMES[0], *words[:-1]]) + f" {words[-1]}"
    os.environ["COMP_CWORD"] = str(len(words))
    with contextlib.suppress(SystemExit):
        main([])
    typer.echo(f":{_NO_FILES}")
    return 0


def prepare() -> None:
    """Teach typer the shells; called once before the program runs."""
    if VARIABLE in os.environ:
        completion_init()
