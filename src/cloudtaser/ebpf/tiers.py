"""Tiers: which programs of the object each tier is made of, and what they are told; used by `guard` and
`probe`.

A program's name is its hook with the tier's prefix: `lsm_file_open` and `mod_file_open` decide alike.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from cloudtaser.ebpf.vectors import Tier

ORDER: Final = (Tier.LSM, Tier.FMOD_RET, Tier.KILL)
_PREFIXES: Final = {Tier.LSM: "lsm_", Tier.FMOD_RET: "mod_", Tier.KILL: "react_"}
_SHARED: Final = ("life_", "iter_")
_DUMPS: Final = ("dump_",)  # fentry: where fmod_ret works, or LSM programs do

# a tier that lacks one of these is none
ESSENTIAL: Final[dict[Tier, frozenset[str]]] = {
    Tier.LSM: frozenset({"lsm_file_open", "lsm_ptrace_access_check", "lsm_task_alloc"}),
    Tier.FMOD_RET: frozenset({"mod_file_open", "mod_ptrace_access_check", "mod_task_alloc"}),
    Tier.KILL: frozenset({"react_enter", "react_exit"}),
}
ITERATORS: Final = frozenset({"iter_mark", "iter_handles", "iter_identity"})
LIFE: Final = frozenset({"life_fork", "life_exit", "life_free"}) | ITERATORS


def kernel_function(section: str) -> str | None:
    """The function that a program of this section hangs on, which BTF must have; None for other kinds."""
    kind, _, name = section.partition("/")
    if kind == "lsm":
        return f"bpf_lsm_{name}"
    return name if kind in {"fmod_ret", "fentry"} else None


def programs(tier: Tier, sections: dict[str, str], functions: frozenset[str]) -> frozenset[str]:
    """The programs to try for `tier`, where `sections` has all of them and the kernel has `functions`."""
    prefixes = (_PREFIXES[tier], *_SHARED, *(() if tier is Tier.KILL else _DUMPS))
    chosen = {
        name
        for name, section in sections.items()
        if name.startswith(prefixes) and kernel_function(section) in {None, *functions}
    }
    for prefix in ("lsm_", "mod_"):
        if f"{prefix}bpf_prog_load" in chosen:
            chosen.discard(f"{prefix}bpf_load")  # the same by attributes, for kernels before 6.9
    return frozenset(chosen)


def hook(program: str) -> str:
    """A program's name without its tier's prefix, as `vectors` names what a vector needs."""
    for prefix in ("lsm_", "mod_"):
        if program.startswith(prefix):
            return program.removeprefix(prefix)
    return program


def former(links: frozenset[str]) -> Tier | None:
    """The tier of a former agent, by the names of the links that it pinned; None where there are none."""
    present = (tier for tier in ORDER if any(name.startswith(_PREFIXES[tier]) for name in links))
    return next(present, None)


def worth_trying(links: frozenset[str]) -> tuple[Tier, ...]:
    """The tiers to probe, strongest first; none that is stronger than what a former agent found.

    Which LSMs are active is settled at boot, and pins do not outlive it. A self-test beside the former
    agent's programs proves nothing: they would refuse in place of ours, which may load and never be asked.
    """
    found = former(links)
    return ORDER if found is None else ORDER[ORDER.index(found) :]


def lacks(tier: Tier, loaded: frozenset[str]) -> frozenset[str]:
    """What the tier cannot be without, and does not have."""
    return (ESSENTIAL[tier] | LIFE) - loaded


def probe_types(devices: Path = Path("/sys/bus/event_source/devices")) -> bytes:
    """The types by which perf_event_open places a probe here, for bpf/subject.h; 0 for one that there is
    not."""
    found = []
    for name in ("kprobe", "uprobe"):
        try:
            found.append(int((devices / name / "type").read_text()))
        except (OSError, ValueError):
            found.append(0)
    return struct.pack("<2I", *found)


def refused_program(log: str) -> str:
    """The program that libbpf says the kernel refused; empty when it names none."""
    for line in reversed(log.splitlines()):
        before, found, rest = line.partition("prog '")
        if found and ("failed" in rest or "find" in rest):
            return rest.partition("'")[0]
        del before
    return ""
