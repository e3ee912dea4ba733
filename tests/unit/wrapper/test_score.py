"""The protection score: 15 checks, 135 points, and none for what was not measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper.agent import MAX_FRAME, MODES, TIERS
from cloudtaser.wrapper.outside import of_mappings, read_mappings
from cloudtaser.wrapper.score import (
    FAIL,
    MAXIMUM,
    PASS,
    POINTS,
    SKIP,
    Score,
    of_agent,
    of_confidential,
    of_cpu,
    of_memory,
)

PERFECT = {
    "secret": 32768, "locked": 0, "plain": 0, "left_out": 32768, "chunks": 2, "guarded": 2, "blocks": 5,
    "intact": 5, "dumpable": 0, "limit": -1, "measured": 1,
}  # fmt: skip
OF_MEMORY = (
    "memfd_secret",
    "mlock",
    "core_dump_exclusion",
    "guard_pages",
    "buffer_canary",
    "dumpable_disabled",
)


def document(score: Score) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(score.document())
    return found


def test_the_points_are_those_of_the_specification() -> None:
    assert POINTS == {
        "memfd_secret": 15, "mlock": 10, "core_dump_exclusion": 5, "dumpable_disabled": 5, "guard_pages": 5,
        "buffer_canary": 5, "token_protected": 10, "environ_scrubbed": 5, "getenv_interposer": 10,
        "ebpf_agent_connected": 10, "cpu_mitigations": 5, "ebpf_enforce_mode": 15, "ebpf_lsm_enforce": 15,
        "ebpf_kprobes": 10, "confidential_vm": 10,
    }  # fmt: skip
    assert (len(POINTS), MAXIMUM) == (15, 135)


ENFORCING = ("ebpf_lsm_enforce", "ebpf_enforce_mode", "memfd_secret")


@pytest.mark.parametrize(
    ("lost", "band"),
    [
        ((), "full"),
        (("memfd_secret", "guard_pages"), "full"),  # 115
        (("memfd_secret", "mlock"), "strong"),  # 110
        (ENFORCING, "strong"),  # 90
        ((*ENFORCING, "mlock"), "partial"),  # 80
        ((*ENFORCING, "mlock", "token_protected", "guard_pages"), "partial"),  # 65
        ((*ENFORCING, "mlock", "token_protected", "ebpf_kprobes"), "insufficient"),  # 60
    ],
)
def test_the_bands_begin_where_the_specification_says(lost: tuple[str, ...], band: str) -> None:
    score = Score({name: (FAIL, "x") if name in lost else (PASS, "") for name in POINTS}, "by itself")
    assert score.points == MAXIMUM - sum(POINTS[name] for name in lost)
    assert score.band == document(score)["band"] == band


def test_what_nobody_looked_at_has_no_points() -> None:
    score = Score({}, "by itself")
    assert (score.points, score.band) == (0, "insufficient")
    assert {check["state"] for check in document(score)["checks"]} == {SKIP}
    assert len(score.missing()) == 15


@given(
    st.dictionaries(
        st.sampled_from(list(POINTS)), st.tuples(st.sampled_from((PASS, FAIL, SKIP)), st.text(max_size=300))
    )
)
def test_whatever_the_reasons_are_it_is_json_that_fits_one_frame(
    verdicts: dict[str, tuple[str, str]],
) -> None:
    score = Score(verdicts, "from outside")
    found = document(score)
    assert len(score.document()) <= MAX_FRAME - len('{"v":1,"score":}')
    assert [check["name"] for check in found["checks"]] == list(POINTS)
    assert found["score"] == sum(check["points"] for check in found["checks"]) == score.points
    for check in found["checks"]:
        assert check["points"] in (0, check["of"])
        assert (check["state"] == PASS) is (check["points"] > 0) is ("reason" not in check)


def test_memory_that_is_all_secret_has_all_points() -> None:
    assert {verdict[0] for verdict in of_memory(PERFECT).values()} == {PASS}
    assert tuple(sorted(of_memory(PERFECT))) == tuple(sorted(OF_MEMORY))


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"locked": 4096}, {"memfd_secret", "core_dump_exclusion"}),
        ({"locked": 4096, "left_out": 36864}, {"memfd_secret"}),
        ({"plain": 4096, "left_out": 36864}, {"memfd_secret", "mlock"}),
        ({"left_out": 16384}, {"core_dump_exclusion"}),
        ({"guarded": 1}, {"guard_pages"}),
        ({"intact": 4}, {"buffer_canary"}),
        ({"blocks": 0, "intact": 0}, {"buffer_canary"}),
        ({"dumpable": 1}, {"dumpable_disabled"}),
        ({"dumpable": 2}, {"dumpable_disabled"}),
        ({"secret": 0, "left_out": 0}, set(OF_MEMORY) - {"dumpable_disabled"}),
    ],
)
def test_each_weakness_of_the_memory_costs_its_own_check(change: dict[str, int], failed: set[str]) -> None:
    verdicts = of_memory(PERFECT | change)
    assert {name for name, (state, _) in verdicts.items() if state != PASS} == failed
    assert all(why for state, why in verdicts.values() if state != PASS)


def test_without_the_extension_memory_has_no_points() -> None:
    assert {state for state, _ in of_memory(None).values()} == {FAIL}


def test_a_stronger_tier_never_has_fewer_points() -> None:
    def points(mode: str, tier: str) -> int:
        return sum(POINTS[name] for name, (state, _) in of_agent(mode, tier).items() if state == PASS)

    assert points("", "") == 0
    assert [points("enforce", tier) for tier in TIERS] == [50, 35, 35, 25, 25]
    assert {points("detect", tier) for tier in TIERS} == {10}
    assert set(MODES) == {"enforce", "detect"}


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({"meltdown": "Not affected", "spectre_v1": "Mitigation: usercopy barriers"}, PASS),
        ({"meltdown": "Not affected", "spectre_v2": "Vulnerable: eIBRS with unprivileged eBPF"}, FAIL),
        ({"srbds": "Unknown: Dependent on hypervisor status"}, FAIL),
        ({"itlb_multihit": "KVM: Vulnerable"}, FAIL),
        ({"meltdown": ""}, FAIL),
        ({}, SKIP),
        (None, SKIP),
    ],
)
def test_a_mitigation_counts_only_where_the_kernel_names_it(files: dict[str, str] | None, state: str) -> None:
    assert of_cpu(files)[0] == state


@pytest.mark.parametrize(("found", "state"), [("AMD SEV-SNP", PASS), ("", FAIL), (None, SKIP)])
def test_a_confidential_machine_is_one_that_says_so(found: str | None, state: str) -> None:
    assert of_confidential(found)[0] == state


def mapping(start: int, end: int, permissions: str, flags: str, path: str = "") -> str:
    return f"{start:x}-{end:x} {permissions} 00000000 00:00 0 {path}\nSize: 4 kB\nVmFlags: {flags}\n"


GUARD = "mr mw me"
SECRET = "rd wr sh mr mw me ms lo dd"
SMAPS = (
    mapping(0x1000, 0x2000, "rw-p", "rd wr", "/usr/bin/python3")
    + mapping(0x10000, 0x11000, "---p", GUARD)
    + mapping(0x11000, 0x15000, "rw-s", SECRET, "/secretmem (deleted)")
    + mapping(0x15000, 0x16000, "---p", GUARD)
    + mapping(0x7000000, 0x7001000, "rw-p", "rd wr", "[stack]")
)


def test_from_outside_secret_memory_is_told_by_its_mappings() -> None:
    assert [mapping.path for mapping in read_mappings(SMAPS)][2] == "/secretmem (deleted)"
    assert {state for state, _ in of_mappings(read_mappings(SMAPS), "root").values()} == {PASS}


@pytest.mark.parametrize(
    ("before", "after", "failed"),
    [
        (SECRET, "rd wr sh lo", {"core_dump_exclusion"}),
        (SECRET, "rd wr sh dd", {"mlock"}),
        ("15000-16000 ---p", "15000-16000 rw-p", {"guard_pages"}),
        ("15000-16000", "25000-26000", {"guard_pages"}),
        ("/secretmem (deleted)", "", {"memfd_secret"}),
    ],
)
def test_from_outside_each_weakness_costs_its_own_check(before: str, after: str, failed: set[str]) -> None:
    verdicts = of_mappings(read_mappings(SMAPS.replace(before, after)), "root")
    assert {name for name, (state, _) in verdicts.items() if state != PASS} == failed


def test_what_cannot_be_read_from_outside_is_skipped_and_says_why() -> None:
    verdicts = of_mappings(read_mappings(None), "root")
    assert {state for state, _ in verdicts.values()} == {SKIP}
    assert "try as root" in verdicts["mlock"][1]


@given(st.text(max_size=400))
def test_any_smaps_are_read(text: str) -> None:
    of_mappings(read_mappings(text), "root")
    of_mappings(read_mappings(SMAPS + text), "root")
