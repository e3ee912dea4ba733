"""What a node is worth: every finding has its verdict, and what is not told is never a pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.cli.target import node_probe
from cloudtaser.cli.target.requirements import Finding, judge, worst

NODE = {
    "status": {
        "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
        "nodeInfo": {"containerRuntimeVersion": "containerd://2.1.4", "kernelVersion": "6.12.57+deb13"},
    }
}
GOOD = {
    "kernel": "6.12.57+deb13",
    "cgroup": 2,
    "swap": [],
    "btf": True,
    "lsm": "lockdown,capability,yama,apparmor,bpf",
    "memfd_secret": True,
    "confidential": "AMD SEV-SNP",
}
NAMES = [
    "node", "runtime", "cgroup", "swap", "kernel", "BPF LSM", "BTF", "memfd_secret", "security modules",
    "confidential VM",
]  # fmt: skip


def verdicts(facts: dict[str, Any] | None, node: dict[str, Any] = NODE) -> dict[str, str]:
    return {one.name: one.verdict for one in judge(node, facts)}


def test_a_node_that_has_everything_passes() -> None:
    assert verdicts(GOOD) == dict.fromkeys(NAMES, "pass")
    assert worst(judge(NODE, GOOD)) == "pass"


def test_what_nobody_told_is_unknown() -> None:
    told = verdicts(None)
    assert {name for name, verdict in told.items() if verdict == "pass"} == {"node", "runtime", "kernel"}
    assert set(told.values()) == {"pass", "unknown"}
    assert set(verdicts(None, {}).values()) == {"unknown"}
    assert worst(judge({}, None)) == "unknown"


@pytest.mark.parametrize(
    ("facts", "name", "verdict"),
    [
        ({"kernel": "5.10.0-39-amd64"}, "kernel", "fail"),
        ({"kernel": "5.15.167"}, "kernel", "warn"),
        ({"kernel": "6.1.0"}, "kernel", "pass"),
        ({"kernel": "next"}, "kernel", "unknown"),
        ({"cgroup": 1}, "cgroup", "warn"),
        ({"swap": ["/dev/zram0"], "zram": True}, "swap", "warn"),
        ({"lsm": "capability,apparmor"}, "BPF LSM", "warn"),
        ({"lsm": "capability,nobpf"}, "BPF LSM", "warn"),
        ({"lsm": "capability,bpf"}, "security modules", "warn"),
        ({"btf": False}, "BTF", "warn"),
        ({"memfd_secret": False}, "memfd_secret", "warn"),
        ({"confidential": ""}, "confidential VM", "warn"),
    ],
)
def test_each_shortcoming_has_its_verdict_and_its_fix(facts: dict[str, Any], name: str, verdict: str) -> None:
    found = next(one for one in judge(NODE, GOOD | facts) if one.name == name)
    assert found.verdict == verdict
    assert bool(found.fix) is (verdict in ("warn", "fail"))


def test_a_node_that_is_down_fails() -> None:
    down = {"status": NODE["status"] | {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
    assert verdicts(GOOD, down)["node"] == "fail"
    assert worst(judge(down, GOOD)) == "fail"


def test_the_worst_of_all_counts() -> None:
    one, two = Finding("a", "warn", ""), Finding("b", "unknown", "")
    assert worst([one, two]) == "warn"
    assert worst([two]) == "unknown"


def test_the_probe_runs_from_its_text_alone() -> None:
    program = Path(node_probe.__file__).read_text()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert set(told) == {"kernel", "cgroup", "swap", "btf", "lsm", "memfd_secret", "confidential"}
    assert verdicts(told)["kernel"] in ("pass", "warn")
