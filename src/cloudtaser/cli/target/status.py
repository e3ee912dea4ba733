"""`target status`: operator, webhook, agents and injected pods of a cluster at a glance."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cloudtaser.cli.target.cluster import Cluster, command, example
from cloudtaser.errors import CloudtaserError, DiffersError, NotAuthorisedError

if TYPE_CHECKING:
    from cloudtaser.cli.target.system import Agent
    from cloudtaser.kube.client import KubeApi

Json = dict[str, Any]

MAX_PODS: Final = 200_000

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog=example(
        "status", "status --enforcement-tier", "status -o json", differs="if something needs a person"
    )
)
@command
async def status(
    cluster: Cluster,
    enforcement_tier: Annotated[
        bool, typer.Option("--enforcement-tier", help="Only each node's tier, as its agent says it.")
    ] = False,
) -> None:
    """Show operator, webhook, agents and injected pods, and what needs a person.

    The tier is what the node's kernel lets the agent do: lsm, fmod_ret or kill; none where no agent
    runs or answers. It is the agent's own word, which it tests by attacking itself at its start.
    """
    from cloudtaser.cli.target.system import agents, operator_pods

    async with cluster.connect() as kube:
        nodes = await agents(kube, cluster.system)
        if enforcement_tier:
            _show_tiers(cluster, nodes)
            return
        pods = await operator_pods(kube, cluster.system)
        webhook = await _webhook(kube)
        injected = await _injected(kube)
        authority = await kube.get_config_map(cluster.system, "cloudtaser-ca")
    needs = [one.problem for one in nodes if one.problem]
    if not pods:
        needs.append(f"the operator is not installed in namespace {cluster.system}")
    needs += [f"replica {pod.name} of the operator is not ready" for pod in pods if not pod.ready]
    needs += [webhook] if webhook else []
    if pods and not (authority and authority.data.get("pod-ca.crt")):
        needs.append("the cluster was never initialised: register it, and see `target validate`")
    data = {
        "operator": [
            {
                "pod": pod.name,
                "ready": pod.ready,
                "node": pod.node,
                "restarts": pod.restarts,
                "version": pod.version,
            }
            for pod in pods
        ],
        "agents": [_agent(one) for one in nodes],
        "injected": [{"namespace": name, "pods": count} for name, count in sorted(injected.items())],
        "needs": needs,
    }
    printer, text = cluster.printer, list[str]()
    if pods:
        rows = [
            (pod.name, "yes" if pod.ready else "no", pod.node, str(pod.restarts), pod.version) for pod in pods
        ]
        text += [*printer.table(("OPERATOR", "READY", "NODE", "RESTARTS", "VERSION"), rows), ""]
    if nodes:
        text += [*_tiers(cluster, nodes), ""]
    text.append(f"Injected pods: {sum(injected.values())} in {len(injected)} namespaces")
    text += ["", *(["Needs a person:", *(f"  {one}" for one in needs)] if needs else ["All is well."])]
    printer.answer(data, text=text, value=needs)
    if needs:
        raise typer.Exit(DiffersError.exit_code)


def _show_tiers(cluster: Cluster, nodes: list[Agent]) -> None:
    text = _tiers(cluster, nodes) if nodes else ["No agent runs in this cluster."]
    cluster.printer.answer(
        [_agent(one) for one in nodes],
        text=text,
        value=[f"{one.node} {one.status.get('tier', 'none')}" for one in nodes],
    )


def _tiers(cluster: Cluster, nodes: list[Agent]) -> list[str]:
    rows = []
    for one in nodes:
        told = _agent(one)
        held = f"{told['hold']} of {told['known']}" if told["known"] else "-"
        rows.append((one.node, told["tier"], told["mode"], held, one.problem))
    return cluster.printer.table(("NODE", "TIER", "MODE", "VECTORS HELD", "PROBLEM"), rows)


def _agent(one: Agent) -> Json:
    vectors = one.status.get("vectors")
    counted = vectors if isinstance(vectors, dict) else {}
    return {
        "node": one.node,
        "tier": str(one.status.get("tier") or "none"),
        "mode": str(one.status.get("mode") or "-"),
        "known": counted.get("known", 0),
        "hold": counted.get("hold", 0),
        "problem": one.problem,
    }


async def _webhook(kube: KubeApi) -> str:
    """What is wrong with the webhook's configuration; empty when nothing is, or it may not be read."""
    from cloudtaser.cli.target.explanation import WEBHOOK
    from cloudtaser.kube.errors import NotFoundError
    from cloudtaser.kube.kinds import MUTATING_WEBHOOKS

    try:
        found = await kube.get_object(MUTATING_WEBHOOKS, None, WEBHOOK)
    except NotFoundError:
        return f"there is no MutatingWebhookConfiguration {WEBHOOK}: nothing is injected"
    except NotAuthorisedError:
        return ""
    hooks = found.get("webhooks") or ()
    if not all((one.get("clientConfig") or {}).get("caBundle") for one in hooks):
        return "the webhook has no caBundle: the API server cannot ask it"
    return ""


async def _injected(kube: KubeApi) -> Counter[str]:
    """How many injected pods there are, by namespace."""
    from cloudtaser.kube.injection import is_injected
    from cloudtaser.kube.kinds import PODS

    counted: Counter[str] = Counter()
    try:
        for pod in (await kube.list_objects(PODS, max_objects=MAX_PODS)).items:
            counted[str(pod["metadata"]["namespace"])] += is_injected(pod)
    except CloudtaserError:
        return Counter()
    return +counted
