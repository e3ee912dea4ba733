"""`source register | deregister | list | show`: a cluster's registration, made, taken back and shown."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from cloudtaser.cli.manual import fitting
from cloudtaser.cli.output import actions_data, actions_text, pairs
from cloudtaser.cli.session import Session, command
from cloudtaser.cli.source.cas import ca_data, ca_text
from cloudtaser.cli.source.flags import (
    EXAMPLE,
    SHORT_HASH,
    DryRun,
    Fingerprint,
    FingerprintFlag,
    HiddenArgument,
    HiddenFingerprint,
    example,
    the_fingerprint,
)
from cloudtaser.openbao.form import Form

DEFAULT_BEACON: Final = "beacon.cloudtaser.io:443"

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog=example(f"register --fingerprint {EXAMPLE}"))
@command
async def register(
    session: Session,
    fingerprint: FingerprintFlag = "",
    argument: HiddenArgument = "",
    space: Annotated[
        str, typer.Option(help="Name of its space, where another cluster has the default.")
    ] = "",
    join_code: Annotated[
        bool, typer.Option("--join-code", help="Strict mode: the operator must show a code, printed once.")
    ] = False,
    broker_address: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="host:port of a broker that bridges dial; may repeat."),
    ] = None,
    pregenerate: Annotated[
        bool,
        typer.Option("--pregenerate", help="Store pairs of one year, for bridges that are given theirs."),
    ] = False,
    beacon_address: Annotated[str, typer.Option(help="Beacon named in the helm line.")] = DEFAULT_BEACON,
    layout: Annotated[
        Form | None,
        typer.Option(
            help="How a server that holds no cluster yet keeps them apart; namespaces where it has them."
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Register a cluster: its space, two CAs, login and policies. Run again, it completes or does nothing.

    What the cluster needs in OpenBao is made first and the registration recorded last, so a run that is
    cut off leaves nothing that counts: run it again. Bridges take the cluster up within seconds; its
    operator has 24 hours to come in. After that, or when a part was lost, run it again as well.

    Nothing is installed in the cluster and no secret is stored: the last line says what to run there.
    The bridge pin may be kept in git. A join code is shown once; asking again makes another. The way
    back is `source deregister`.
    """
    from cloudtaser.net.dial import Address
    from cloudtaser.openbao.registration import register as run

    Address.parse_list(beacon_address, source="--beacon-address")
    for address in broker_address or ():
        Address.parse(address, source="--broker-address")
    async with session.connect() as client:
        result = await run(
            client,
            the_fingerprint(argument, fingerprint),
            space=space or None,
            join_code=join_code,
            broker_addresses=tuple(broker_address or ()),
            pregenerate=pregenerate,
            form=layout,
            dry_run=dry_run,
        )
    helm = _helm_line(beacon_address, result.bridge_pin, result.join_code)
    data: dict[str, Any] = {
        "fingerprint": result.fingerprint,
        "space": result.space.name,
        "namespace": result.space.namespace,
        "mounts": list(result.space.mounts),
        "init_hash": result.init_hash,
        "info_hash": result.info_hash,
        "tunnel_ca": result.tunnel_ca.fingerprint if result.tunnel_ca else "",
        "pod_ca": result.pod_ca.fingerprint if result.pod_ca else "",
        "bridge_pin": result.bridge_pin,
        "join_code": result.join_code,
        "expires_at": "" if result.initialized else result.expires_at,
        "created": result.created,
        "changed": result.changed,
        "initialized": result.initialized,
        "dry_run": dry_run,
        "helm": helm,
        "actions": actions_data(result.actions),
    }
    if dry_run:
        head = "Would register the cluster:" if result.changed else "Nothing would change."
    elif not result.changed:
        head = f"Registered, and whole: nothing changed. New certificates: source rotate {result.fingerprint}"
    else:
        head = "Registered the cluster." if result.created else "Completed the registration."
    made = "(made when it runs)"
    facts = {
        "Fingerprint": result.fingerprint,
        "Space": f"{result.space.shown} ({', '.join(result.space.mounts)})",
        "Init hash": result.init_hash,
        "Info hash": result.info_hash or made,
        "Tunnel CA SHA-256": result.tunnel_ca.fingerprint if result.tunnel_ca else made,
        "Pod CA SHA-256": result.pod_ca.fingerprint if result.pod_ca else made,
        "Bridge pin": result.bridge_pin or made,
        "Join code": f"{result.join_code} (shown once)" if result.join_code else "",
        "Lapses": "" if result.initialized else f"{result.expires_at} unless the operator comes in before",
    }
    text = [head, "", *pairs(facts)]
    stored = actions_text(result.actions, dry_run=dry_run)
    if stored:
        text += ["", "Would store:" if dry_run else "Stored:", *stored]
    if not dry_run:
        text += ["", "In the cluster, run:", f"  {fitting(helm)}"]
    session.printer.answer(data, text=text, value=filter(None, (result.bridge_pin, result.join_code)))


