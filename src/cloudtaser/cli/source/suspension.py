"""`source suspend | resume`: the break-glass, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cloudtaser.cli.output import actions_data, actions_text
from cloudtaser.cli.session import Session, command
from cloudtaser.cli.source.flags import (
    EXAMPLE,
    DryRun,
    Fingerprint,
    HiddenFingerprint,
    example,
    the_fingerprint,
)
from cloudtaser.errors import DiffersError

if TYPE_CHECKING:
    from cloudtaser.openbao.suspension import Suspension

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog=example(f"suspend {EXAMPLE}", differs="if a lease could not be revoked yet"))
@command
async def suspend(
    session: Session,
    argument: Fingerprint = "",
    fingerprint: HiddenFingerprint = "",
    dry_run: DryRun = False,
) -> None:
    """Break the glass: end tunnels, logins, tokens and leases. One cluster's; others notice nothing.

    The registration says so first, and bridges close the tunnels within six seconds. Then OpenBao
    accepts no login of the cluster any more, and all that was issued there is revoked. What cannot be
    revoked at once, such as a login at a database that does not answer, is named, and OpenBao goes on
    trying: run it again to look.

    Applications run on and keep what they have read: change those secrets. Secrets, grants and CAs
    stay. The way back is `source resume`.
    """
    from cloudtaser.openbao.suspension import suspend as run

    async with session.connect() as client:
        result = await run(client, the_fingerprint(argument, fingerprint), dry_run=dry_run)
    _show(session, result, "Would suspend the cluster:" if dry_run else "Suspended the cluster:", dry_run)
    if not dry_run:
        session.printer.note(
            "Bridges close its tunnels within seconds; applications keep what they have read. "
            f"The way back:\n  cloudtaser-cli source resume {result.fingerprint}"
        )
    if result.left:
        raise typer.Exit(DiffersError.exit_code)


@app.command(epilog=example(f"resume {EXAMPLE}"))
@command
async def resume(
    session: Session,
    argument: Fingerprint = "",
    fingerprint: HiddenFingerprint = "",
    dry_run: DryRun = False,
) -> None:
    """Let a suspended cluster come back. Its operator and pods do so by themselves.

    OpenBao gets the cluster's signing keys back, bridges park again within seconds, operators make
    their tunnels, and pods log in anew. Tokens and leases that were revoked stay so.
    """
    from cloudtaser.openbao.suspension import resume as run

    async with session.connect() as client:
        result = await run(client, the_fingerprint(argument, fingerprint), dry_run=dry_run)
    if result.changed:
        head = "Would resume the cluster:" if dry_run else "Resumed the cluster:"
    else:
        head = "Nothing would change." if dry_run else "The cluster is not suspended: nothing changed."
    _show(session, result, head, dry_run)


def _show(session: Session, result: Suspension, head: str, dry_run: bool) -> None:
    data = {
        "fingerprint": result.fingerprint,
        "suspended": result.suspended,
        "left": list(result.left),
        "changed": result.changed,
        "dry_run": dry_run,
        "actions": actions_data(result.actions),
    }
    text = [head, *actions_text(result.actions, dry_run=dry_run), *(f"But {line}" for line in result.left)]
    session.printer.answer(data, text=text, value=["suspended" if result.suspended else "resumed"])
