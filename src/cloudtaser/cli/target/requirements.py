"""Requirements: what a node must or should be, and what to do where it is not.

Pure. Used by `check`. A verdict is `pass`, `warn` (something protects less), `fail` (wrappers cannot run as
they should) or `unknown`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Verdict = Literal["pass", "warn", "fail", "unknown"]
ORDER: Final[tuple[Verdict, ...]] = ("fail", "warn", "unknown", "pass")
MINIMUM_KERNEL: Final = (5, 14)
"""memfd_secret: below it secrets lie in ordinary locked memory."""
ENFORCING_KERNEL: Final = (6, 1)
"""The oldest on which the agent's programs are tested."""
_RELEASE: Final = re.compile(r"(\d{1,4})\.(\d{1,4})")


@dataclass(frozen=True, slots=True)
class Finding:
    """One row."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""


def judge(node: Mapping[str, Any], facts: Mapping[str, Any] | None) -> list[Finding]:
    """The findings on one node: its Node object, and what a probe or the agent said; None if nobody did."""
    status = node.get("status") if isinstance(node.get("status"), Mapping) else {}
    info = (status or {}).get("nodeInfo") or {}
    known = dict(facts or {})
    kernel = str(known.get("kernel") or info.get("kernelVersion") or "")
    return [
        _ready(status or {}),
        _runtime(str(info.get("containerRuntimeVersion") or "")),
        _cgroup(known.get("cgroup")),
        _swap(known.get("swap"), bool(known.get("zram"))),
        _kernel(kernel),
        _lsm(known.get("lsm")),
        _btf(known.get("btf")),
        _secret_memory(known.get("memfd_secret")),
        _modules(known.get("lsm")),
        _confidential(known.get("confidential")),
    ]


def worst(findings: list[Finding]) -> Verdict:
    """The verdict on the whole node; what is unknown does not count against it."""
    verdicts = {one.verdict for one in findings} - {"unknown"}
    return next((one for one in ORDER if one in verdicts), "unknown")


def _ready(status: Mapping[str, Any]) -> Finding:
    for one in status.get("conditions") or ():
        if one.get("type") == "Ready":
            if one.get("status") == "True":
                return Finding("node", "pass", "ready")
            return Finding("node", "fail", "not ready", "see kubectl describe node")
    return Finding("node", "unknown", "says nothing of itself")


def _runtime(text: str) -> Finding:
    name, _, version = text.partition("://")
    if name in ("containerd", "cri-o"):
        return Finding("runtime", "pass", f"{name} {version}".strip())
    if not name:
        return Finding("runtime", "unknown", "not told")
    return Finding("runtime", "warn", text, "tested with containerd and CRI-O")


def _cgroup(version: object) -> Finding:
    if version == 2:
        return Finding("cgroup", "pass", "version 2")
    if version == 1:
        return Finding(
            "cgroup",
            "warn",
            "version 1",
            "boot with systemd.unified_cgroup_hierarchy=1",
        )
    return Finding("cgroup", "unknown", "not told")


def _swap(swaps: object, zram: bool) -> Finding:
    if not isinstance(swaps, list):
        return Finding("swap", "unknown", "not told")
    if not swaps:
        return Finding("swap", "pass", "off")
    what = f"{', '.join(map(str, swaps))}{' (zram)' if zram else ''}"
    return Finding("swap", "warn", what, "swapoff: an application's copies of secrets could be written to it")


def _kernel(release: str) -> Finding:
    found = _RELEASE.match(release)
    if not found:
        return Finding("kernel", "unknown", release or "not told")
    version = (int(found[1]), int(found[2]))
    if version < MINIMUM_KERNEL:
        return Finding("kernel", "fail", release, "secret memory needs Linux 5.14; upgrade the node's image")
    if version < ENFORCING_KERNEL:
        return Finding("kernel", "warn", release, "the agent is tested from Linux 6.1")
    return Finding("kernel", "pass", release)


def _lsm(listed: object) -> Finding:
    if not isinstance(listed, str) or not listed:
        return Finding("BPF LSM", "unknown", "not told")
    if "bpf" in listed.split(","):
        return Finding("BPF LSM", "pass", "active")
    return Finding(
        "BPF LSM",
        "warn",
        "not active",
        f"boot with lsm={listed},bpf, for the strongest tier",
    )


def _btf(present: object) -> Finding:
    if present is None:
        return Finding("BTF", "unknown", "not told")
    if present:
        return Finding("BTF", "pass", "present")
    return Finding("BTF", "warn", "absent", "the agent needs a kernel with CONFIG_DEBUG_INFO_BTF")


def _secret_memory(given: object) -> Finding:
    if given is None:
        return Finding("memfd_secret", "unknown", "not told")
    if given:
        return Finding("memfd_secret", "pass", "given")
    return Finding(
        "memfd_secret",
        "warn",
        "not given",
        "boot with secretmem.enable=1",
    )


def _modules(listed: object) -> Finding:
    if not isinstance(listed, str) or not listed:
        return Finding("security modules", "unknown", "not told")
    major = [one for one in ("selinux", "apparmor") if one in listed.split(",")]
    if major:
        return Finding("security modules", "pass", listed)
    return Finding("security modules", "warn", listed, "neither SELinux nor AppArmor is active")


def _confidential(found: object) -> Finding:
    if found is None:
        return Finding("confidential VM", "unknown", "not told")
    if found:
        return Finding("confidential VM", "pass", str(found))
    return Finding(
        "confidential VM",
        "warn",
        "not seen",
        "use nodes with AMD SEV-SNP or Intel TDX",
    )
