"""`source bridge-login`: how a bridge gets its tokens itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloudtaser.cli.output import actions_data, actions_text, pairs
from cloudtaser.cli.session import Session, command
from cloudtaser.cli.source.flags import DryRun, example
from cloudtaser.errors import UsageError

app = typer.Typer(rich_markup_mode=None)

_MAX_FILE = 65536  # bytes of a PEM file


@app.command(
    "bridge-login",
    epilog=example(
        "bridge-login --id eu-1 --cidr 10.1.2.3/32 -q > /etc/cloudtaser/secret-id",
        "bridge-login --id eu-1 --certificate /etc/cloudtaser/login.crt",
    ),
)
@command
async def bridge_login(
    session: Session,
    bridge_id: Annotated[str, typer.Option("--id", help="The bridge's own name.")] = "bridge",
    certificate: Annotated[
        str,
        typer.Option(metavar="FILE", help="PEM: its certificate or an authority's; AppRole without it."),
    ] = "",
    cidr: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK", help="Network the bridge calls from; may repeat; any without it."),
    ] = None,
    cluster: Annotated[
        list[str] | None,
        typer.Option(metavar="FINGERPRINT", help="Fingerprint it may serve; may repeat; all without it."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Let a bridge log in by AppRole or TLS certificate. Of AppRole a secret id is printed, once.

    The login is made if it is not there, and the flags are shown that the bridge needs. With
    --certificate the bridge logs in by the key of that certificate, or of one that the authority in
    FILE signed. Running it again for AppRole makes one more secret id; earlier ones go on working.

    It stands for the bridge's token alone. The second one, for what administrators migrate, is made by
    `source bridge-token --admin` in any case.
    """
    from cloudtaser.openbao.bridge_login import make_bridge_login

    pem = _pem(certificate) if certificate else ""
    async with session.connect() as client:
        made = await make_bridge_login(
            client,
            bridge_id,
            certificate_pem=pem,
            cidrs=cidr or (),
            clusters=cluster or (),
            dry_run=dry_run,
        )
    secret_id = made.secret_id.reveal_text()
    data = {
        "id": made.bridge_id,
        "namespace": made.namespace,
        "mount": made.mount,
        "role": made.role,
        "role_id": made.role_id,
        "secret_id": secret_id,
        "policies": list(made.policies),
        "cidrs": list(made.cidrs),
        "dry_run": dry_run,
        "actions": actions_data(made.actions),
    }
    if dry_run:
        text = ["Would do:", *actions_text(made.actions, dry_run=True)]
    else:
        flags = (
            f"--login-cert FILE --login-key FILE --login-role {made.role}"
            if certificate
            else f"--approle-role-id {made.role_id} --approle-secret-id-file FILE"
        )
        facts = {
            "Login": f"{made.namespace}/auth/{made.mount}, role {made.role}".lstrip("/"),
            "Role id": made.role_id,
            "Secret id": f"{secret_id} (shown once)" if secret_id else "",
            "From": ", ".join(made.cidrs) or "any address",
            "Bridge flags": flags,
        }
        text = pairs(facts)
    session.printer.answer(data, text=text, value=[secret_id] if secret_id else [])


def _pem(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_FILE).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is not PEM"
        raise UsageError(
            f"the certificate cannot be read: {reason}", on=path, fix="give a file with one in PEM"
        ) from None
