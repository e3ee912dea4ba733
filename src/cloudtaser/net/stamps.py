"""Stamps: whether files are still the ones that were read.

Used wherever certificates may be replaced under a running program: `beacon.tls`, `bridge.files`,
`operator.reverse_certificate`. Take the stamp before reading: a change in between is seen the next time.
"""

from __future__ import annotations

import os

Stamp = tuple[tuple[int, int, int] | None, ...]


def stamp(*names: str) -> Stamp:
    """Inode, time of change and size of each file, None for one that cannot be looked at."""
    return tuple(_of(name) for name in names)


def _of(name: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
