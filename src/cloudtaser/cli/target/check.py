"""`target check`: whether each node is what wrappers and agents need."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cloudtaser.cli.target.cluster import Cluster, command, example
from cloudtaser.errors import CloudtaserError, DiffersError, UnavailableError

if TYPE_CHECKING:
    from cloudtaser.cli.target.requirements import Finding
    from cloudtaser.kube.client import KubeApi

Json = dict[str, Any]

MAX_NODES: Final = 5_000
AT_ONCE: Final = 8
PROBE_SECONDS: Final = 90
_POLL: Final = 0.5
_LIMITS: Final = {"cpu": "200m", "memory": "64Mi"}
_LABEL: Final = "cloudtaser.io/node-probe"

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog=example("check", "check --no-pods", "check -o json", differs="if a node fails a check"))
@command
async def check(
    cluster: Cluster,
    no_pods: Annotated[
        bool, typer.Option("--no-pods", help="Start nothing: what only a pod could tell stays unknown.")
    ] = False,
    image: Annotated[
        str, typer.Option(help="Image with python3 for those pods; default the operator's own.")
    ] = "",
) -> None:
    """Check the nodes. Runtime, cgroups, swap, kernel, BPF LSM, BTF, secret memory, confidential VM.

    A node is asked through its eBPF agent where one runs. Elsewhere a pod that ends within seconds is
    started in the operator's namespace (or, with --image, in yours), and removed; --no-pods leaves
    that out. The pod reads a few files of /proc and /sys, and has no token and no network to speak of.
    """
    from cloudtaser.cli.target.requirements import judge, worst
    from cloudtaser.kube.kinds import NODES

    access = cluster.access()
    async with cluster.connect(access) as kube:
        nodes = (await kube.list_objects(NODES, max_objects=MAX_NODES)).items
        facts, notes = await _facts(kube, nodes, cluster.system, access.namespace, image, no_pods)
    answers = {
        str(node["metadata"]["name"]): judge(node, facts.get(node["metadata"]["name"])) for node in nodes
    }
    data = [
        {
            "node": name,
            "verdict": worst(found),
            "checks": [
                {"name": one.name, "verdict": one.verdict, "found": one.found, "fix": one.fix}
                for one in found
            ],
        }
        for name, found in answers.items()
    ]
    cluster.printer.answer(
        data, text=_lines(cluster, answers), value=[f"{one['node']} {one['verdict']}" for one in data]
    )
    for note in notes:
        cluster.printer.note(note)
    if any(one["verdict"] == "fail" for one in data):
        raise typer.Exit(DiffersError.exit_code)


def _lines(cluster: Cluster, answers: dict[str, list[Finding]]) -> list[str]:
    lines: list[str] = []
    for name, found in answers.items():
        rows = [(one.name, one.verdict, one.found) for one in found]
        lines += [cluster.printer.strong(name), *cluster.printer.table(("CHECK", "VERDICT", "FOUND"), rows)]
        lines += [f"  {one.name}: {one.fix}" for one in found if one.fix]
        lines.append("")
    return lines[:-1] or ["There are no nodes."]


async def _facts(
    kube: KubeApi, nodes: tuple[Json, ...], system: str, namespace: str, image: str, no_pods: bool
) -> tuple[dict[str, Json], list[str]]:
    """What is known of each node by name, and what could not be found out."""
    facts, notes = await _of_agents(kube, system)
    missing = [str(node["metadata"]["name"]) for node in nodes if node["metadata"]["name"] not in facts]
    if no_pods or not missing:
        return facts, notes
    where = namespace if image else system
    try:
        image = image or await _operator_image(kube, system)
    except CloudtaserError as error:
        return facts, [*notes, f"No pod was started: {error.diagnostic()}. Give --image, or --no-pods."]
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(node: str) -> None:
        async with turns:
            try:
                facts[node] = await _of_pod(kube, where, node, image)
            except CloudtaserError as error:
                notes.append(f"{node}: {error.diagnostic()}")

    await asyncio.gather(*map(one, missing))
    return facts, notes


async def _of_agents(kube: KubeApi, system: str) -> tuple[dict[str, Json], list[str]]:
    from cloudtaser.cli.target.system import agents

    facts: dict[str, Json] = {}
    notes: list[str] = []
    for agent in await agents(kube, system):
        if agent.problem:
            notes.append(f"{agent.node}: {agent.problem}")
            continue
        told = agent.status.get("machine")
        if isinstance(told, dict):
            facts[agent.node] = {**told, "cgroup": told.get("cgroup")}
    return facts, notes


async def _operator_image(kube: KubeApi, system: str) -> str:
    from cloudtaser.cli.target.system import ready_operator
    from cloudtaser.kube.kinds import PODS

    pod = await kube.get_object(PODS, system, (await ready_operator(kube, system)).name)
    return str(pod["spec"]["containers"][0]["image"])


async def _of_pod(kube: KubeApi, namespace: str, node: str, image: str) -> Json:
    """Run the probe on a node. With the node's list of security modules where such a pod is admitted."""
    from cloudtaser.kube.errors import KubeForbiddenError
    from cloudtaser.kube.kinds import PODS

    try:
        made = await kube.create_object(PODS, _probe_pod(namespace, node, image, host=True))
    except KubeForbiddenError:  # Pod Security: without a look at the host, then
        made = await kube.create_object(PODS, _probe_pod(namespace, node, image, host=False))
    name = str(made["metadata"]["name"])
    try:
        phase = await _ended(kube, namespace, name)
        log = await kube.pod_log(namespace, name, "probe", lines=20, limit_bytes=64 * 1024)
        answer = json.loads(log.splitlines()[-1]) if phase == "Succeeded" and log.strip() else None
    except ValueError:
        answer = None
    finally:
        with contextlib.suppress(CloudtaserError):
            await asyncio.shield(kube.delete_object(PODS, namespace, name, grace_seconds=0))
    if not isinstance(answer, dict):
        raise UnavailableError(
            "the probe printed nothing of use", on=f"pod {namespace}/{name}", fix="give --image"
        )
    return answer


