"""`target explain`: why a pod was or was not injected, on one screen."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cloudtaser.cli.output import wrapped
from cloudtaser.cli.target.cluster import Cluster, command, example
from cloudtaser.errors import CloudtaserError, DiffersError, NotAuthorisedError

if TYPE_CHECKING:
    from cloudtaser.cli.target.explanation import Explanation, Told, View
    from cloudtaser.kube.client import KubeApi
    from cloudtaser.kube.injection import Wrapped

Json = dict[str, Any]

LOG_LINES: Final = 5_000
LOG_BYTES: Final = 2 * 1024 * 1024
_EVENTS_SHOWN: Final = 5

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog=example("explain web-0 -n shop", "explain web-0 -n shop -o json", differs="if it was not injected")
)
@command
async def explain(
    cluster: Cluster,
    pod: Annotated[str, typer.Argument(metavar="POD", help="The pod's name.", show_default=False)],
) -> None:
    """Explain why a pod was or was not injected. With command, role, policy, score and last fetch.

    Nothing is changed. Where a pod asked and was not injected, the same pod is sent to the API server
    once more as a dry run, to see what the webhook would do with it now. Score and last fetch are read
    from the container's log, where the wrapper writes them; that, and the webhook's configuration, are
    left out where you may not read them.
    """
    from cloudtaser.cli.target.explanation import explain as judge
    from cloudtaser.kube.kinds import PODS

    access = cluster.access()
    async with cluster.connect(access) as kube:
        found = await kube.get_object(PODS, access.namespace, pod)
        view = await _view(kube, found, cluster.system)
        told = await _told(kube, access.namespace, pod, judge(view).containers)
        events = await _events(kube, access.namespace, pod)
    answer = judge(view)
    _show(cluster, found, answer, told, events)
    if not answer.injected:
        raise typer.Exit(DiffersError.exit_code)


async def _view(kube: KubeApi, pod: Json, system: str) -> View:
    from cloudtaser.cli.target.explanation import WEBHOOK, View
    from cloudtaser.kube.annotations import is_asked
    from cloudtaser.kube.injection import is_injected
    from cloudtaser.kube.kinds import MUTATING_WEBHOOKS, NAMESPACES

    metadata = pod["metadata"]
    namespace = await _try(kube.get_object(NAMESPACES, None, metadata["namespace"]))
    webhook, readable = None, True
    try:
        webhook = await kube.get_object(MUTATING_WEBHOOKS, None, WEBHOOK)
    except NotAuthorisedError:
        readable = False
    except CloudtaserError:
        webhook = None
    now, said = None, list[str]()
    asked = is_asked(metadata.get("annotations") or {}, metadata.get("labels") or {})
    if asked and not is_injected(pod):
        now, said = await _dry_run(kube, pod)
    return View(pod, namespace, webhook, readable, system, now, tuple(said))


async def _dry_run(kube: KubeApi, pod: Json) -> tuple[bool | None, list[str]]:
    """Whether the same pod would be injected now, and what is said to it."""
    from cloudtaser.kube.injection import is_injected
    from cloudtaser.kube.kinds import PODS

    metadata, spec = pod["metadata"], dict(pod["spec"])
    spec.pop("nodeName", None)
    spec.pop("ephemeralContainers", None)
    # what the ServiceAccount admission adds would be refused a second time where its name is taken
    again: Json = {
        "metadata": {
            "generateName": "cloudtaser-explain-",
            "namespace": metadata["namespace"],
            "labels": metadata.get("labels") or {},
            "annotations": metadata.get("annotations") or {},
        },
        "spec": spec,
    }
    said: list[str] = []
    kube.on_warning = said.append
    try:
        made = await kube.create_object(PODS, again, dry_run=True)
    except NotAuthorisedError:
        return None, []
    except CloudtaserError as error:
        return False, [*said, error.what]
    finally:
        kube.on_warning = None
    return is_injected(made), said


async def _told(kube: KubeApi, namespace: str, pod: str, containers: tuple[Wrapped, ...]) -> dict[str, Told]:
    from cloudtaser.cli.target.explanation import read_log

    found: dict[str, Told] = {}
    for container in containers:
        with contextlib.suppress(CloudtaserError):  # it has not begun, or its log may not be read
            text = await kube.pod_log(namespace, pod, container.name, lines=LOG_LINES, limit_bytes=LOG_BYTES)
            found[container.name] = read_log(text)
    return found


async def _events(kube: KubeApi, namespace: str, pod: str) -> list[str]:
    from cloudtaser.kube.kinds import EVENTS

    try:
        page = await kube.list_page(EVENTS, namespace, field_selector=f"regarding.name={pod},type=Warning")
    except CloudtaserError:
        return []
    lines = [
        (
            str(one.get("deprecatedLastTimestamp") or one.get("eventTime") or ""),
            f"{one.get('reason')}: {one.get('note')}",
        )
        for one in page.items
    ]
    return [text for _, text in sorted(lines)[-_EVENTS_SHOWN:]]


async def _try(reading: Any) -> Json | None:
    try:
        found: Json = await reading
    except CloudtaserError:
        return None
    return found


def _show(
    cluster: Cluster, pod: Json, answer: Explanation, told: Mapping[str, Told], events: list[str]
) -> None:
    from cloudtaser.cli.target.explanation import Told, policies

    metadata, spec = pod["metadata"], pod["spec"]
    account = str(spec.get("serviceAccountName") or "default")
    rows = []
    for one in answer.containers:
        log = told.get(one.name, Told())
        rows.append(
            {
                "name": one.name,
                "kind": one.kind,
                "command": list(one.command),
                "address": one.address,
                "method": one.method,
                "role": one.role,
                "policies": list(policies(one.role, metadata["namespace"], account, one.method)),
                "paths": list(log.paths or one.paths),
                "delivery": one.delivery,
                "rotation": one.rotation,
                "score": log.score,
                "missing": list(log.missing),
                "secrets": log.secrets,
                "fetched_at": log.fetched_at,
                "trouble": log.trouble,
            }
        )
    data = {
        "namespace": metadata["namespace"],
        "pod": metadata["name"],
        "injected": answer.injected,
        "containers": rows,
        "reasons": [{"what": one.what, "fix": one.fix} for one in answer.reasons],
        "notes": list(answer.notes),
        "events": events,
    }
    word = "injected" if answer.injected else "not injected"
    text = [cluster.printer.strong(f"{metadata['namespace']}/{metadata['name']}: {word}")]
    for reason in answer.reasons:
        text += [
            "",
            *wrapped(f"Why: {reason.what}."),
            *(wrapped(f"Fix: {reason.fix}.") if reason.fix else []),
        ]
    for row in rows:
        text += ["", *_container(row)]
    for head, lines in (("Notes:", answer.notes), ("Events:", events)):
        if lines:
            text += ["", head, *(f"  {line}" for line in lines)]
    cluster.printer.answer(data, text=text, value=[word])


def _container(row: Json) -> list[str]:
    fetched = (
        f"{row['secrets']} from {', '.join(row['paths'])}" if row["fetched_at"] else ", ".join(row["paths"])
    )
    missing = f" (without {', '.join(row['missing'])})" if row["missing"] else ""
    lines = [
        ("Container", f"{row['name']} ({row['kind']})"),
        ("Command", " ".join(row["command"])),
        ("OpenBao", f"{row['address']}, {row['method']} login"),
        ("Role", f"{row['role']}, policy {', '.join(row['policies'])}"),
        ("Secrets", fetched or "none that the pod names"),
        ("Delivery", f"{row['delivery']}, rotation by {row['rotation']}"),
        ("Last fetch", row["fetched_at"] or "not in the log that was read"),
        ("Score", f"{row['score']}{missing}" if row["score"] else "not in the log that was read"),
        ("Trouble", row["trouble"]),
    ]
    return [f"{head:<11} {value}" for head, value in lines if value]
