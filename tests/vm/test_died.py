"""A machine is started anew for what the emulation broke, and for nothing else."""

from __future__ import annotations

import pytest

from tests.vm.machine import died_of_emulation

BREAKPOINT = """[  166.76] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI
[  166.77] RIP: 0010:bpf_lsm_capable+0x5/0x10
[  166.79] Kernel panic - not syncing: Fatal exception in interrupt
"""


def test_a_breakpoint_that_was_gone_is_the_emulations_fault() -> None:
    assert died_of_emulation(BREAKPOINT)


@pytest.mark.parametrize(
    "console",
    ["", BREAKPOINT.replace("int3", "general protection fault"), BREAKPOINT.partition("Kernel panic")[0]],
)
def test_any_other_end_is_the_kernels_own(console: str) -> None:
    assert not died_of_emulation(console)
