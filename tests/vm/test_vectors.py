"""What the agent says of a kernel holds there, attack by attack; and what it does not say, it does not claim.

One report is made for each kernel and way to boot it, in a VM (`inside`); each test here reads one promise
off it. All of it for one kernel, the attacks alone for the others; CLOUDTASER_KERNELS=all runs everything
everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from cloudtaser.ebpf.vectors import BY_NUMBER, Kind
from tests.vm import checks
from tests.vm.attacks.table import ATTACKS, SCENARIOS, Attack, Scenario, Subject
from tests.vm.reports import CASES, report

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(3000)]

EVERYTHING = os.environ.get("CLOUDTASER_KERNELS") == "all"
MAIN = "6.12"
WHOLE = [name for name, one in CASES.items() if one.tier != "none"] if EVERYTHING else [MAIN]
KNOWN: dict[str, Attack | Scenario] = {entry.name: entry for entry in (*ATTACKS, *SCENARIOS)}
Row = dict[str, Any]

every_case = pytest.mark.parametrize("case", CASES)
whole_cases = pytest.mark.parametrize("case", WHOLE)
protected_cases = pytest.mark.parametrize("case", [name for name in CASES if CASES[name].tier != "none"])


def found(case: str) -> dict[str, Any]:
    return report(case, whole=case in WHOLE)


def rows(case: str, *phases: str) -> Iterator[tuple[Row, Attack | Scenario]]:
    for row in found(case)["rows"]:
        if row["phase"] in phases and row["expected"]:
            yield row, KNOWN[row["name"]]


def told(row: Row) -> str:
    seen = [(event["vector"], event["verdict"], event["syscall"], event["count"]) for event in row["events"]]
    outcome = "succeeded" if row["succeeded"] else "failed"
    return (
        f"{row['phase']} {row['vector']} {row['name']} by {row['subject']}: {outcome} {row['text']!r} "
        f"status {row['status']} events {seen}"
    )


def standing(case: str, phase: str, vector: int) -> str:
    vectors = {entry["number"]: entry for entry in found(case)["status"][phase]["vectors"]["list"]}
    return str(vectors[vector]["standing"])


def bound(row: Row, entry: Attack | Scenario) -> bool:
    """Whether the policy of this phase binds the attacker."""
    return not (
        isinstance(entry, Attack)
        and entry.node
        and row["phase"] == "enforce"
        and row["subject"] == Subject.HOST.name
    )


def one_event(row: Row, entry: Attack | Scenario, verdicts: set[str]) -> bool:
    events = row["events"]
    if not events or any(event["verdict"] not in verdicts for event in events):
        return False
    if isinstance(entry, Scenario) and entry.many:
        return True
    # an attack of two calls has an event for each; what a call repeats within a second comes as a second line
    kinds = {(event["syscall"], event["vector"]) for event in events}
    return len(kinds) == len({call for call, _ in kinds}) and {vector for _, vector in kinds} <= {
        entry.vector,
        *entry.told,
    }


@every_case
def test_every_attack_succeeds_without_the_agent(case: str) -> None:
    assert not [told(row) for row, _ in rows(case, "before") if not row["succeeded"]]


@every_case
def test_the_agent_finds_the_tier_that_works_here(case: str) -> None:
    assert {phase: status["tier"] for phase, status in found(case)["status"].items()} == dict.fromkeys(
        found(case)["status"], CASES[case].tier
    )


@every_case
def test_where_nothing_holds_the_agent_claims_nothing(case: str) -> None:
    status = found(case)["status"]["detect"]
    standings = {entry["standing"] for entry in status["vectors"]["list"]}
    assert standings <= {"detects", "not here"}
    assert (CASES[case].tier == "none") == (standings == {"not here"})


@protected_cases
def test_what_detects_lets_each_attack_succeed_with_one_event(case: str) -> None:
    assert not [
        told(row)
        for row, entry in rows(case, "detect")
        if standing(case, "detect", entry.vector) != "not here"
        and not (row["succeeded"] and one_event(row, entry, {"detected"}))
    ]


@protected_cases
def test_what_holds_fails_with_its_error_and_one_event(case: str) -> None:
    assert not [
        told(row)
        for row, entry in rows(case, "enforce", "node")
        if standing(case, row["phase"], entry.vector) == "holds"
        and bound(row, entry)
        and not (not row["succeeded"] and row["error"] in entry.errors and one_event(row, entry, {"denied"}))
    ]


@protected_cases
def test_a_policy_for_pods_does_not_bind_the_host(case: str) -> None:
    assert not [
        told(row)
        for row, entry in rows(case, "enforce")
        if not bound(row, entry) and not (row["succeeded"] and not row["events"])
    ]


@protected_cases
def test_what_is_only_seen_is_told_once(case: str) -> None:
    assert not [
        told(row)
        for row, entry in rows(case, "detect", "enforce")
        if standing(case, row["phase"], entry.vector) == "detects"
        and isinstance(entry, Scenario)
        and entry.seen
        and not (row["succeeded"] and one_event(row, entry, {"detected"}))
    ]


@pytest.mark.parametrize("case", [name for name, one in CASES.items() if one.tier == "lsm"])
def test_with_lsm_programs_every_vector_that_can_be_denied_holds(case: str) -> None:
    wanted = {number for number, vector in BY_NUMBER.items() if vector.kind in (Kind.DENIED, Kind.SUBJECT)}
    assert {number for number in wanted if standing(case, "enforce", number) != "holds"} == set()


@whole_cases
@pytest.mark.parametrize("check", checks.CHECKS)
def test_goes_on(case: str, check: str) -> None:
    assert found(case)["checks"][check] == ""


@protected_cases
def test_the_agent_ends_in_good_order(case: str) -> None:
    assert found(case)["exit"] == 0
