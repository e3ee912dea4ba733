"""One report for each kernel and way to boot it, made when a test first asks for it.

`test_vectors` and `tables` read them.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.payload.built import build
from tests.vm import kernels, machine, programs
from tests.vm.archive import ArchiveError
from tests.vm.machine import Boot

KEPT = Path(".cache/vm/reports").absolute()  # for `tables`
SECONDS = 3600  # by the emulated clock, which is wrong on a busy machine; a quiet one takes 90


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel, how it boots, and the tier that must be found there."""

    kernel: str
    boot: Boot
    tier: str

    @property
    def name(self) -> str:
        """As tests and tables call it."""
        without = [
            word
            for word, there in (
                ("bpf-lsm", self.boot.lsm_bpf),
                ("btf", self.boot.btf),
                ("secretmem", self.boot.secretmem),
            )
            if not there
        ]
        return "-".join([self.kernel, *(f"no-{word}" for word in without)])


CASES = {
    case.name: case
    for case in (
        Case("6.12", Boot(), "lsm"),
        Case("6.1", Boot(), "lsm"),
        Case("newest", Boot(), "lsm"),
        Case("6.1", Boot(lsm_bpf=False), "fmod_ret"),
        Case("6.12", Boot(lsm_bpf=False), "fmod_ret"),
        Case("newest", Boot(lsm_bpf=False), "fmod_ret"),
        Case("6.12", Boot(btf=False, secretmem=False), "none"),
    )
}


@functools.cache
def payload() -> Path:
    """The wrapper's payload, as every image has it: built, or the one that CLOUDTASER_TEST_WRAPPER is of."""
    if given := os.environ.get("CLOUDTASER_TEST_WRAPPER"):
        return Path(given).parent
    target = programs.BUILT / "payload"
    target.mkdir(parents=True, exist_ok=True)
    return build(target)


def report(name: str, *, whole: bool) -> dict[str, Any]:
    """What `inside` found in that case; `whole` with the scenarios and checks.

    Raises `MachineError` or `ArchiveError`, and the same one again at each further call: a machine is not
    started anew for every test that reads its report.
    """
    found = _made(name, whole)
    if isinstance(found, Exception):
        raise found
    return found


@functools.cache
def _made(name: str, whole: bool) -> dict[str, Any] | machine.MachineError | ArchiveError:
    try:
        return _make(name, whole)
    except (machine.MachineError, ArchiveError) as problem:
        return problem


def _make(name: str, whole: bool) -> dict[str, Any]:
    case = CASES[name]
    kernel = kernels.kernel(case.kernel)
    module = next(file for file in kernel.modules if file.name == "overlay.ko")
    result = machine.run(
        kernel,
        [
            *(sys.executable, "-m", "tests.vm.inside"),
            *(str(programs.program("attack")), str(programs.program("victim")), str(module)),
            *(str(programs.java_class()), str(payload()), str(programs.program("application"))),
            "whole" if whole else "quick",
        ],
        seconds=SECONDS,
        boot=case.boot,
    )
    if result.status or "report.json" not in result.files:
        raise machine.MachineError(f"no whole report from {name} (status {result.status}):\n{result.output}")
    found: dict[str, Any] = json.loads(result.files["report.json"])
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(json.dumps(found))
    return found
