"""Turns: who is served next, when many namespaces have something to be served.

Used by `minting`. Namespaces take turns, however much each of them has, and none has more than a few places
at once: a tenant whose pods answer slowly keeps its own waiting. Within a namespace it goes in the order in
which they came. Pure: no clock, no tasks.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """What waits, by namespace. Whoever is taken has a place until `done`."""

    def __init__(self, places: int) -> None:
        """`places`: how many of one namespace are served at a time."""
        self._places = places
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()
        self._served: Counter[str] = Counter()

    def put(self, namespace: str, item: T, *, first: bool = False) -> None:
        """Wait, behind the others of that namespace or before them."""
        queue = self._queues.setdefault(namespace, deque())
        if first:
            queue.appendleft(item)
        else:
            queue.append(item)

    def take(self) -> T | None:
        """Whose turn it is; None when nobody waits whose namespace has a place left."""
        free = (namespace for namespace in self._queues if self._served[namespace] < self._places)
        namespace = next(free, None)
        if namespace is None:
            return None
        queue = self._queues[namespace]
        item = queue.popleft()
        self._served[namespace] += 1
        if queue:
            self._queues.move_to_end(namespace)
        else:
            del self._queues[namespace]
        return item

    def done(self, namespace: str) -> None:
        """One of that namespace gives back its place."""
        self._served[namespace] -= 1
        if not self._served[namespace]:
            del self._served[namespace]
