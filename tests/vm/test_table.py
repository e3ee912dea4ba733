"""No vector without an attack, and nothing in the table that no vector knows."""

from __future__ import annotations

from cloudtaser.ebpf.vectors import VECTORS
from tests.vm import scenarios
from tests.vm.attacks.table import ATTACKS, ELSEWHERE, SCENARIOS


def test_every_vector_has_an_attack_or_a_reason_why_not() -> None:
    attacked = {entry.vector for entry in (*ATTACKS, *SCENARIOS)} | set(ELSEWHERE)
    assert {vector.number for vector in VECTORS} == attacked


def test_each_scenario_has_its_steps_and_no_name_is_used_twice() -> None:
    assert {entry.name for entry in SCENARIOS} == set(scenarios.RUN)
    names = [entry.name for entry in (*ATTACKS, *SCENARIOS)]
    assert len(names) == len(set(names))
