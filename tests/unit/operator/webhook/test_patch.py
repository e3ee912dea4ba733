"""The patch."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.operator.webhook.patch import difference
from cloudtaser.operator.webhook.review import Answer
from tests.unit.operator.webhook.pods_rig import apply

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3) | st.floats(-1, 1, width=16)
KEYS = st.sampled_from(["name", "mountPath", "a", "b/c", "d~e", ""])
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
DOCUMENTS = st.dictionaries(KEYS, JSON, max_size=4)


def exactly(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


def canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: canonical(value[key]) for key in sorted(value)}
    return [canonical(one) for one in value] if isinstance(value, list) else value


@given(DOCUMENTS, DOCUMENTS)
def test_a_patch_makes_exactly_the_other_document(before: dict[str, Any], after: dict[str, Any]) -> None:
    untouched = copy.deepcopy(before)
    patched = apply(before, Answer(patch=tuple(difference(before, after))))
    assert exactly(canonical(patched), canonical(after))
    assert exactly(before, untouched)


@given(DOCUMENTS)
def test_nothing_to_do_is_an_empty_patch(document: dict[str, Any]) -> None:
    assert difference(document, copy.deepcopy(document)) == []


@given(DOCUMENTS, DOCUMENTS)
def test_the_same_documents_give_the_same_patch(before: dict[str, Any], after: dict[str, Any]) -> None:
    shuffled = {key: before[key] for key in reversed(list(before))}
    assert difference(before, after) == difference(shuffled, after)


NAMED = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6).map(
    lambda names: [{"name": name, "value": 1} for name in names]
)


@given(NAMED, NAMED)
def test_lists_of_named_things_are_patched_in_any_order(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    patched = apply({"env": before}, Answer(patch=tuple(difference({"env": before}, {"env": after}))))
    assert patched == {"env": after}


def test_what_only_looks_the_same_is_replaced() -> None:
    assert difference({"a": 1}, {"a": True}) == [{"op": "replace", "path": "/a", "value": True}]
    assert difference({"a": [1]}, {"a": [1.0]}) == [{"op": "replace", "path": "/a", "value": [1.0]}]


def test_a_name_with_signs_that_mean_something_in_a_path_is_escaped() -> None:
    assert difference({}, {"a/b~c": 1}) == [{"op": "add", "path": "/a~1b~0c", "value": 1}]


def test_what_is_put_in_leaves_the_rest_alone() -> None:
    before = {"containers": [{"name": "app", "image": "x"}, {"name": "log", "image": "y"}]}
    after = {
        "containers": [
            {"name": "first", "image": "z"},
            {"name": "app", "image": "x", "command": ["w"]},
            {"name": "log", "image": "y"},
            {"name": "last", "image": "z"},
        ]
    }
    assert difference(before, after) == [
        {"op": "add", "path": "/containers/0", "value": {"name": "first", "image": "z"}},
        {"op": "add", "path": "/containers/1/command", "value": ["w"]},
        {"op": "add", "path": "/containers/-", "value": {"name": "last", "image": "z"}},
    ]