async def _ended(kube: KubeApi, namespace: str, name: str) -> str:
    from cloudtaser.kube.kinds import PODS

    why = "it was not started"
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            while True:
                status = (await kube.get_object(PODS, namespace, name)).get("status") or {}
                if status.get("phase") in ("Succeeded", "Failed"):
                    return str(status["phase"])
                for one in status.get("containerStatuses") or ():
                    why = str(((one.get("state") or {}).get("waiting") or {}).get("reason") or why)
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise UnavailableError(
            f"the probe did not end within {PROBE_SECONDS} s: {why}", on=f"pod {namespace}/{name}"
        ) from None


def _probe_pod(namespace: str, node: str, image: str, *, host: bool) -> Json:
    from importlib.resources import files

    program = files("cloudtaser.cli.target").joinpath("node_probe.py").read_text(encoding="utf-8")
    security: Json = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "capabilities": {"drop": ["ALL"]},
        # under RuntimeDefault no container may ask for secret memory on older runtimes
        "seccompProfile": {"type": "Unconfined" if host else "RuntimeDefault"},
    }
    container: Json = {
        "name": "probe",
        "image": image,
        "command": ["python3", "-I", "-c", program],
        "securityContext": security,
        "resources": {
            "limits": {"cpu": "200m", "memory": "64Mi"},
            "requests": {"cpu": "10m", "memory": "16Mi"},
        },
    }
    spec: Json = {
        "nodeName": node,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "activeDeadlineSeconds": PROBE_SECONDS,
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
    }
    if host:
        # not the file itself: a pod waits for ever for one that a node has not
        container["volumeMounts"] = [{"name": "kernel", "mountPath": "/host/kernel", "readOnly": True}]
        spec["volumes"] = [{"name": "kernel", "hostPath": {"path": "/sys/kernel"}}]
    return {
        "metadata": {"generateName": "cloudtaser-check-", "namespace": namespace, "labels": {_LABEL: "true"}},
        "spec": spec,
    }
