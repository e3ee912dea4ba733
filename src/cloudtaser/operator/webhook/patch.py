"""The patch: what turns one JSON document into another, as RFC 6902 has it, the same operations each time.

Used by `review`. Pure. Lists of named things (containers, volumes, variables, mounts) are compared by name,
so that a patch shows what was put in and leaves the rest alone; any other list is replaced whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

Operation = dict[str, Any]

_KEYS: Final = ("name", "mountPath", "containerPort", "key", "uid")
"""What may tell the elements of a list apart, in the order in which they are tried."""


def difference(before: Any, after: Any, path: str = "") -> list[Operation]:
    """The operations that make `after` of `before`, to be applied in this order."""
    if before is after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        return list(_of_objects(before, after, path))
    if isinstance(before, list) and isinstance(after, list):
        return _of_lists(before, after, path)
    return [] if _same(before, after) else [{"op": "replace", "path": path, "value": after}]


def _of_objects(before: dict[str, Any], after: dict[str, Any], path: str) -> Iterator[Operation]:
    for name in sorted(before.keys() | after.keys()):
        place = f"{path}/{_escaped(name)}"
        if name not in after:
            yield {"op": "remove", "path": place}
        elif name not in before:
            yield {"op": "add", "path": place, "value": after[name]}
        else:
            yield from difference(before[name], after[name], place)


def _of_lists(before: list[Any], after: list[Any], path: str) -> list[Operation]:
    names = _names(before, after)
    if names is not None:
        old, new = names
        present, wanted = set(old), set(new)
        kept = [name for name in old if name in wanted]
        if [name for name in new if name in present] == kept:  # else they changed places
            return list(_of_named(before, after, path, old, new))
    return [] if _same(before, after) else [{"op": "replace", "path": path, "value": after}]


def _of_named(
    before: list[Any], after: list[Any], path: str, old: list[Any], new: list[Any]
) -> Iterator[Operation]:
    wanted = set(new)
    for index in range(len(old) - 1, -1, -1):
        if old[index] not in wanted:
            yield {"op": "remove", "path": f"{path}/{index}"}
    current = dict(zip(old, before, strict=True))
    last = max((index for index, name in enumerate(new) if name in current), default=-1)
    for index, name in enumerate(new):
        if name in current:
            yield from difference(current[name], after[index], f"{path}/{index}")
        else:
            place = "-" if index > last else str(index)
            yield {"op": "add", "path": f"{path}/{place}", "value": after[index]}


def _names(before: Sequence[Any], after: Sequence[Any]) -> tuple[list[Any], list[Any]] | None:
    """What tells the elements of both lists apart, or None where nothing does."""
    both = [*before, *after]
    if not before or not all(isinstance(element, dict) for element in both):
        return None
    for key in _KEYS:
        old, new = ([element.get(key) for element in part] for part in (before, after))
        if all(isinstance(name, str | int) and not isinstance(name, bool) for name in [*old, *new]) and (
            len(set(old)) == len(old) and len(set(new)) == len(new)
        ):
            return old, new
    return None


def _same(one: Any, other: Any) -> bool:
    """Equality as JSON has it: true is not 1."""
    if one is other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
