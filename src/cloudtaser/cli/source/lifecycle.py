"""`source reset | accept-keys | move`: what a person decides when a cluster is not what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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
    from cloudtaser.openbao.jwks import SigningKey

app = typer.Typer(rich_markup_mode=None)

JoinCode = Annotated[
    bool, typer.Option("--join-code", help="Strict mode: the operator must show a code, printed once.")
]


@app.command(epilog=example(f"reset {EXAMPLE}", differs="if a lease could not be revoked yet"))
@command
async def reset(
    session: Session,
    argument: Fingerprint = "",
    fingerprint: HiddenFingerprint = "",
    join_code: JoinCode = False,
    dry_run: DryRun = False,
) -> None:
    """Let a cluster come in anew, with new CAs. Nothing issued lives on; the paths read so far are listed.

    For when the wrong one came in first, or a CA's key may be known. Logins are closed, CAs made that
    follow the recorded ones, all tokens and leases revoked, the former CAs deleted; then the cluster
    may come in within 24 hours, as after `source register`. Cut off in between, run it again.

    Secrets and grants stay. In the cluster, ConfigMap cloudtaser-trust must be deleted and the operator
    restarted, with the new bridge pin if one is set; pods must be made anew, since they pin the former
    pod CA. There is no way back to the former CAs.
    """
    from cloudtaser.openbao.reset import forget_reads
    from cloudtaser.openbao.reset import reset as run

    async with session.connect() as client:
        chosen = the_fingerprint(argument, fingerprint)
        result = await run(client, chosen, join_code=join_code, dry_run=dry_run)
        made = "" if dry_run else "(made when it runs)"
        pin = result.tunnel_ca.pin if result.tunnel_ca else made
        data = {
            "fingerprint": chosen,
            "info_hash": result.registered.info_hash,
            "bridge_pin": pin,
            "join_code": result.join_code,
            "expires_at": result.registered.expires_at,
            "suspended": result.registered.suspended,
            "paths_read": [
                {"path": path, "first": read.first, "last": read.last, "count": read.count}
                for path, read in result.paths.items()
            ],
            "reads_not_noted": result.dropped,
            "reads_unreadable": list(result.unreadable),
            "left": list(result.left),
            "dry_run": dry_run,
            "actions": actions_data(result.actions),
        }
        head = "Would reset the registration:" if dry_run else "Reset the registration:"
        text = [head, *actions_text(result.actions, dry_run=dry_run)]
        text += [f"But {line}" for line in result.left]
        if result.paths:
            rows = [[path, read.first, read.last, str(read.count)] for path, read in result.paths.items()]
            text += ["", "Read since the cluster came in, so known to whoever that was:"]
            text += session.printer.table(("PATH", "FIRST", "LAST", "TIMES"), rows)
        if result.dropped:
            text.append(f"And {result.dropped} reads more, of paths for which there was no room.")
        text += [f"And whatever bridge {id_} noted: its record is damaged." for id_ in result.unreadable]
        if not dry_run:
            text += ["", f"Bridge pin  {pin}"]
            text += [f"Join code   {result.join_code} (shown once)"] if result.join_code else []
        session.printer.answer(data, text=text, value=filter(None, (pin, result.join_code)))
        if not dry_run:
            await forget_reads(client, chosen)
    if not dry_run:
        session.printer.note(
            "In the cluster: set operator.bridgePin if you pin, delete ConfigMap cloudtaser-trust in "
            "cloudtaser-system, and restart the operator within 24 hours."
        )
    if result.left:
        raise typer.Exit(DiffersError.exit_code)


@app.command(
    "accept-keys",
    epilog=example(
        f"accept-keys {EXAMPLE} --dry-run", differs="if another set is waiting than the one of --digest"
    ),
)
@command
async def accept_keys(
    session: Session,
    argument: Fingerprint = "",
    fingerprint: HiddenFingerprint = "",
    digest: Annotated[
        str, typer.Option(metavar="DIGEST", help="Accept this set alone, sha256:… as --dry-run shows it.")
    ] = "",
    dry_run: DryRun = False,
) -> None:
    """Confirm signing keys of which none was known before. Until then no login counts that they signed.

    A cluster that changes its keys one by one needs nobody. One whose keys all changed at once (or
    somebody in its place) is not believed: the bridge puts the new keys aside, and `source status` says
    so. Compare with `kubectl get --raw /openid/v1/jwks`, then accept; bridges check logins with them
    within seconds.

    With --digest exactly that set is accepted, and none that came since you looked. To refuse a set, do
    nothing: the recorded keys count on. There is no way back but the cluster's own next set; if it was
    not the cluster, `source suspend` and then `source reset`.
    """
    from cloudtaser.openbao.accepting import accept_keys as run

    async with session.connect() as client:
        result = await run(client, the_fingerprint(argument, fingerprint), only=digest, dry_run=dry_run)
    data = {
        "fingerprint": result.fingerprint,
        "old": _keys_data(result.old),
        "new": _keys_data(result.new),
        "digest": result.digest,
        "pending_at": result.pending_at,
        "changed": result.changed,
        "dry_run": dry_run,
        "actions": actions_data(result.actions),
    }
    if result.changed:
        text = ["Would accept the keys:" if dry_run else "Accepted the keys:"]
        text += [f"  {line}" for line in _keys_text(result.new)]
        text += ["in the place of:", *(f"  {line}" for line in _keys_text(result.old))]
        text += [f"Digest {result.digest}, seen {result.pending_at}"]
        text += ["Compare with `kubectl get --raw /openid/v1/jwks`."] if dry_run else []
    else:
        text = ["No keys are waiting. Those that count:", *(f"  {line}" for line in _keys_text(result.new))]
    session.printer.answer(data, text=text, value=[result.digest])


@app.command(epilog=example(f"move {EXAMPLE} 3f1c8a52-7c7e-4e0b-9d5e-0c6f2b7a1d34"))
@command
async def move(
    session: Session,
    old: Annotated[
        str,
        typer.Argument(metavar="OLD", help="Fingerprint of the cluster that is no more.", show_default=False),
    ],
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="Fingerprint of the one in its place.", show_default=False)
    ],
    join_code: JoinCode = False,
    dry_run: DryRun = False,
) -> None:
    """Give a cluster's space to the cluster that replaces it. Secrets, keys and grants stay.

    The registration of OLD is suspended first and all that was issued to it is revoked. Then CAs, roles
    and audiences are made for NEW, which has 24 hours to come in; OLD's registration is removed last.
    Cut off in between, run it again.

    OLD must be gone, or it loses its secrets with the tunnels. Nothing is installed in NEW: install the
    operator there with the new bridge pin. The way back is `source move NEW OLD`.
    """
    from cloudtaser.openbao.moving import move as run

    async with session.connect() as client:
        result = await run(client, old, new, join_code=join_code, dry_run=dry_run)
    pin = result.tunnel_ca.pin if result.tunnel_ca else ""
    data = {
        "old": old,
        "new": new,
        "space": result.space.name,
        "namespace": result.space.namespace,
        "info_hash": result.tunnel_ca.fingerprint if result.tunnel_ca else "",
        "bridge_pin": pin,
        "join_code": result.join_code,
        "expires_at": result.expires_at,
        "left": list(result.left),
        "changed": result.changed,
        "dry_run": dry_run,
        "actions": actions_data(result.actions),
    }
    if result.changed:
        head = "Would move the space:" if dry_run else f"Moved the space {result.space.shown} to {new}:"
    else:
        head = "Nothing would change." if dry_run else "That was done already: nothing changed."
    text = [head, *actions_text(result.actions, dry_run=dry_run), *(f"But {line}" for line in result.left)]
    text += ["", f"Bridge pin  {pin}"] if pin and not dry_run else []
    text += [f"Join code   {result.join_code} (shown once)"] if result.join_code else []
    session.printer.answer(data, text=text, value=filter(None, (pin, result.join_code)))
    if result.changed and not dry_run:
        session.printer.note(
            "Install the operator in the new cluster within 24 hours. A bridge limited by --cluster needs "
            "`source bridge-token --cluster` again."
        )
    if result.left:
        raise typer.Exit(DiffersError.exit_code)


def _keys_data(keys: tuple[SigningKey, ...]) -> list[dict[str, str]]:
    return [{"kid": key.kid, "kind": key.kind, "thumbprint": key.thumbprint} for key in keys]


def _keys_text(keys: tuple[SigningKey, ...]) -> list[str]:
    return [f"{key.kind:<3}  {key.thumbprint}  {key.kid}" for key in keys]
