"""Who uses which CA of a cluster, as an answer shows it. Used by `rotate`, `show` and `status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudtaser.openbao.usage import CaUse


def ca_data(uses: tuple[CaUse, ...], what: str) -> list[dict[str, Any]]:
    """For programs; `what` is being counted."""
    return [
        {"ca": use.short, "former": use.former, what: use.count, "bridges": dict(use.bridges)} for use in uses
    ]


def ca_text(uses: tuple[CaUse, ...]) -> str:
    """The same in one line: `2`, and during a rotation `1 under 3c4d… (new), 2 under 1f2e… (former)`."""
    if len(uses) == 1:
        return str(uses[0].count)
    return ", ".join(f"{use.count} under {use.short} ({'former' if use.former else 'new'})" for use in uses)
