"""Form: the two ways in which a server keeps clusters apart.

Used by `layout` and, for its flag, by the CLI, whose `--help` loads nothing of weight.
"""

from __future__ import annotations

from enum import StrEnum


class Form(StrEnum):
    """Namespaces where the server has them (OpenBao), mounts in the root where it has not (HashiCorp Vault's
    community edition)."""

    NAMESPACES = "namespaces"
    MOUNTS = "mounts"
