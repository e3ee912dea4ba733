"""`cloudtaser-cli target`: everything that needs the cluster only.

Each command reads its flags, looks at the cluster with the caller's own rights, and shows what it found.
There is one module for each theme; here they become one group.
"""

from __future__ import annotations

import typer

from cloudtaser.cli.target import check, debug, explain, identity, proxy, status, validate

app = typer.Typer(help="A cluster and its pods, as its API server shows them.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for theme in (identity, check, validate, status, explain, debug, proxy):
    app.add_typer(theme.app)
