"""Which tiers an agent tries."""

from __future__ import annotations

from cloudtaser.ebpf import tiers
from cloudtaser.ebpf.vectors import Tier


def test_the_first_agent_tries_all_the_strongest_first() -> None:
    assert tiers.worth_trying(frozenset()) == tiers.ORDER


def test_a_successor_tries_none_stronger_than_its_predecessor_found() -> None:
    """Its self-test would be passed by the predecessor's programs, and those go when it takes over."""
    links = frozenset({"mod_file_open", "mod_task_alloc", "life_fork"})
    assert tiers.worth_trying(links) == (Tier.FMOD_RET, Tier.KILL)
    assert tiers.worth_trying(frozenset({"lsm_file_open", "life_fork"})) == tiers.ORDER
