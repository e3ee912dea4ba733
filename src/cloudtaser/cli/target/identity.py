"""`target fingerprint`: the one value that the two sides exchange."""

from __future__ import annotations

import typer

from cloudtaser.cli.target.cluster import Cluster, command, example

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog=example("fingerprint", "fingerprint -q"))
@command
async def fingerprint(cluster: Cluster) -> None:
    """Show the cluster's fingerprint. It is the UID of namespace kube-system, and no secret.

    It is unique to the cluster and stays as long as the cluster does. Whoever administers OpenBao
    registers the cluster by it.
    """
    async with cluster.connect() as kube:
        found = await kube.namespace_uid("kube-system")
    cluster.printer.answer(
        {"fingerprint": found},
        text=[
            "CloudTaser Cluster Fingerprint",
            f"Cluster ID: {found}",
            "Register this cluster on your secret store:",
            f"cloudtaser source register --fingerprint {found}",
        ],
        value=[found],
    )
