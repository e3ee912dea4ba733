"""What an ordinary open() costs a process that nobody protects: counted, since time in a VM is noise."""

from __future__ import annotations

import pytest

from bench.ebpf.compare import BAR, cost, measured

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(("kernel", "tier"), [("6.12", "lsm"), ("6.1", "fmod_ret")])
def test_an_ordinary_open_executes_at_most_sixty_instructions_and_one_lookup(kernel: str, tier: str) -> None:
    found = measured(kernel, tier)
    instructions, lookups = cost(found)
    assert [one["program"] for one in found["programs"]] == [
        {"lsm": "lsm_file_open", "fmod_ret": "mod_file_open"}[tier]
    ]
    assert 0 < instructions <= BAR
    assert lookups <= 1