@app.command(epilog=example(f"deregister --fingerprint {EXAMPLE} --dry-run"))
@command
async def deregister(
    session: Session,
    fingerprint: FingerprintFlag = "",
    argument: HiddenArgument = "",
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete the cluster's secrets too, for good.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Take a registration back. All that was issued to the cluster is revoked; its secrets stay.

    The records go first, so that bridges close the tunnels within six seconds; then every token and
    lease is revoked, and the login, both CAs and the policies are removed. Cut off in between, run it
    again. Applications keep what they have read.

    Grants are forgotten. Secrets, transit keys and engines stay in the space until --purge, which
    cannot be undone; registering the same fingerprint again finds them. To stop a cluster for a while,
    use `source suspend`; when it was re-created under another fingerprint, `source move`.
    """
    from cloudtaser.openbao.deregistration import deregister as run

    chosen = the_fingerprint(argument, fingerprint)
    async with session.connect() as client:
        actions = await run(client, chosen, purge=purge, dry_run=dry_run)
    data = {"fingerprint": chosen, "purged": purge, "dry_run": dry_run, "actions": actions_data(actions)}
    head = "Would deregister the cluster:" if dry_run else "Deregistered the cluster:"
    session.printer.answer(data, text=[head, *actions_text(actions, dry_run=dry_run)])
    if not purge and not dry_run:
        session.printer.note("Its secrets are kept; --purge deletes them.")


@app.command("list", epilog=example("list -o json"))
@command
async def list_(session: Session) -> None:
    """List the registered clusters."""
    from cloudtaser.openbao.clusters import list_clusters

    async with session.connect() as client:
        clusters = await list_clusters(client)
    data = [
        {
            "fingerprint": cluster.fingerprint,
            "space": cluster.space,
            "state": cluster.state,
            "registered_at": cluster.registered_at,
            "initialized_at": cluster.initialized_at,
            "tunnel_ca": cluster.tunnel_ca[:SHORT_HASH],
        }
        for cluster in clusters
    ]
    heads = ("FINGERPRINT", "SPACE", "STATE", "REGISTERED")  # what 80 columns hold
    rows = [(one.fingerprint, one.space, one.state, one.registered_at[:10]) for one in clusters]
    text = session.printer.table(heads, rows)
    value = [cluster.fingerprint for cluster in clusters]
    session.printer.answer(data, text=text if data else ["No cluster is registered."], value=value)


@app.command(epilog=example(f"show {EXAMPLE} --paths"))
@command
async def show(
    session: Session,
    argument: Fingerprint = "",
    fingerprint: HiddenFingerprint = "",
    paths: Annotated[
        bool, typer.Option("--paths", help="Where in OpenBao its records and mounts are.")
    ] = False,
) -> None:
    """Show one registered cluster.

    Its state is registered (nobody came in yet), lapsed (nobody came in within 24 hours), initialised
    or suspended. Compare the CAs with what the cluster's ConfigMaps hold. Tunnels and pods are what
    bridges reported last.
    """
    from cloudtaser.openbao import clusters
    from cloudtaser.openbao.authorities import describe

    async with session.connect() as client:
        view = await clusters.show(client, the_fingerprint(argument, fingerprint))
    recorded, state, layout, used = view.registered, view.state, view.layout, view.used
    former = recorded.former_tunnel_ca
    pod_ca = describe(recorded.pod_ca).fingerprint
    places = {
        **{f"record {path.rsplit('/', 1)[-1]}": layout.shown(layout.record_path(path))
           for path in layout.cluster_records(recorded.fingerprint)},
        **{f"mount {mount}": f"{recorded.namespace}/{mount}".lstrip("/") for mount in recorded.mounts},
    }  # fmt: skip
    data = {
        "fingerprint": recorded.fingerprint,
        "state": state.state,
        "space": recorded.space,
        "namespace": recorded.namespace,
        "registered_at": recorded.created_at,
        "registered_by": recorded.created_by,
        "initialized_at": state.initialized_at,
        "expires_at": "" if state.initialized_at else recorded.expires_at,
        "init_hash": recorded.init_room,
        "info_hash": recorded.info_hash,
        "tunnel_ca": state.tunnel_ca[:SHORT_HASH],
        "tunnel_ca_certificate": recorded.tunnel_ca,
        "pod_ca": pod_ca,
        "pod_ca_certificate": recorded.pod_ca,
        "rotating_since": former.replaced_at if former else "",
        "tunnel_cas": ca_data(used.tunnel_cas, "tunnels"),
        "pod_cas": ca_data(used.pod_cas, "pods"),
        "operator_subject": recorded.operator_subject,
        "join_code": bool(recorded.join_psk),
        "broker_addresses": list(recorded.broker_addresses),
        "policies": list(recorded.policies),
    } | ({"paths": places} if paths else {})
    facts = {
        "Fingerprint": recorded.fingerprint,
        "State": state.state,
        "Space": layout.space(recorded.space).shown,
        "Registered": f"{recorded.created_at} by {recorded.created_by}",
        "Initialised": state.initialized_at or f"not yet (lapses {recorded.expires_at})",
        "Join code": "asked for" if recorded.join_psk else "",
        "Init hash": recorded.init_room,
        "Info hash": recorded.info_hash,
        "Tunnel CA": f"{state.tunnel_ca[:SHORT_HASH]} (begins info-hash in ConfigMap cloudtaser-trust)",
        "Pod CA SHA-256": pod_ca,
        "Rotation": f"under way since {former.replaced_at}; see `source rotate --ca`" if former else "",
        "Tunnels": ca_text(used.tunnel_cas),
        "Pods": ca_text(used.pod_cas),
        "Operator": recorded.operator_subject,
        "Brokers": ", ".join(recorded.broker_addresses),
    } | ({name.capitalize(): place for name, place in places.items()} if paths else {})
    session.printer.answer(data, text=pairs(facts), value=[state.state])


def _helm_line(beacon: str, pin: str, code: str) -> str:
    line = (
        "helm install cloudtaser cloudtaser/cloudtaser --namespace cloudtaser-system --create-namespace "
        f"--set operator.beacon.address={beacon} --set operator.bridgePin={pin or '<pin>'}"
    )
    return f"{line} --set operator.joinCode={code}" if code else line
