"""`source status`: all bridges and clusters at a glance, and what needs a person."""

from __future__ import annotations

import typer

from cloudtaser.cli.session import Session, command
from cloudtaser.cli.source.cas import ca_data
from cloudtaser.cli.source.flags import example
from cloudtaser.errors import DiffersError

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog=example("status", "status -q", differs="if something needs a person"))
@command
async def status(session: Session) -> None:
    """Show all bridges and clusters, and what needs a person.

    All is read from OpenBao: the registrations, and what each bridge wrote in the last seconds. A
    bridge that has written nothing for three minutes counts as gone. Neither bridges nor clusters are
    asked, so this works while they are away; `cloudtaser-bridge status` beside a bridge says more about
    that one.
    """
    from cloudtaser.openbao.records import instant
    from cloudtaser.openbao.status import look

    async with session.connect() as client:
        seen = await look(client)
    data = {
        "bridges": [
            {
                "id": one.sighting.bridge.id,
                "version": one.sighting.bridge.version,
                "seen_at": instant(one.sighting.at),
                "age_seconds": int(one.age),
                "live": one.live,
                "clusters": one.sighting.bridge.clusters,
                "tunnels": one.sighting.bridge.tunnels,
            }
            for one in seen.bridges
        ],
        "clusters": [
            {
                "fingerprint": one.fingerprint,
                "state": one.state,
                "tunnels": one.used.tunnels,
                "pods": one.used.pods,
                "certificate_ends": one.certificate_ends,
                "keys_pending": one.keys_pending,
                "rotating_since": one.rotating_since,
                "tunnel_cas": ca_data(one.used.tunnel_cas, "tunnels"),
                "pod_cas": ca_data(one.used.pod_cas, "pods"),
                "needs": list(one.needs),
            }
            for one in seen.clusters
        ],
        "needs": list(seen.needs),
    }
    printer = session.printer
    text: list[str] = []
    if seen.bridges:
        heads = ("BRIDGE", "VERSION", "SEEN", "CLUSTERS", "TUNNELS")
        rows = [
            (
                one.sighting.bridge.id,
                one.sighting.bridge.version,
                _age(one.age) if one.live else f"{_age(one.age)} (gone)",
                str(one.sighting.bridge.clusters),
                str(one.sighting.bridge.tunnels),
            )
            for one in seen.bridges
        ]
        text += [*printer.table(heads, rows), ""]
    if seen.clusters:
        heads = ("FINGERPRINT", "STATE", "TUNNELS", "PODS", "CERTS UNTIL")
        rows = [
            (
                one.fingerprint,
                one.state,
                str(one.used.tunnels),
                str(one.used.pods),
                _minute(one.certificate_ends),
            )
            for one in seen.clusters
        ]
        text += [*printer.table(heads, rows), ""]
    else:
        text += ["No cluster is registered.", ""]
    text += ["Needs a person:", *(f"  {line}" for line in seen.needs)] if seen.needs else ["All is well."]
    printer.answer(data, text=text, value=seen.needs)
    if seen.needs:
        raise typer.Exit(DiffersError.exit_code)


def _minute(instant: str) -> str:
    """`2026-11-23T05:03:03Z` as `11-23 05:03Z`: certificates live for a day, so no year is needed."""
    return f"{instant[5:16].replace('T', ' ')}Z" if instant else "-"


def _age(age: float) -> str:
    if age < 120:
        return f"{age:.0f} s ago"
    return f"{age / 60:.0f} min ago" if age < 7200 else f"{age / 3600:.0f} h ago"
