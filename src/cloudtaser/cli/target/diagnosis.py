"""Diagnosis: the operator's report of its way to OpenBao, read as a person would who has seen it before.

Pure. Used by `validate`. Each row of the troubleshooting table of docs/cli.md is a case here: which step is
broken, what the errors of the relay say about the cause, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

FAR: Final = 300.0
"""Milliseconds of one request through the tunnel from which on the way is long."""
DROPS: Final = 5
"""Losses of beacon or tunnel within RECENT that make a link restless."""
RECENT: Final = 3600.0
UNTRUSTED: Final = ("untrusted", "protocol", "handshake", "config")
"""Codes of errors in a tunnel's own handshake: the two sides do not hold certificates of one CA."""


@dataclass(frozen=True, slots=True)
class Step:
    """One hop. `ok` None: it was not tried."""

    name: str
    ok: bool | None
    detail: str = ""
    milliseconds: float | None = None
    fix: str = ""
    warning: bool = False
    """It works, and something should be done all the same."""


def read(report: Mapping[str, Any], now: float) -> list[Step]:
    """The steps of a DebugReport's section `hops`, with causes and fixes; `now` in Unix seconds."""
    errors = [one for one in report.get("errors") or () if isinstance(one, Mapping)]
    steps = [_step(one) for one in report.get("hops") or () if isinstance(one, Mapping)]
    return [_known(step, errors, now) for step in steps]


def _step(one: Mapping[str, Any]) -> Step:
    ok, spent = one.get("ok"), one.get("milliseconds")
    return Step(
        str(one.get("name") or "?"),
        ok if isinstance(ok, bool) else None,
        str(one.get("detail") or ""),
        float(spent) if isinstance(spent, int | float) else None,
        str(one.get("fix") or ""),
    )


def _known(step: Step, errors: Sequence[Mapping[str, Any]], now: float) -> Step:
    match step.name:
        case "beacon" if step.ok is False:
            return _beacon(step, errors)
        case "beacon" if step.ok and (drops := _recent(errors, now)) >= DROPS:
            return replace(
                step,
                detail=f"{step.detail}; {drops} losses within the last hour".lstrip("; "),
                fix="the link is not steady: check the network; see `target debug --check errors`",
                warning=True,
            )
        case "bridge" if step.ok and (step.milliseconds or 0.0) > FAR:
            return replace(
                step,
                detail=f"{step.detail}, {step.milliseconds:.0f} ms away".lstrip(", "),
                fix="the beacon is far away: run one closer to both sides, or use reverse mode",
                warning=True,
            )
        case "logins" if step.ok is False:
            return replace(
                step,
                fix="the login of this cluster is not set up or is suspended: `cloudtaser-cli source status` "
                "beside OpenBao, and `source register` or `source accept-keys`",
            )
    return step


def _beacon(step: Step, errors: Sequence[Mapping[str, Any]]) -> Step:
    refused = [one for one in errors if one.get("part") in ("tunnel", "enrolment")]
    if refused and any(word in str(refused[-1].get("code") or "") for word in UNTRUSTED):
        return replace(
            step,
            detail=f"a bridge comes, and no tunnel stands: {refused[-1].get('message')}",
            fix="the two sides hold certificates of different CAs: compare `cloudtaser-cli source show`, "
            "then run `source register` again",
        )
    if step.detail.startswith("parked"):
        return replace(
            step,
            fix="no bridge comes: beside OpenBao, let the bridge out to that address (TCP 443), and register "
            "this cluster there (`cloudtaser-cli source status`)",
        )
    return replace(step, fix="let the cluster out to that address (TCP 443), if it is the right one")


def _recent(errors: Sequence[Mapping[str, Any]], now: float) -> int:
    return sum(1 for one in errors if one.get("part") in ("beacon", "tunnel") and now - _when(one) < RECENT)


def _when(error: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(error.get("time"))).timestamp()
    except ValueError:
        return 0.0
