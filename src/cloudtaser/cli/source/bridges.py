"""`source bridge-token`: what bridges need of an administrator."""

from __future__ import annotations

from typing import Annotated

import typer

from cloudtaser.cli.output import actions_data, actions_text
from cloudtaser.cli.session import Session, command
from cloudtaser.cli.source.flags import DryRun, example

app = typer.Typer(rich_markup_mode=None)


@app.command("bridge-token", epilog=example("bridge-token --id eu-1 --cidr 10.1.2.3/32"))
@command
async def bridge_token(
    session: Session,
    bridge_id: Annotated[str, typer.Option("--id", help="The bridge's own name.")] = "bridge",
    cidr: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK", help="Network the bridge calls from; may repeat; any without it."),
    ] = None,
    cluster: Annotated[
        list[str] | None,
        typer.Option(metavar="FINGERPRINT", help="Fingerprint it may serve; may repeat; all without it."),
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="The second token, with which it stores what is migrated.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Make a bridge's token and print it, once.

    The token lives an hour beyond its last renewal, which the bridge sees to, and can be used from the
    given networks alone. Each bridge needs an --id and a token of its own. Running it again makes one
    more token and ends none: an earlier one ends within the hour once its bridge stops.

    With --admin it is the second token, with which a bridge stores what administrators migrate; it can
    neither read nor overwrite a value. Where a token in a file will not do, see `source bridge-login`.
    """
    from cloudtaser.openbao.admin_token import make_admin_token
    from cloudtaser.openbao.bridge_token import make_bridge_token

    make = make_admin_token if admin else make_bridge_token
    async with session.connect() as client:
        made = await make(client, bridge_id, cidrs=cidr or (), clusters=cluster or (), dry_run=dry_run)
    token = made.token.reveal_text()
    data = {
        "id": made.bridge_id,
        "token": token,
        "accessor": made.accessor,
        "policies": list(made.policies),
        "cidrs": list(made.cidrs),
        "period": made.period,
        "dry_run": dry_run,
        "actions": actions_data(made.actions),
    }
    if dry_run:
        text = ["Would make a token:", *actions_text(made.actions, dry_run=True)]
    else:
        text = [token]
        origin = ", ".join(made.cidrs) or "any address"
        which = "admin token" if admin else "token"
        session.printer.note(
            f"The {which} of bridge {made.bridge_id}, shown once: valid from {origin}, for "
            f"{made.period // 60} minutes beyond its last renewal, which the bridge sees to."
        )
    session.printer.answer(data, text=text, value=[token] if token else [])
