"""The table of vectors: its numbers, and what it says of a kernel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cloudtaser.ebpf import layout, tiers
from cloudtaser.ebpf.guard import OBJECT
from cloudtaser.ebpf.libbpf import Object
from cloudtaser.ebpf.tiers import hook, kernel_function, programs, refused_program
from cloudtaser.ebpf.vectors import (
    KILLS,
    NAMES,
    VECTORS,
    WATCHED,
    Kind,
    Standing,
    Tier,
    Vector,
    standings,
    syscall_names,
    syscall_numbers,
    watched,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    object_ = Object(str(OBJECT))
    found = object_.sections
    object_.close()
    return found


def test_numbers_are_those_of_the_table_and_never_reused() -> None:
    assert [vector.number for vector in VECTORS] == list(range(1, 47))
    assert len({vector.name for vector in VECTORS}) == 46


def test_the_documents_table_has_every_vector_and_no_other() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/ebpf.md").read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 47))


def test_every_hook_that_a_vector_needs_is_in_the_object(sections: dict[str, str]) -> None:
    hooks = {hook(name) for name in sections}
    needed = {one for vector in VECTORS for need in vector.needs for one in need.split("|")}
    assert needed <= hooks


def test_both_denying_tiers_have_the_same_hooks(sections: dict[str, str]) -> None:
    lsm = {hook(name) for name in sections if name.startswith("lsm_")}
    mod = {hook(name) for name in sections if name.startswith("mod_")}
    assert lsm == mod


def test_with_every_hook_all_that_can_be_denied_holds(sections: dict[str, str]) -> None:
    everything = frozenset(hook(name) for name in sections)
    found = standings(Tier.LSM, everything, enforces=True)
    assert {n for n, standing in found.items() if standing is not Standing.HOLDS} == {44, 45, 46}
    assert set(standings(Tier.LSM, everything, enforces=False).values()) == {
        Standing.DETECTS,
        Standing.NOT_HERE,
    }


@pytest.mark.parametrize(
    "vector", [vector for vector in VECTORS if vector.needs], ids=lambda vector: vector.number
)
def test_a_vector_whose_hook_is_missing_is_never_said_to_hold(vector: Vector) -> None:
    everything = frozenset(one for each in VECTORS for need in each.needs for one in need.split("|"))
    for need in vector.needs:
        without = everything - set(need.split("|"))
        assert standings(Tier.LSM, without, enforces=True)[vector.number] is Standing.NOT_HERE


def test_no_tier_no_vector() -> None:
    assert set(standings(Tier.NONE, frozenset(), enforces=True).values()) == {Standing.NOT_HERE}


def test_the_tier_kill_says_only_what_it_does() -> None:
    found = standings(Tier.KILL, frozenset(), enforces=True)
    holds = {1, 2, 13, 18, 19, 21, 22, 23, 24, 28, 41}
    not_here = {17, 20, 29, 30, 31, 32, 33, 35, 36, 37, 38, 39, 40, 42, 43, 45, 46}
    for number, standing in found.items():
        otherwise = Standing.NOT_HERE if number in not_here else Standing.DETECTS
        assert standing is (Standing.HOLDS if number in holds else otherwise), number


def test_the_tier_kill_ends_who_reads_contents_and_nobody_who_monitors() -> None:
    assert {number for number in range(64) if KILLS >> number & 1} == {1, 2, 13, 18, 19, 21, 22, 23, 24, 28}
    sizes = ("maps", "smaps", "smaps_rollup", "numa_maps", "pagemap", "clear_refs", "auxv", "io")
    for name in (*sizes, "stack", "syscall", "personality", "coredump_filter", "fd", "fdinfo", "map_files"):
        assert not KILLS >> NAMES[name] & 1, name


def test_the_kernels_field_has_room_for_every_vector_that_kills() -> None:
    assert layout.Config.parse(layout.Config(kills=KILLS).pack()).kills == KILLS


def test_the_document_says_of_each_vector_what_the_tier_kill_does() -> None:
    text = (ROOT / "docs/ebpf.md").read_text()
    said = {int(n): kill for n, kill in re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", text, re.MULTILINE)}
    words = {Standing.HOLDS: {"yes", "on it"}, Standing.DETECTS: {"seen"}, Standing.NOT_HERE: {"no", "shown"}}
    for vector in VECTORS:
        assert said[vector.number] in words[vector.kill], vector.number


def test_names_fit_the_kernels_key_and_lead_to_a_vector() -> None:
    for name, number in NAMES.items():
        assert 0 < len(name) < 16
        assert VECTORS[number - 1].kind is Kind.DENIED


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_watched_system_call_has_a_vector_or_opens(machine: str) -> None:
    native, compat = watched(machine)
    assert len(native) == len(compat) == WATCHED
    numbers = syscall_numbers(machine)
    for number, bits in enumerate(native):
        assert not bits & 7 or number in numbers, number
    assert native[438] == 4 | 8
    assert set(syscall_names(machine)) >= {
        number for number in numbers if machine == "x86_64" or number < 65536
    }


def test_programs_are_chosen_by_what_the_kernel_has(sections: dict[str, str]) -> None:
    functions = frozenset(name for name in map(kernel_function, sections.values()) if name)
    new = programs(Tier.LSM, sections, functions)
    assert "lsm_bpf_prog_load" in new
    assert "lsm_bpf_load" not in new
    old = programs(Tier.LSM, sections, functions - {"bpf_lsm_bpf_prog_load"})
    assert "lsm_bpf_load" in old
    assert not {name for name in new if name.startswith(("mod_", "react_"))}
    told = frozenset({"life_cgroup", "life_exec"})
    assert programs(Tier.KILL, sections, frozenset()) == tiers.ESSENTIAL[Tier.KILL] | tiers.LIFE | told


def test_the_refused_program_is_read_from_libbpfs_log() -> None:
    log = (
        "libbpf: prog 'a': BPF program load failed: Invalid argument\nlibbpf: prog 'b': failed to load: -22\n"
    )
    assert refused_program(log) == "b"
    assert refused_program("libbpf: failed to load object") == ""
