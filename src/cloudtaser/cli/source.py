"""`cloudtaser-cli source`: everything that needs OpenBao only.

Each command reads its flags, calls one function of `cloudtaser.openbao`, and shows what came of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from cloudtaser.cli.output import actions_data, actions_text, pairs
from cloudtaser.cli.session import Session, command
from cloudtaser.errors import UsageError

DEFAULT_BEACON: Final = "beacon.cloudtaser.io:443"
_FP: Final = "0ad50c05-1153-4508-9237-4cb2912e2c23"
_SHORT_HASH: Final = 12  # hex digits, as people compare them

app = typer.Typer(help="Clusters, grants and bridges, as OpenBao knows them.", rich_markup_mode=None)

FingerprintFlag = Annotated[
    str, typer.Option("--fingerprint", help="The cluster's fingerprint: the UID of namespace kube-system.")
]
HiddenFingerprint = Annotated[str, typer.Option("--fingerprint", hidden=True)]
Fingerprint = Annotated[
    str, typer.Argument(help="The cluster's fingerprint.", metavar="FINGERPRINT", show_default=False)
]
HiddenArgument = Annotated[str, typer.Argument(metavar="FINGERPRINT", hidden=True)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
KubeNamespace = Annotated[str, typer.Option("--namespace", "-n", help="The pods' Kubernetes namespace.")]
ServiceAccount = Annotated[
    str, typer.Option("--serviceaccount", help="Their ServiceAccount; any of the namespace without it.")
]


@app.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _example(line: str) -> str:
    return f"Example: cloudtaser-cli source {line}"


def _fingerprint(argument: str, flag: str) -> str:
    if argument and flag and argument != flag:
        raise UsageError("two fingerprints are given", on=f"{argument}, {flag}", fix="give one")
    if not argument and not flag:
        raise UsageError(
            "no fingerprint is given",
            fix="`kubectl get namespace kube-system -o jsonpath={.metadata.uid}` shows a cluster's",
        )
    return argument or flag


@app.command(epilog=_example(f"register --fingerprint {_FP}"))
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
    beacon_address: Annotated[str, typer.Option(help="Beacon named in the helm line.")] = DEFAULT_BEACON,
    dry_run: DryRun = False,
) -> None:
    """Register a cluster: its space, two CAs, login and policies. Run again, it completes or does nothing."""
    from cloudtaser.net.dial import Address
    from cloudtaser.openbao.registration import register as run

    Address.parse_list(beacon_address, source="--beacon-address")
    for address in broker_address or ():
        Address.parse(address, source="--broker-address")
    async with session.connect() as client:
        result = await run(
            client,
            _fingerprint(argument, fingerprint),
            space=space or None,
            join_code=join_code,
            broker_addresses=tuple(broker_address or ()),
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
        "Space": f"{result.space.namespace} ({', '.join(result.space.mounts)})",
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
        text += ["", "In the cluster, run:", f"  {helm}"]
    session.printer.answer(data, text=text, value=filter(None, (result.bridge_pin, result.join_code)))


@app.command(epilog=_example(f"deregister --fingerprint {_FP} --dry-run"))
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
    """Take a registration back. All that was issued to the cluster is revoked; its secrets stay."""
    from cloudtaser.openbao.deregistration import deregister as run

    chosen = _fingerprint(argument, fingerprint)
    async with session.connect() as client:
        actions = await run(client, chosen, purge=purge, dry_run=dry_run)
    data = {"fingerprint": chosen, "purged": purge, "dry_run": dry_run, "actions": actions_data(actions)}
    head = "Would deregister the cluster:" if dry_run else "Deregistered the cluster:"
    session.printer.answer(data, text=[head, *actions_text(actions, dry_run=dry_run)])
    if not purge and not dry_run:
        session.printer.note("Its secrets are kept; --purge deletes them.")


@app.command("list", epilog=_example("list -o json"))
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
            "tunnel_ca": cluster.tunnel_ca[:_SHORT_HASH],
        }
        for cluster in clusters
    ]
    heads = ("FINGERPRINT", "SPACE", "STATE", "REGISTERED", "INITIALISED", "TUNNEL CA")
    text = session.printer.table(heads, [[value or "-" for value in row.values()] for row in data])
    value = [cluster.fingerprint for cluster in clusters]
    session.printer.answer(data, text=text if data else ["No cluster is registered."], value=value)


@app.command(epilog=_example(f"show {_FP} --paths"))
@command
async def show(
    session: Session,
    argument: Fingerprint = "",
    fingerprint: HiddenFingerprint = "",
    paths: Annotated[
        bool, typer.Option("--paths", help="Where in OpenBao its records and mounts are.")
    ] = False,
) -> None:
    """Show one registered cluster."""
    from cloudtaser.openbao import clusters

    async with session.connect() as client:
        recorded, state, layout = await clusters.show(client, _fingerprint(argument, fingerprint))
    places = {
        **{f"record {path.rsplit('/', 1)[-1]}": f"{layout.system_namespace}/{layout.state_mount}/data/{path}"
           for path in layout.cluster_records(recorded.fingerprint)},
        **{f"mount {mount}": f"{recorded.namespace}/{mount}" for mount in recorded.mounts},
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
        "tunnel_ca": state.tunnel_ca[:_SHORT_HASH],
        "operator_subject": recorded.operator_subject,
        "join_code": bool(recorded.join_psk),
        "broker_addresses": list(recorded.broker_addresses),
        "policies": list(recorded.policies),
    } | ({"paths": places} if paths else {})
    facts = {
        "Fingerprint": recorded.fingerprint,
        "State": state.state,
        "Space": recorded.namespace,
        "Registered": f"{recorded.created_at} by {recorded.created_by}",
        "Initialised": state.initialized_at or f"not yet (lapses {recorded.expires_at})",
        "Join code": "asked for" if recorded.join_psk else "",
        "Init hash": recorded.init_room,
        "Info hash": recorded.info_hash,
        "Tunnel CA": f"{state.tunnel_ca[:_SHORT_HASH]} (begins info-hash in ConfigMap cloudtaser-trust)",
        "Operator": recorded.operator_subject,
        "Brokers": ", ".join(recorded.broker_addresses),
    } | ({name.capitalize(): place for name, place in places.items()} if paths else {})
    session.printer.answer(data, text=pairs(facts), value=[state.state])


@app.command(epilog=_example(f"allow {_FP} -n shop --serviceaccount web --path secret/data/shared/db"))
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
    """Let pods read more. What lies under secret/data/NAMESPACE/ they always may."""
    from cloudtaser.openbao.grants import allow as run

    if not path:
        raise UsageError("no path is given", fix="name what they may read with --path secret/data/…")
    who = _who(namespace, serviceaccount)
    async with session.connect() as client:
        chosen = _fingerprint(argument, fingerprint)
        result = await run(client, chosen, namespace, serviceaccount, path, dry_run=dry_run)
    _show_grant(session, result, f"{who} may read", dry_run)


@app.command(epilog=_example(f"deny {_FP} -n shop --serviceaccount web --path secret/data/shared/db"))
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
    """Take back what `allow` granted. At once, also from pods that run."""
    from cloudtaser.openbao.grants import deny as run

    who = _who(namespace, serviceaccount)
    async with session.connect() as client:
        chosen = _fingerprint(argument, fingerprint)
        result = await run(client, chosen, namespace, serviceaccount, path or [], dry_run=dry_run)
    _show_grant(session, result, f"{who} may still read", dry_run)


@app.command(epilog=_example(f"grants {_FP}"))
@command
async def grants(session: Session, argument: Fingerprint = "", fingerprint: HiddenFingerprint = "") -> None:
    """Show who may read what in a cluster's space."""
    from cloudtaser.openbao.grants import granted

    async with session.connect() as client:
        space, record = await granted(client, _fingerprint(argument, fingerprint))
    rows = [
        {"namespace": grant.namespace, "serviceaccount": grant.serviceaccount, "paths": list(grant.paths)}
        for grant in record.roles.values()
    ]
    default = f"{space.secret}/data/<namespace>/*"
    data = {"default": default, "grants": rows}
    lines = [["<namespace>", "*", default]]
    lines += [
        [str(row["namespace"]), str(row["serviceaccount"] or "*"), path]
        for row in rows
        for path in row["paths"]
    ]
    text = session.printer.table(("NAMESPACE", "SERVICEACCOUNT", "MAY READ"), lines)
    session.printer.answer(data, text=text, value=[" ".join(line) for line in lines[1:]])


