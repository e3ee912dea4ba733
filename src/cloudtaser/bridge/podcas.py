"""Pod CAs: which certificate a pod is shown, and how many pods still pin which CA.

Of one cluster; part of `cluster.Cluster`. `station` says which CAs are served, TLS asks `choose` during each
pod's handshake, `session` tells who asked something. A pod names the CA it pins in its SNI (spec/wire.md, "CA
rotation"); one that names none is shown the oldest, for it pins what was there when it started.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping
from typing import Final, TypeAlias

from cloudtaser.openbao.records import PodCaUse, instant, seconds
from cloudtaser.wire.names import BRIDGE_NAME

WINDOW: Final = 600.0
"""Seconds for which a pod counts after it was last heard."""
PODS_LIMIT: Final = 4096
"""Pods told apart per CA: beyond that the count stands still."""

Pod: TypeAlias = str
"""A pod's UID, or its address while nothing else is known of it."""

_SUFFIX: Final = f".{BRIDGE_NAME}"


class PodCas:
    """The pod CAs of one cluster, by label."""

    def __init__(self) -> None:
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._oldest = ""
        self._seen: dict[str, dict[Pod, float]] = {}  # by label, the one heard last at the end
        self._carried: dict[str, tuple[int, float]] = {}
        self.strangers = 0
        """Handshakes that named a CA which is not served."""

    # What is served

    def serve(self, contexts: Mapping[str, ssl.SSLContext], oldest: str) -> ssl.SSLContext:
        """Serve these CAs and no others; `oldest` for whoever names none. Returns what a handshake begins
        with."""
        self._contexts = dict(contexts)
        self._oldest = oldest
        for table in (self._seen, self._carried):
            for label in [label for label in table if label not in contexts]:
                del table[label]
        first = self._contexts[oldest]
        first.sni_callback = self._callback
        return first

    @property
    def labels(self) -> frozenset[str]:
        """Of the CAs that are served."""
        return frozenset(self._contexts)

    def choose(self, name: str | None) -> ssl.SSLContext | None:
        """The context for a pod that names the server so; None when it pins a CA that is not served."""
        if name is None or not name.lower().endswith(_SUFFIX):
            return self._contexts.get(self._oldest)
        return self._contexts.get(name.lower().removesuffix(_SUFFIX))

    def label_of(self, tls: ssl.SSLObject | None) -> str:
        """The CA that a handshake ended under; empty when that is not known."""
        if tls is None:
            return ""
        return next((label for label, context in self._contexts.items() if context is tls.context), "")

    def _callback(self, tls: ssl.SSLObject, name: str | None, _first: ssl.SSLContext) -> int | None:
        context = self.choose(name)
        if context is None:
            self.strangers += 1
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        tls.context = context
        return None

    # Who pins what

    def heard(self, label: str, pod: Pod, now: float, *, formerly: Pod = "") -> None:
        """A pod that pins this CA asked something (`now`: seconds since the epoch); `formerly` is what it
        counted as before its name was known."""
        if label not in self._contexts:
            return
        pods = self._seen.setdefault(label, {})
        pods.pop(formerly or pod, None)
        pods.pop(pod, None)
        pods[pod] = now
        if len(pods) > PODS_LIMIT:
            del pods[next(iter(pods))]

    def carry(self, uses: Mapping[str, PodCaUse]) -> None:
        """What an earlier run of this bridge had counted: it holds until its time is over."""
        for label, use in uses.items():
            if use.pods and use.seen_at:
                self._carried[label] = (use.pods, seconds(use.seen_at))

    def uses(self, now: float) -> dict[str, PodCaUse]:
        """How many pods pin each CA that is served."""
        return {label: self._use(label, now) for label in self._contexts}

    def _use(self, label: str, now: float) -> PodCaUse:
        pods = self._seen.get(label, {})
        while pods and (first := next(iter(pods.items())))[1] <= now - WINDOW:
            del pods[first[0]]
        count, last = len(pods), max(pods.values(), default=0.0)
        carried, at = self._carried.get(label, (0, 0.0))
        if at > now - WINDOW:
            count, last = max(count, carried), max(last, at)
        return PodCaUse(count, instant(last) if last else "")


def ignore_names_that_are_none() -> None:
    """Keep a server name that is no ASCII out of the log: CPython ends such a handshake with an alert, as it
    should, but reports it as an error of the program, with a traceback for whoever sends one."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes):
            return
        before(unraisable)

    sys.unraisablehook = hook
