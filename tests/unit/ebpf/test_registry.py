"""Who may still register, and what is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.ebpf.registry import Registration, Registry


def entry(registry: Registry, pod: str) -> Registration:
    registration = Registration(registry.next_number(), 1, 1, pod)
    registry.add(registration)
    return registration


def test_a_pod_has_its_share_and_no_more() -> None:
    registry = Registry()
    first, *_ = [entry(registry, "a") for _ in range(64)]
    assert "64" in registry.room_for("a")
    assert registry.room_for("b") == ""
    registry.remove(first.number)
    assert registry.room_for("a") == ""


def test_the_reserve_is_for_pods_that_have_none() -> None:
    registry = Registry(per_pod=100, total=10, reserve=3)
    for _ in range(7):
        entry(registry, "greedy")
    assert registry.room_for("greedy")
    for pod in ("b", "c", "d"):
        assert registry.room_for(pod) == ""
        entry(registry, pod)
    assert registry.room_for("e")


def test_an_adopted_number_is_not_given_again() -> None:
    registry = Registry()
    registry.adopt(Registration(41, 7, 1))
    registry.adopt(Registration(41, 8, 1))
    assert registry.next_number() == 42
    assert len(registry) == 1


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=200))
def test_counts_are_those_of_what_is_there(steps: list[tuple[bool, str]]) -> None:
    registry = Registry(per_pod=5, total=12, reserve=4)
    there: list[Registration] = []
    for add, pod in steps:
        mine = sum(each.pod == pod for each in there)
        if add and not registry.room_for(pod):
            there.append(entry(registry, pod))
            assert mine < 5
        elif not add and there:
            gone = there.pop(0)
            assert registry.remove(gone.number) == gone
        assert registry.all() == tuple(there)
        assert len({each.number for each in there}) == len(there) <= 12
