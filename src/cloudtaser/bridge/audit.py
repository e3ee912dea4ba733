"""Audit: one numbered line for each request, who asked for what and what came of it.

Written by `session` at the end of every request. A line names cluster, pod, method, path, verdict, status,
time and correlation id; no line holds a token, a body or a query. Lines are numbered without gaps within one
run of the bridge, which `run` names, so that a missing one is visible to whoever collects them.
"""

from __future__ import annotations

import datetime
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

import msgspec

Sink = Callable[[bytes], None]
"""Takes one line of JSON without its newline. Must not block."""

Verdict = Literal["allowed", "refused"]


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line, in the order in which it is written."""

    event: str
    run: str
    seq: int
    time: str
    cluster: str
    id: str
    """Correlation id, the same from wrapper to OpenBao."""
    peer: str
    namespace: str
    serviceaccount: str
    pod: str
    method: str
    path: str
    verdict: Verdict
    status: int
    milliseconds: float
    reason: str = ""
    """Why it was refused, one word; empty for what passed."""
    via: str = ""
    """`admin` for a request on an admin stream, `migrate` for a secret stored there."""
    version: int = 0
    """What a migration stored, or found."""


_EVENT: Final = "request"


class Audit:
    """Numbers lines and hands them to `sink`."""

    def __init__(self, sink: Sink, run: str = "") -> None:
        self._sink = sink
        self._run = run or secrets.token_hex(8)
        self._seq = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        """Requests by verdict and reason, for metrics; reasons are words of the program, so there are few."""
        self._encode = msgspec.json.Encoder().encode
        self._second = -1
        self._date = ""

    @property
    def written(self) -> int:
        """Number of the last line."""
        return self._seq

    def write(
        self,
        *,
        now: float,
        cluster: str,
        id: str,  # the line's own word
        peer: str,
        namespace: str,
        serviceaccount: str,
        pod: str,
        method: str,
        path: str,
        verdict: Verdict,
        status: int,
        milliseconds: float,
        reason: str = "",
        via: str = "",
        version: int = 0,
    ) -> None:
        """Write one line; `now` in seconds since the epoch."""
        self._seq += 1
        self.counts[verdict, reason] += 1
        self._sink(
            self._encode(
                Line(
                    _EVENT,
                    self._run,
                    self._seq,
                    self._instant(now),
                    cluster,
                    id,
                    peer,
                    namespace,
                    serviceaccount,
                    pod,
                    method,
                    path,
                    verdict,
                    status,
                    round(milliseconds, 3),
                    reason,
                    via,
                    version,
                )
            )
        )

    def _instant(self, now: float) -> str:
        """RFC 3339, to the millisecond; the date is worked out once a second."""
        second = int(now)
        if second != self._second:
            moment = datetime.datetime.fromtimestamp(second, datetime.UTC)
            self._second, self._date = second, f"{moment:%Y-%m-%dT%H:%M:%S}"
        return f"{self._date}.{int((now - second) * 1000):03}Z"