@app.command("bridge-token", epilog=_example("bridge-token --id eu-1 --cidr 10.1.2.3/32"))
@command
async def bridge_token(
    session: Session,
    bridge_id: Annotated[str, typer.Option("--id", help="The bridge's own name.")] = "bridge",
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
    """Make a bridge's token and print it, once."""
    from cloudtaser.openbao.bridge_token import make_bridge_token

    async with session.connect() as client:
        made = await make_bridge_token(
            client, bridge_id, cidrs=cidr or (), clusters=cluster or (), dry_run=dry_run
        )
    token = made.token.reveal_text()
    data = {
        "id": made.bridge_id,
        "token": token,
        "accessor": made.accessor,
        "policies": list(made.policies),
        "cidrs": list(made.cidrs),
        "period": made.period,
        "dry_run": dry_run,
        "actions": actions_data(made.actions),
    }
    if dry_run:
        text = ["Would make a token:", *actions_text(made.actions, dry_run=True)]
    else:
        text = [token]
        origin = ", ".join(made.cidrs) or "any address"
        session.printer.note(
            f"The token of bridge {made.bridge_id}, shown once: valid from {origin}, for "
            f"{made.period // 60} minutes beyond its last renewal, which the bridge sees to."
        )
    session.printer.answer(data, text=text, value=[token] if token else [])


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


def _helm_line(beacon: str, pin: str, code: str) -> str:
    line = (
        "helm install cloudtaser cloudtaser/cloudtaser --namespace cloudtaser-system --create-namespace "
        f"--set operator.beacon.address={beacon} --set operator.bridgePin={pin or '<pin>'}"
    )
    return f"{line} --set operator.joinCode={code}" if code else line
