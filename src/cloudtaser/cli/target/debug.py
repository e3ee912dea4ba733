"""`target debug`: a report of the operator about itself and its way to OpenBao, printed or saved."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cloudtaser.cli.target.cluster import Cluster, command, example
from cloudtaser.errors import CloudtaserError, ConfigError, DiffersError, UnavailableError, UsageError

if TYPE_CHECKING:
    from cloudtaser.kube.client import KubeApi

Json = dict[str, Any]

DEFAULT_TIMEOUT: Final = 60
_POLL: Final = 0.5
_TTL: Final = "10m"

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog=example(
        "debug",
        "debug --check errors --check hops",
        "debug --save report.json",
        differs="if a step does not work",
    )
)
@command
async def debug(
    cluster: Cluster,
    check: Annotated[
        list[str] | None,
        typer.Option(help="hops, versions, certificates, events, pods, webhook or errors; may repeat."),
    ] = None,
    save: Annotated[
        str, typer.Option("--save", metavar="FILE", help="Write the report there as JSON, mode 0600.")
    ] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the DebugReport in the cluster.")] = False,
    timeout: Annotated[int, typer.Option(min=1, max=3600, help="Seconds to wait for it.")] = DEFAULT_TIMEOUT,
) -> None:
    """Have the operator report on itself. Steps to OpenBao, certificates, events, errors of the relay.

    It makes a DebugReport in the operator's namespace, waits until the operator has filled it in, and
    removes it again. The report holds no secret, token or key; names of pods and addresses it does.
    """
    async with cluster.connect() as kube:
        report = await make_report(kube, cluster.system, check or [], timeout=timeout, keep=keep)
    if save:
        _save(Path(save), report)
    cluster.printer.answer(report, text=_lines(cluster, report), value=[str(report.get("message", ""))])
    if any(one.get("ok") is False for one in (report.get("report") or {}).get("hops") or ()):
        raise typer.Exit(DiffersError.exit_code)


async def make_report(
    kube: KubeApi, namespace: str, checks: list[str], *, timeout: float, keep: bool = False
) -> Json:
    """The status of a DebugReport that was made for it. UnavailableError when nobody fills it in."""
    from cloudtaser.kube.resources import CHECKS, DEBUG_REPORTS

    unknown = [one for one in checks if one not in CHECKS]
    if unknown:
        raise UsageError("no such check", on=", ".join(unknown), fix=f"one of {', '.join(CHECKS)}")
    spec: Json = {"ttl": _TTL} | ({"checks": sorted(set(checks))} if checks else {})
    made = await kube.create_object(
        DEBUG_REPORTS,
        {"metadata": {"generateName": "cli-", "namespace": namespace}, "spec": spec},
    )
    name = str(made["metadata"]["name"])
    status: Json = {}
    try:
        async with asyncio.timeout(timeout):
            while status.get("phase") not in ("Complete", "Failed"):
                await asyncio.sleep(_POLL)
                status = (await kube.get_object(DEBUG_REPORTS, namespace, name)).get("status") or {}
    except TimeoutError:
        raise UnavailableError(
            f"the operator did not finish the report in {timeout:g} s ({status.get('phase', 'not begun')})",
            on=f"debugreport {namespace}/{name}",
            fix=f"see whether it runs: kubectl -n {namespace} get pods",
        ) from None
    finally:
        if not keep:
            await asyncio.shield(_remove(kube, namespace, name))
    if status.get("phase") == "Failed":
        raise UnavailableError(
            f"the operator could not make the report: {status.get('message', '')}", on=f"{namespace}/{name}"
        )
    return status


async def _remove(kube: KubeApi, namespace: str, name: str) -> None:
    from cloudtaser.kube.resources import DEBUG_REPORTS

    try:
        await kube.delete_object(DEBUG_REPORTS, namespace, name)
    except CloudtaserError:
        return  # the operator removes it after its ttl


def _save(path: Path, report: Json) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2, ensure_ascii=False)
            file.write("\n")
    except OSError as error:
        raise ConfigError(f"cannot write the report: {error.strerror}", on=str(path)) from None


def _lines(cluster: Cluster, status: Json) -> list[str]:
    report, printer = status.get("report") or {}, cluster.printer
    lines = [str(status.get("message", ""))]
    hops = report.get("hops") or []
    if hops:
        lines += ["", *printer.table(("STEP", "WORKS", "MS", "FOUND"), [_hop(one) for one in hops])]
        lines += [
            f"  {one['name']}: {one['fix']}" for one in hops if one.get("ok") is False and one.get("fix")
        ]
    if report.get("versions"):
        lines += [
            "",
            "Versions:",
            *(f"  {name} {value}" for name, value in sorted(report["versions"].items())),
        ]
    certificates = report.get("certificates") or []
    if certificates:
        rows = [(one["name"], one.get("notAfter", "-"), one.get("problem", "")) for one in certificates]
        lines += ["", *printer.table(("CERTIFICATE", "ENDS", "PROBLEM"), rows)]
    webhook = report.get("webhook")
    if webhook:
        lines += ["", f"Webhook: {webhook.get('problem') or 'registered, and trusted by the API server'}"]
    if "injectedPods" in report:
        lines += ["", f"Injected pods: {report['injectedPods']}"]
    for head, key, shown in (
        ("Events:", "events", "{time} {reason} {regarding}: {note}"),
        ("Errors of the relay:", "errors", "{time} {part} {beacon} {code}: {message}"),
    ):
        entries = report.get(key) or []
        if entries:
            lines += ["", head, *(f"  {shown.format_map(_Blank(one))}" for one in entries)]
    for name, why in sorted((report.get("failed") or {}).items()):
        lines.append(f"{name} could not be looked at: {why}")
    return lines


class _Blank(dict[str, Any]):
    """A dict whose missing members are dashes."""

    def __missing__(self, key: str) -> str:
        return "-"


def _hop(one: Json) -> tuple[str, str, str, str]:
    works = "-" if "ok" not in one else "yes" if one["ok"] else "no"
    spent = one.get("milliseconds")
    return str(one.get("name")), works, "-" if spent is None else f"{spent:.0f}", str(one.get("detail", ""))
