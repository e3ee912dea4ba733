"""System: where cloudtaser's own parts are in a cluster, and the ways to them through the API server.

Used by the `target` commands. Everything is found by the labels and names that the chart gives.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.wire.names import POD_CA_CONFIGMAP

if TYPE_CHECKING:
    from cloudtaser.kube.client import KubeApi

Json = dict[str, Any]

OPERATOR_SELECTOR: Final = "app.kubernetes.io/name=cloudtaser,app.kubernetes.io/component=operator"
AGENT_SELECTOR: Final = "app.kubernetes.io/name=cloudtaser,app.kubernetes.io/component=ebpf"
BROKER_PORT: Final = 8443
ADMIN_PORT: Final = 8445
METRICS_PORT: Final = 8080
PROBE_PORT: Final = 8081
AGENT_PORT: Final = 9090
_AT_ONCE: Final = 8
_SECONDS: Final = 20.0
_INSTALL: Final = "install the chart there, or name its namespace by --system-namespace"


@dataclass(frozen=True, slots=True)
class OperatorPod:
    """One replica of the operator."""

    name: str
    ready: bool
    node: str
    restarts: int
    version: str
    """Of its image, as the chart labels it."""


async def operator_pods(kube: KubeApi, namespace: str) -> list[OperatorPod]:
    """The operator's replicas, those that are ready first."""
    from cloudtaser.kube.kinds import PODS

    found = await kube.list_objects(PODS, namespace, label_selector=OPERATOR_SELECTOR)
    pods = [_operator_pod(pod) for pod in found.items if not pod["metadata"].get("deletionTimestamp")]
    return sorted(pods, key=lambda pod: (not pod.ready, pod.name))


async def ready_operator(kube: KubeApi, namespace: str) -> OperatorPod:
    """A replica that is ready; UnavailableError where there is none."""
    pods = await operator_pods(kube, namespace)
    if not pods:
        raise UnavailableError("the operator is not installed", on=f"namespace {namespace}", fix=_INSTALL)
    if not pods[0].ready:
        raise UnavailableError(
            "no replica of the operator is ready",
            on=f"pod {namespace}/{pods[0].name}",
            fix=f"see kubectl -n {namespace} describe pod {pods[0].name}",
        )
    return pods[0]


@dataclass(frozen=True, slots=True)
class Agent:
    """One node's eBPF agent and what it says of itself; `problem`: why it says nothing."""

    node: str
    pod: str
    status: Json = field(default_factory=dict)
    problem: str = ""


async def agents(kube: KubeApi, namespace: str) -> list[Agent]:
    """The agents of all nodes, asked at their own port of the loopback device."""
    from cloudtaser.kube.kinds import PODS

    found = await kube.list_objects(PODS, namespace, label_selector=AGENT_SELECTOR)
    turns = asyncio.Semaphore(_AT_ONCE)

    async def ask(pod: Json) -> Agent:
        name, node = str(pod["metadata"]["name"]), str((pod.get("spec") or {}).get("nodeName") or "")
        async with turns:
            try:
                return Agent(node, name, await get_json(kube, namespace, name, AGENT_PORT, "/status"))
            except CloudtaserError as error:
                return Agent(node, name, problem=error.diagnostic())

    return sorted(await asyncio.gather(*map(ask, found.items)), key=lambda agent: agent.node)


async def get_json(kube: KubeApi, namespace: str, pod: str, port: int, path: str) -> Json:
    """What a pod's plain HTTP port answers, through a port-forward. UnavailableError, ProtocolError."""
    from cloudtaser.kube.portforward import PortForward
    from cloudtaser.net.dial import Address, dial_tcp
    from cloudtaser.net.http import request

    async with PortForward(kube, namespace, pod, port) as forward:
        where = Address(*forward.address)
        try:
            _, _, body = await request(
                lambda protocol: dial_tcp(where, lambda: protocol),
                b"GET",
                path.encode(),
                ((b"host", b"localhost"),),
                timeout=_SECONDS,
            )
            answer = json.loads(body)
        except ValueError:
            answer = None
        except CloudtaserError as error:
            raise UnavailableError(forward.complaint or error.what, on=f"pod {namespace}/{pod}") from None
    if not isinstance(answer, dict):
        raise ProtocolError("its answer is not a JSON object", on=f"{path} of pod {namespace}/{pod}")
    return answer


async def pod_ca(kube: KubeApi, namespace: str) -> str:
    """The pod CA, PEM, as the operator stored it; UnavailableError before the cluster was initialised."""
    found = await kube.get_config_map(namespace, POD_CA_CONFIGMAP)
    pem = found.data.get("pod-ca.crt", "") if found else ""
    if not pem:
        raise UnavailableError(
            "the cluster was never initialised: there is no pod CA",
            on=f"ConfigMap {namespace}/{POD_CA_CONFIGMAP}",
            fix="register the cluster (`target fingerprint`), and see `target validate`",
        )
    return pem


def _operator_pod(pod: Json) -> OperatorPod:
    status, metadata = pod.get("status") or {}, pod["metadata"]
    conditions = {one.get("type"): one.get("status") for one in status.get("conditions") or ()}
    return OperatorPod(
        name=str(metadata["name"]),
        ready=conditions.get("Ready") == "True",
        node=str((pod.get("spec") or {}).get("nodeName") or ""),
        restarts=sum(int(one.get("restartCount") or 0) for one in status.get("containerStatuses") or ()),
        version=str((metadata.get("labels") or {}).get("app.kubernetes.io/version") or ""),
    )
