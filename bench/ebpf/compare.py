"""What the node agent costs an ordinary open(), counted in instructions; `--record` appends it to
bench/RESULTS.md.

Time in an emulated machine is noise, so this counts: the programs that run at an open() of an ordinary file
by a process that is not protected (the kernel's own run counts), and what each executes (`interpreter`).
Needs no rights and no BPF here: it boots Debian's kernels in QEMU.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.vm import kernels, machine
from tests.vm.machine import Boot

BAR = 60  # instructions, and one lookup
SECONDS = 900
RESULTS = Path(__file__).resolve().parents[1] / "RESULTS.md"


def measured(kernel: str, tier: str) -> dict[str, Any]:
    """What `ordinary` finds under one kernel. Raises `MachineError`."""
    result = machine.run(
        kernels.kernel(kernel),
        [sys.executable, "-m", "bench.ebpf.ordinary", tier],
        seconds=SECONDS,
        boot=Boot(lsm_bpf=tier == "lsm"),
        folder=Path(__file__).resolve().parents[2],
    )
    if result.status:
        raise machine.MachineError(result.output)
    found: dict[str, Any] = json.loads(result.output.splitlines()[-1])
    return found


def cost(found: dict[str, Any]) -> tuple[int, int]:
    """Instructions and lookups of one open() and close()."""
    programs = found["programs"]
    instructions = sum(round(one["runs"]) * one["instructions"] for one in programs)
    return instructions, sum(round(one["runs"]) * one["lookups"] for one in programs)


def main() -> int:
    """Measure, print, record; 1 when the bar is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", action="store_true")
    given, _ = parser.parse_known_args()
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}: the node agent's programs at an open() of an ordinary file",
        "",
        "`python bench/ebpf/compare.py`, in QEMU; instructions executed by a process that is not protected.",
        "",
        "| kernel | tier | programs that run | instructions | lookups | bar |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    missed = False
    for kernel, tier in (("6.1", "lsm"), ("6.12", "lsm"), ("newest", "lsm"), ("6.1", "fmod_ret")):
        found = measured(kernel, tier)
        instructions, lookups = cost(found)
        good = instructions <= BAR and lookups <= 1
        missed |= not good
        names = ", ".join(one["program"] for one in found["programs"]) or "none"
        row = f"| {found['kernel']} | {tier} | {names} | {instructions} | {lookups} |"
        lines.append(f"{row} {'met' if good else '**not met**'} |")
    print("\n".join(lines))
    if given.record:
        with RESULTS.open("a") as file:
            file.write("\n" + "\n".join(lines) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
