"""Probe: what this kernel really takes, found by loading the programs and attacking a dummy process.

Neither BTF nor the list of LSMs tells: hardened kernels refuse whole kinds of programs, and without `bpf`
among the active LSMs theirs load, attach, and are never called. Used by `agent` at start and by
`cloudtaser-ebpf probe`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cloudtaser.ebpf import layout, selftest, tiers, vectors
from cloudtaser.ebpf.guard import Guard
from cloudtaser.ebpf.libbpf import BpfError
from cloudtaser.ebpf.selftest import Dummy, Findings
from cloudtaser.ebpf.vectors import Standing, Tier

BTF: Final = "/sys/kernel/btf/vmlinux"
SELF_TEST: Final = 0xFFFF_FFFF  # bpf/guard.h: defended in every mode
_PROVES: Final = frozenset({1, 2, 21})  # a tier that misses one of these is none


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found: the tier that works, what of each vector is true, and why higher tiers are not."""

    tier: Tier
    standings: dict[int, Standing]
    refused: dict[str, str] = field(default_factory=dict)  # tier, or program, to the reason
    tested: frozenset[int] = frozenset()

    @property
    def known(self) -> int:
        """How many vectors there are."""
        return len(self.standings)

    @property
    def hold(self) -> int:
        """How many hold here."""
        return sum(1 for each in self.standings.values() if each is Standing.HOLDS)


def probe(
    object_path: str,
    pins: Path | None,
    *,
    mode: layout.Mode,
    kills: bool,
    base: Callable[[Guard], layout.Config],
) -> tuple[Guard | None, Outcome]:
    """The strongest tier that works, loaded and configured, not yet pinned; None where none does.

    `base` gives the rest of the configuration once the maps are there. Call while this process has one
    thread.
    """
    refused: dict[str, str] = {}
    for tier in tiers.worth_trying(_pinned(pins)):
        guard = Guard(object_path, pins=pins)
        try:
            guard.load(tier)
        except BpfError as error:
            refused[tier] = error.strerror or str(error)
            guard.close()
            continue
        guard.configure(configuration(base(guard), tier, mode, kills=kills))
        findings = self_test(guard)
        if _PROVES & findings.missed:
            refused[tier] = "loads, but does not act here (self-test)"
            guard.close()
            continue
        enforces = guard.config.mode == layout.Mode.ENFORCE
        standings = vectors.standings(tier, guard.hooks, enforces=enforces)
        standings |= dict.fromkeys(findings.missed & promised(tier, guard.hooks), Standing.NOT_HERE)
        return guard, Outcome(tier, standings, refused | guard.refused, findings.stopped)
    if not os.path.exists(BTF):
        refused["btf"] = f"this kernel has no {BTF}: no program of ours fits it"
    nothing = {vector.number: Standing.NOT_HERE for vector in vectors.VECTORS}
    return None, Outcome(Tier.NONE, nothing, refused)


def _pinned(pins: Path | None) -> frozenset[str]:
    """The links of a former agent."""
    if pins is None or not (pins / "links").is_dir():
        return frozenset()
    return frozenset(link.name for link in (pins / "links").iterdir())


def configuration(base: layout.Config, tier: Tier, mode: layout.Mode, *, kills: bool) -> layout.Config:
    """`base` with what the tier needs: where nothing can be denied, who must not kill only sees.

    Which vectors end an offender is told even then: the self-test's attackers are ended in every mode.
    """
    if tier is not Tier.KILL:
        return replace(base, mode=mode, kills=0, numbers=0)
    return replace(base, mode=mode if kills else layout.Mode.DETECT, kills=vectors.KILLS, numbers=1)


def promised(tier: Tier, hooks: frozenset[str]) -> frozenset[int]:
    """What the self-test must find stopped: it cannot see that an access was told of."""
    found = vectors.standings(tier, hooks, enforces=True)
    return frozenset(number for number, standing in found.items() if standing is Standing.HOLDS)


def self_test(guard: Guard) -> Findings:
    """Attacks a dummy before and after it is protected."""
    dummy = Dummy.start()
    try:
        before = selftest.attack_all(dummy)
        guard.ask(layout.ACTION_MARK, dummy.pid, dummy.pid_fd, SELF_TEST)
        after = selftest.attack_all(dummy)
    finally:
        dummy.end()
    return selftest.compare(before, after)
