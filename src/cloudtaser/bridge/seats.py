"""Seats: which pods hold a token that lives, so that a second login of the same pod is seen.

Used by `seating` at a login and by `response` for what becomes of the token: a copy of a pod's ServiceAccount
token is good for a login of its own, which shows here as the second. A seat is free again when its token has
expired, was revoked, or is no longer known to OpenBao. Holds hashes, never tokens; bounded for each cluster;
empty after a restart. Pure: the caller passes the time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cloudtaser.bridge.refusal import RequestRefused

PODS: Final = 16384
"""Pods of one cluster; beyond it whoever logged in longest ago is forgotten."""
TOKENS: Final = 8
"""Of one pod; beyond it the one that ends first is forgotten."""
UNUSED: Final = 60.0
"""Seconds after which a token that was never used keeps nobody out: its answer may have been lost."""
UNDER_WAY: Final = 90.0
"""Seconds in which a login is answered or given up."""
UNKNOWN_LIFE: Final = 3600.0
"""Seconds, where a login's answer does not show them."""


@dataclass(slots=True, eq=False)
class _Token:
    ends: float
    since: float
    used: bool = False

    def until(self) -> float:
        """When it keeps nobody out any more."""
        return self.ends if self.used else min(self.ends, self.since + UNUSED)


_Pods = OrderedDict[str, dict[object, _Token]]


class Seat:
    """One login under way, and then its token."""

    __slots__ = ("_fingerprint", "_pod", "_seats", "second")

    def __init__(self, seats: Seats, fingerprint: str, pod: str, *, second: bool) -> None:
        self._seats = seats
        self._fingerprint = fingerprint
        self._pod = pod
        self.second = second
        """Another token of the pod lives, or is being asked for."""

    def take(self, token_hash: bytes, seconds: float, now: float) -> None:
        """The login gave a token for so long; zero is not known. An empty hash is one nobody has seen yet."""
        self._seats.take(self, self._fingerprint, self._pod, token_hash, seconds, now)

    def leave(self) -> None:
        """The login gave no token; nothing once it did."""
        self._seats.leave(self, self._fingerprint, self._pod)


class Seats:
    """The pods of all clusters."""

    def __init__(self, *, single: bool = False, pods: int = PODS) -> None:
        """`single` refuses second logins; otherwise they are only seen."""
        self.single = single
        self._size = pods
        self._clusters: dict[str, _Pods] = {}
        self._held: dict[bytes, tuple[str, str, _Token]] = {}

    def ask(self, fingerprint: str, pod: str, now: float) -> Seat:
        """A seat for a login of that pod (its UID). RequestRefused when it has one and may have one only."""
        pods = self._clusters.setdefault(fingerprint, OrderedDict())
        tokens = pods.setdefault(pod, {})
        for key in [key for key, token in tokens.items() if token.ends <= now]:
            self._drop(tokens, key)
        wait = max((token.until() for token in tokens.values()), default=now) - now
        if self.single and wait > 0:
            raise RequestRefused(
                429,
                "this pod is logged in already, and this bridge lets each pod log in once (--single-login);"
                " it can again when its token was revoked or has expired",
                "second_login",
                wait=wait,
            )
        seat = Seat(self, fingerprint, pod, second=bool(tokens))
        self._add(tokens, seat, _Token(now + UNDER_WAY, now))
        pods.move_to_end(pod)
        if len(pods) > self._size:
            _, oldest = pods.popitem(last=False)
            for key in list(oldest):
                self._drop(oldest, key)
        return seat

    def take(
        self, seat: Seat, fingerprint: str, pod: str, token_hash: bytes, seconds: float, now: float
    ) -> None:
        """(seat) It is a token's now."""
        self.leave(seat, fingerprint, pod)
        token = _Token(now + (seconds or UNKNOWN_LIFE), now)
        tokens = self._clusters.setdefault(fingerprint, OrderedDict()).setdefault(pod, {})
        self._add(tokens, token_hash or token, token)
        if token_hash:
            self._held[token_hash] = fingerprint, pod, token

    def leave(self, seat: Seat, fingerprint: str, pod: str) -> None:
        """(seat) Nothing came of it."""
        self._remove(fingerprint, pod, seat)

    def used(self, token_hash: bytes) -> None:
        """The token was used: its pod has it."""
        held = self._held.get(token_hash)
        if held is not None:
            held[2].used = True

    def renewed(self, token_hash: bytes, seconds: float, now: float) -> None:
        """The token lives on for so long."""
        held = self._held.get(token_hash)
        if held is not None:
            held[2].used = True
            held[2].ends = now + (seconds or UNKNOWN_LIFE)

    def free(self, token_hash: bytes) -> None:
        """The token was revoked, or OpenBao does not know it."""
        held = self._held.get(token_hash)
        if held is not None:
            self._remove(held[0], held[1], token_hash)

    def forget_cluster(self, fingerprint: str) -> None:
        """The cluster is gone."""
        for tokens in self._clusters.pop(fingerprint, _Pods()).values():
            for key in list(tokens):
                self._drop(tokens, key)

    def __len__(self) -> int:
        return sum(len(pods) for pods in self._clusters.values())

    def _add(self, tokens: dict[object, _Token], key: object, token: _Token) -> None:
        tokens[key] = token
        if len(tokens) > TOKENS:
            self._drop(tokens, min(tokens, key=lambda one: (one is key, tokens[one].ends)))

    def _remove(self, fingerprint: str, pod: str, key: object) -> None:
        pods = self._clusters.get(fingerprint, _Pods())
        tokens = pods.get(pod)
        if tokens is not None and key in tokens:
            self._drop(tokens, key)
            if not tokens:
                del pods[pod]

    def _drop(self, tokens: dict[object, _Token], key: object) -> None:
        del tokens[key]
        if isinstance(key, bytes):
            self._held.pop(key, None)
