"""`source pairs`: a bridge's stored pairs of the pre-generated form, written to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloudtaser.cli.output import pairs as aligned
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


@app.command(epilog=example(f"pairs {EXAMPLE} --out-dir /etc/cloudtaser/bridge"))
@command
async def pairs(
    session: Session,
    argument: Fingerprint = "",
    fingerprint: HiddenFingerprint = "",
    out_dir: Annotated[
        str, typer.Option("--out-dir", metavar="DIR", help="Where to write the files; keys get mode 0600.")
    ] = "",
    dry_run: DryRun = False,
) -> None:
    """Write a bridge's stored pairs to files. `register --pregenerate` stores them.

    Six files: client.crt, client.key, pod.crt, pod.key, ca.crt, pod-ca.crt. Each is replaced whole or
    not at all, so a running bridge may watch the directory; one that holds such files of another
    cluster is refused. After `source rotate` run it again. Nothing changes in OpenBao.
    """
    from cloudtaser.openbao import pair_files

    if not out_dir:
        raise UsageError("no directory is given", fix="name where the files go with --out-dir DIR")
    async with session.connect() as client:
        registered, files = await pair_files.read_files(client, the_fingerprint(argument, fingerprint))
    place = _absolute(out_dir)
    changed = () if dry_run else pair_files.write_files(place, files, registered.fingerprint)
    flags = {
        "--beacon-info-hash": registered.info_hash,
        "--tls-cert": str(place / pair_files.CLIENT_CERTIFICATE),
        "--tls-key": str(place / pair_files.CLIENT_KEY),
        "--tls-ca": str(place / pair_files.TUNNEL_CA),
        "--pod-cert": str(place / pair_files.POD_CERTIFICATE),
        "--pod-key": str(place / pair_files.POD_KEY),
    }
    data = {
        "fingerprint": registered.fingerprint,
        "directory": str(place),
        "files": sorted(files),
        "written": sorted(path.name for path in changed),
        "info_hash": registered.info_hash,
        "flags": flags,
        "dry_run": dry_run,
    }
    head = "Would write" if dry_run else "Wrote" if changed else "Are there already, unchanged"
    text = [f"{head}: {', '.join(sorted(files))}", "", "Flags of the bridge:", *aligned(flags)]
    session.printer.answer(data, text=text, value=[f"{name}={value}" for name, value in flags.items()])


def _absolute(directory: str) -> Path:
    return Path(directory).absolute()
