"""Exposition: the probes and metrics that a part shows on loopback, as one who looks at it reads them.

Used by `chain` to wait for a part, and by tests. A part that does not answer says nothing: no error.
"""

from __future__ import annotations

import asyncio
import urllib.request

_TIMEOUT = 1.0


async def fetch(port: int, path: str) -> str:
    """The body of a probe on loopback; empty when it does not answer with success."""
    return await asyncio.to_thread(_fetch, f"http://127.0.0.1:{port}{path}")


async def probe(port: int, path: str) -> bool:
    """Whether a probe on loopback answers with success."""
    return bool(await fetch(port, path))


def sum_metric(exposition: str, name: str) -> float:
    """Sum of a metric's samples in Prometheus text format."""
    total = 0.0
    for line in exposition.splitlines():
        sample, _, value = line.rpartition(" ")
        if sample.partition("{")[0] == name:
            total += float(value)
    return total


def _fetch(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:  # noqa: S310  # a URL made above
            body: bytes = answer.read()
    except OSError:
        return ""
    return body.decode() or "ok"
