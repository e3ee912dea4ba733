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
    from cloudtaser.openbao.leaves import Renewal
    from cloudtaser.openbao.rotation import Rotation

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog=example(
        f"rotate {EXAMPLE}", f"rotate {EXAMPLE} --ca", differs="while a rotation of the CAs cannot end yet"
    )
)
@command
async def rotate(
    session: Session,
    argument: Fingerprint = "",
    fingerprint: HiddenFingerprint = "",
    ca: Annotated[
        bool, typer.Option("--ca", help="Both CAs; run again, it ends the rotation once the old are unused.")
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Without --ca: the old certificates count no more at once.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --ca: end the rotation whoever still needs the old CAs.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Make new certificates, or with --ca new CAs. The old go on until nobody needs them.

    Without --ca, bridges and operators get new certificates and make new tunnels before they give up
    the old ones: no request fails. Former certificates count 90 seconds more. With --now they do not,
    and tunnels are cut for some seconds.

    With --ca, the first run makes a second tunnel CA and pod CA beside those in use. Operators and
    running pods take them up by themselves. Later runs say who still needs the former CAs, and end the
    rotation when nobody does. --force ends it at once: pods that still pin the former CA must then be
    restarted.

    There is no way back, and none is needed: both CAs count until the end. When a CA's own key may be
    known to somebody, use `source reset`, for a rotation is vouched for by the former CA.
    """
    from cloudtaser.openbao.leaves import rotate_leaves
    from cloudtaser.openbao.rotation import rotate_authorities

    if force and not ca:
        raise UsageError("--force goes with --ca", fix="add --ca, or say --now")
    if now and ca:
        raise UsageError("--now goes without --ca", fix="leave one of them away")
    chosen = the_fingerprint(argument, fingerprint)
    async with session.connect() as client:
        if ca:
            _show_rotation(
                session, await rotate_authorities(client, chosen, force=force, dry_run=dry_run), dry_run
            )
        else:
            _show_renewal(session, await rotate_leaves(client, chosen, at_once=now, dry_run=dry_run), dry_run)


def _show_renewal(session: Session, result: Renewal, dry_run: bool) -> None:
    data = {
        "fingerprint": result.fingerprint,
        "rotated_at": result.rotated_at,
        "revoked": list(result.revoked),
        "pending": list(result.pending),
        "pending_from": result.pending_from,
        "pairs": list(result.pairs),
        "changed": result.changed,
        "dry_run": dry_run,
        "actions": actions_data(result.actions),
    }
    if result.changed:
        head = "Would make all certificates anew:" if dry_run else "All certificates are made anew:"
    else:
        head = "A rotation of the certificates is under way: nothing changed."
    text = [head, *actions_text(result.actions, dry_run=dry_run)]
    if result.pending:
        text.append(f"{len(result.pending)} former certificates count until {result.pending_from}.")
    session.printer.answer(data, text=text, value=[result.rotated_at])
    if result.changed and result.pairs and not dry_run:
        session.printer.note("Pairs that were given as files must be fetched anew.")


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
    if result.state is RotationState.FINISHED and not done:
        text = [
            f"The rotation ended at {registered.cas_rotated_at}: nothing changed.",
            "From a minute after that on, the same command starts another.",
        ]
    if result.state is RotationState.WAITING:
        text += [*done, "Run it again later, or with --force to cut off what is left:", f"  {again}"]
    session.printer.answer(data, text=text, value=[str(result.state)])
    if result.state is RotationState.STARTED and not dry_run:
        session.printer.note(f"Operator and pods take up the new CAs by themselves. Then run:\n  {again}")
    if result.state is RotationState.WAITING:
        raise typer.Exit(DiffersError.exit_code)
