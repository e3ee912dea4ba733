"""Turns: no namespace waits for another one's length."""

from __future__ import annotations

from cloudtaser.operator.tokens.turns import Turns


def test_namespaces_take_turns_and_within_one_it_goes_in_order() -> None:
    turns: Turns[str] = Turns(places=10)
    for item in ("a1", "a2", "a3"):
        turns.put("a", item)
    turns.put("b", "b1")
    turns.put("c", "c1")
    turns.put("c", "c2")
    assert [turns.take() for _ in range(7)] == ["a1", "b1", "c1", "a2", "c2", "a3", None]


def test_one_namespace_has_its_places_and_no_more_until_it_gives_one_back() -> None:
    turns: Turns[int] = Turns(places=2)
    for number in range(5):
        turns.put("a", number)
    assert [turns.take() for _ in range(3)] == [0, 1, None]
    turns.put("b", 9)
    assert turns.take() == 9
    turns.done("a")
    assert [turns.take() for _ in range(2)] == [2, None]


def test_a_newcomer_among_namespaces_that_have_all_places_is_next_after_each_of_them_once() -> None:
    turns: Turns[str] = Turns(places=1)
    for number in range(9):
        turns.put("a", f"a{number}")
        turns.put("b", f"b{number}")
    assert [turns.take(), turns.take()] == ["a0", "b0"]
    turns.put("new", "new")
    taken = []
    for _ in range(3):
        turns.done("a")
        taken.append(turns.take())
    assert "new" in taken


def test_what_is_put_first_comes_before_the_others_of_its_namespace_alone() -> None:
    turns: Turns[str] = Turns(places=10)
    turns.put("b", "b1")
    turns.put("a", "a1")
    turns.put("a", "again", first=True)
    assert [turns.take() for _ in range(3)] == ["b1", "again", "a1"]
