"""`python -m tests.vm.tables`: docs/ebpf-kernels.md from the reports that the last kernel tests left.

A cell is what happened, not what was claimed: an attack that failed with its error and an event holds, one
that succeeded with an event detects.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloudtaser.ebpf.vectors import VECTORS
from tests.vm.reports import CASES, KEPT

TARGET = Path("docs/ebpf-kernels.md")
EXPLAINED = (
    "Each cell is what attacks in a virtual machine showed while the agent enforced: *holds* with the",
    "error that the attacker got, *detects* where it succeeded and was told of, – where the agent did",
    "nothing, or this run had no attack for it. What each vector is: [ebpf.md](ebpf.md).",
)


def cell(report: dict[str, Any], vector: int) -> str:
    """What came of the attacks of one vector while the agent enforced, the policy binding the attacker."""
    phases = {"enforce", "node"} if "node" in {row["phase"] for row in report["rows"]} else {"enforce"}
    rows = [
        row
        for row in report["rows"]
        if row["vector"] == vector and row["phase"] in phases and row["expected"] and row["events"]
    ]
    if not rows:
        return "–"
    if all(not row["succeeded"] for row in rows):
        errors = sorted({row["error"] for row in rows if row["error"] not in ("", "none")})
        return "holds" + (f" ({', '.join(errors)})" if errors else "")
    return "detects"


def table(reports: dict[str, dict[str, Any]]) -> str:
    """The document."""
    names = [name for name in CASES if name in reports]
    lines = [
        "# Kernels on which the node agent was tried",
        "",
        f"Written on {datetime.now(UTC):%Y-%m-%d} from the reports of the kernel tests.",
        "A case that is not here was not run to its end that day.",
        *EXPLAINED,
        "",
        "| case | kernel | tier | vectors that hold |",
        "| --- | --- | --- | --- |",
    ]
    for name in names:
        status = reports[name]["status"]
        last = status.get("enforce", status.get("detect", {}))
        count = f"{last['vectors']['hold']} of {last['vectors']['known']}"
        lines.append(f"| {name} | {reports[name]['release']} | {last['tier']} | {count} |")
    lines += ["", "| # | vector | " + " | ".join(names) + " |", "| --- | --- |" + " --- |" * len(names)]
    for vector in VECTORS:
        cells = " | ".join(cell(reports[name], vector.number) for name in names)
        lines.append(f"| {vector.number} | {vector.name.replace('|', ' ')} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write it."""
    reports = {file.stem: json.loads(file.read_text()) for file in sorted(KEPT.glob("*.json"))}
    if not reports:
        print("there are no reports; run the kernel tests first", file=sys.stderr)
        return 1
    TARGET.write_text(table(reports))
    return 0


if __name__ == "__main__":
    sys.exit(main())
