"""`source rotate`: new certificates, or new authorities beside those that still serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cloudtaser.cli.output import actions_data, actions_text
from cloudtaser.cli.session import Session, command
from cloudtaser.cli.source.cas import ca_data
from cloudtaser.cli.source.flags import (
    EXAMPLE,
    DryRun,
    Fingerprint,
    HiddenFingerprint,
    example,
    the_fingerprint,
)
from cloudtaser.errors import DiffersError, UsageError

if TYPE_CHECKING:
    from cloudtaser.openbao.rotation import Rotation

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog=example(f"rotate {EXAMPLE} --ca", differs="while a rotation of the CAs cannot end yet"),
)
@command
async def rotate(
    session: Session,
    argument: Fingerprint = "",
    fingerprint: HiddenFingerprint = "",
    ca: Annotated[
        bool,
        typer.Option("--ca", help="Both CAs; run again, it ends the rotation once the old are unused."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --ca: end the rotation whoever still needs the old CAs.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Make new CAs. The old ones go on until nobody needs them."""
    from cloudtaser.openbao.rotation import rotate_authorities as run

    if force and not ca:
        raise UsageError("--force goes with --ca", fix="add --ca")
    async with session.connect() as client:
        result = await run(client, the_fingerprint(argument, fingerprint), force=force, dry_run=dry_run)
    _show_rotation(session, result, dry_run)


def _show_rotation(session: Session, result: Rotation, dry_run: bool) -> None:
    from cloudtaser.openbao.rotation import RotationState

    registered, used = result.registered, result.used
    data = {
        "fingerprint": registered.fingerprint,
        "state": str(result.state),
        "tunnel_cas": ca_data(used.tunnel_cas, "tunnels"),
        "pod_cas": ca_data(used.pod_cas, "pods"),
        "waiting_for": list(result.waiting),
        "dry_run": dry_run,
        "actions": actions_data(result.actions),
    }
    again = f"cloudtaser-cli source rotate {registered.fingerprint} --ca"
    done = actions_text(result.actions, dry_run=dry_run)
    text = {
        RotationState.STARTED: ["Would start the rotation:" if dry_run else "Started the rotation:", *done],
        RotationState.WAITING: ["The rotation is under way:", *(f"  {line}" for line in result.waiting)],
        RotationState.FINISHED: ["Would end the rotation:" if dry_run else "Ended the rotation:", *done],
    }[result.state]
    if result.state is RotationState.WAITING:
        text += [*done, f"Run `{again}` again later, or with --force to cut off what is left."]
    session.printer.answer(data, text=text, value=[str(result.state)])
    if result.state is RotationState.STARTED and not dry_run:
        session.printer.note(f"Operator and pods take up the new CAs by themselves; then run `{again}`.")
    if result.state is RotationState.WAITING:
        raise typer.Exit(DiffersError.exit_code)
