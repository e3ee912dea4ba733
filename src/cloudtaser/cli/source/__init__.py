"""`cloudtaser-cli source`: everything that needs OpenBao only.

Each command reads its flags, calls one function of `cloudtaser.openbao`, and shows what came of it. There is
one module for each theme; here they become one group.
"""

from __future__ import annotations

import typer

from cloudtaser.cli.source import (
    bridges,
    grants,
    lifecycle,
    logins,
    pairs,
    registration,
    rotation,
    status,
    suspension,
)

app = typer.Typer(help="Clusters, grants and bridges, as OpenBao knows them.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for theme in (registration, rotation, suspension, lifecycle, status, grants, bridges, logins, pairs):
    app.add_typer(theme.app)
