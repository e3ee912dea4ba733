"""`source allow | deny | grants`: which pods may read what."""

from __future__ import annotations

from typing import Annotated, Any

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
from cloudtaser.errors import UsageError

app = typer.Typer(rich_markup_mode=None)

KubeNamespace = Annotated[str, typer.Option("--namespace", "-n", help="The pods' Kubernetes namespace.")]
ServiceAccount = Annotated[
    str, typer.Option("--serviceaccount", help="Their ServiceAccount; any of the namespace without it.")
]


@app.command(epilog=example(f"allow {EXAMPLE} -n shop --serviceaccount web --path secret/data/shared/db"))
@command
async def allow(
    session: Session,
    argument: Fingerprint = "",
    fingerprint: HiddenFingerprint = "",
    namespace: KubeNamespace = "",
    serviceaccount: ServiceAccount = "",
    path: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="API path they may read; may repeat.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Let pods read more. What lies under secret/data/NAMESPACE/ they always may.

    A policy and a login role are written, and bridges choose that role when such a pod logs in. Pods
    that were granted something before may read the new path at once, others from their next login on. A
    ServiceAccount with grants of its own keeps those of its namespace.

    A path names one secret or one role of an engine: secret/data/shared/db, database/creds/shop.
    Wildcards and OpenBao's own administration are refused. The secret itself is neither made nor looked
    at. The way back is `source deny`.
    """
    from cloudtaser.openbao.grants import allow as run

    if not path:
        raise UsageError("no path is given", fix="name what they may read with --path secret/data/…")
    who = _who(namespace, serviceaccount)
    async with session.connect() as client:
        chosen = the_fingerprint(argument, fingerprint)
        result = await run(client, chosen, namespace, serviceaccount, path, dry_run=dry_run)
    _show_grant(session, result, f"{who} may read", dry_run)


@app.command(epilog=example(f"deny {EXAMPLE} -n shop --serviceaccount web --path secret/data/shared/db"))
@command
async def deny(
    session: Session,
    argument: Fingerprint = "",
    fingerprint: HiddenFingerprint = "",
    namespace: KubeNamespace = "",
    serviceaccount: ServiceAccount = "",
    path: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Granted path to take back; may repeat; all without it."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Take back what `allow` granted. At once, also from pods that run.

    OpenBao refuses the next read. What a pod has read it keeps, and a lease it was given runs on until
    its end: change such a secret. What lies under secret/data/NAMESPACE/ cannot be taken back; it
    belongs to the namespace.
    """
    from cloudtaser.openbao.grants import deny as run

    who = _who(namespace, serviceaccount)
    async with session.connect() as client:
        chosen = the_fingerprint(argument, fingerprint)
        result = await run(client, chosen, namespace, serviceaccount, path or [], dry_run=dry_run)
    _show_grant(session, result, f"{who} may still read", dry_run)


@app.command(epilog=example(f"grants {EXAMPLE}"))
@command
async def grants(session: Session, argument: Fingerprint = "", fingerprint: HiddenFingerprint = "") -> None:
    """Show who may read what in a cluster's space."""
    from cloudtaser.openbao.grants import granted

    async with session.connect() as client:
        space, record = await granted(client, the_fingerprint(argument, fingerprint))
    rows = [
        {"namespace": grant.namespace, "serviceaccount": grant.serviceaccount, "paths": list(grant.paths)}
        for grant in record.roles.values()
    ]
    default = f"{space.asked(space.secret)}/data/<namespace>/*"
    data = {"default": default, "grants": rows}
    lines = [["<namespace>", "*", default]]
    lines += [
        [str(row["namespace"]), str(row["serviceaccount"] or "*"), path]
        for row in rows
        for path in row["paths"]
    ]
    text = session.printer.table(("NAMESPACE", "SERVICEACCOUNT", "MAY READ"), lines)
    session.printer.answer(data, text=text, value=[" ".join(line) for line in lines[1:]])


def _who(namespace: str, service_account: str) -> str:
    if not namespace:
        raise UsageError("no Kubernetes namespace is given", fix="name the pods' namespace with --namespace")
    return f"{namespace}/{service_account or '*'}"


def _show_grant(session: Session, result: Any, head: str, dry_run: bool) -> None:
    grant = result.grant
    data = {
        "namespace": grant.namespace,
        "serviceaccount": grant.serviceaccount,
        "paths": list(grant.paths),
        "changed": result.changed,
        "dry_run": dry_run,
        "actions": actions_data(result.actions),
    }
    text = [
        f"{head}, beside secret/data/{grant.namespace}/:",
        *(f"  {path}" for path in grant.paths or ["nothing"]),
    ]
    if not result.changed:
        text.append("Nothing would change." if dry_run else "That was so already: nothing changed.")
    elif dry_run:
        text = ["Would do:", *actions_text(result.actions, dry_run=True)]
    session.printer.answer(data, text=text)
