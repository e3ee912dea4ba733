"""`target validate`: every hop from here to a secret, tried one after the other, with the time each took."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cloudtaser.cli.target.cluster import Cluster, command, example
from cloudtaser.errors import CloudtaserError, NotAuthorisedError

if TYPE_CHECKING:
    from cloudtaser.cli.target.diagnosis import Step
    from cloudtaser.kube.client import KubeApi

Json = dict[str, Any]

_REPORT_SECONDS: Final = 60.0

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog=example("validate", "validate -n shop --pod web-0", "validate -n shop -o json"))
@command
async def validate(
    cluster: Cluster,
    pod: Annotated[
        str, typer.Option(help="Log in and read as this injected pod; default any of the namespace.")
    ] = "",
) -> None:
    """Try every hop. API server, operator, webhook, broker, beacon, bridge, OpenBao, login, a read.

    The operator is asked for a report of its own way (it makes a DebugReport, and removes it). The
    webhook is tried by a dry run. Then TLS is opened to the bridge as a pod does it, and a login and a
    read are made under a ten-minute token of an injected pod, whose OpenBao token is revoked at once;
    what was read is not shown. Without an injected pod, or the right to make tokens of its
    ServiceAccount, these two are left out.

    The first step that does not work is the broken one; its fix is printed.
    """
    access = cluster.access()
    async with cluster.connect(access) as kube:
        steps = await _steps(kube, cluster.system, access.namespace, pod)
    broken = next((one for one in steps if one.ok is False), None)
    data = {
        "works": broken is None,
        "broken": broken.name if broken else "",
        "steps": [asdict(one) for one in steps],
    }
    rows = [(one.name, _word(one), _time(one), one.detail) for one in steps]
    text = cluster.printer.table(("STEP", "WORKS", "MS", "FOUND"), rows)
    for one in steps:
        if one.fix and (one.ok is False or one.warning):
            text += ["", f"{one.name}: {one.fix}."]
    cluster.printer.answer(data, text=text, value=[broken.name if broken else "works"])
    if broken:
        raise typer.Exit(1)


async def _steps(kube: KubeApi, system: str, namespace: str, pod: str) -> list[Step]:
    from cloudtaser.cli.target.diagnosis import Step, read
    from cloudtaser.cli.target.system import ready_operator
    from cloudtaser.cli.target.way import SKIPPED, as_a_pod, tried

    steps = [await tried("API server", lambda: _fingerprint(kube))]
    if steps[-1].ok:
        steps.append(await tried("operator", lambda: _operator(kube, system)))
    if not steps[-1].ok:
        return [*steps, Step("webhook", None, SKIPPED), Step("way to OpenBao", None, SKIPPED)]
    steps.append(await tried("webhook", lambda: _webhook(kube, namespace)))
    try:
        report = await _report(kube, system)
        found = read(report, time.time())
        steps += [one for one in found if one.name != "API server"]
    except NotAuthorisedError as error:
        steps.append(Step("way to OpenBao", None, f"not tried: {error.diagnostic()}"))
    except CloudtaserError as error:
        steps.append(Step("way to OpenBao", False, error.what, fix=error.fix or "read the operator's log"))
    if any(one.ok is False for one in steps[3:]):
        return [*steps, Step("TLS to the bridge", None, SKIPPED), Step("login", None, SKIPPED)]
    operator = await ready_operator(kube, system)
    return [*steps, *await as_a_pod(kube, system, operator.name, namespace, pod)]


async def _fingerprint(kube: KubeApi) -> str:
    return f"cluster {await kube.namespace_uid('kube-system')}"


async def _operator(kube: KubeApi, system: str) -> str:
    from cloudtaser.cli.target.system import operator_pods, ready_operator

    await ready_operator(kube, system)
    pods = await operator_pods(kube, system)
    return f"{sum(pod.ready for pod in pods)} of {len(pods)} replicas are ready"


async def _webhook(kube: KubeApi, namespace: str) -> str:
    """Have the API server ask the webhook about a pod that is not made."""
    from cloudtaser.errors import UnavailableError
    from cloudtaser.kube.annotations import INJECT
    from cloudtaser.kube.injection import is_injected
    from cloudtaser.kube.kinds import PODS

    said: list[str] = []
    kube.on_warning = said.append
    probe: Json = {
        "metadata": {
            "generateName": "cloudtaser-validate-",
            "namespace": namespace,
            "annotations": {INJECT: "true"},
        },
        "spec": {
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "image": "cloudtaser.invalid/validate",
                    "command": ["/probe"],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
    try:
        made = await kube.create_object(PODS, probe, dry_run=True)
    finally:
        kube.on_warning = None
    if not is_injected(made):
        raise UnavailableError(
            said[-1] if said else "a pod that asks is not injected",
            on=f"namespace {namespace}",
            fix="see `target status`, and whether the namespace is excluded",
        )
    return "a pod that asks is injected"


async def _report(kube: KubeApi, system: str) -> Json:
    from cloudtaser.cli.target.debug import make_report

    status = await make_report(kube, system, ["hops", "errors"], timeout=_REPORT_SECONDS)
    report = status.get("report")
    return report if isinstance(report, dict) else {}


def _word(step: Step) -> str:
    return "-" if step.ok is None else "yes" if step.ok else "no"


def _time(step: Step) -> str:
    return "-" if step.milliseconds is None else f"{step.milliseconds:.0f}"
