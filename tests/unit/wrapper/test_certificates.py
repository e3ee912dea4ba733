"""A refused certificate comes with what to do about it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cloudtaser.wrapper.certificates import fix

NOW = 1_796_000_000.0  # November 2026


class Store:
    """Stands for the context: only its list of authorities is looked at."""

    def __init__(self, *ends: str) -> None:
        self._ends = ends

    def get_ca_certs(self, binary: bool) -> list[dict[str, str]]:
        return [{"notAfter": end} for end in self._ends]


@pytest.mark.parametrize(
    ("code", "ends", "said"),
    [
        (10, ["Jan  2 00:00:00 2026 GMT"], "CLOUDTASER_CA itself ended at Jan  2 00:00:00 2026 GMT"),
        (10, ["Jan  2 00:00:00 2036 GMT", "Dec 31 23:59:59 2025 GMT"], "itself ended at Dec 31"),
        (10, ["Jan  2 00:00:00 2036 GMT"], "renew the server's certificate"),
        (10, ["no date at all"], "renew the server's certificate"),
        (10, ["Jan  2 00:00:00 2020 GMT"] * 100, "renew the server's certificate"),  # a system's bundle
        (10, [], "renew the server's certificate"),
        (9, [], "clocks"),
        (20, [], "CLOUDTASER_CA does not hold the authority"),
        (62, [], "address"),
        (1, [], ""),
    ],
)
def test_the_fix_names_what_has_to_change(code: int, ends: list[str], said: str) -> None:
    found = fix(code, cast(Any, Store(*ends)), "CLOUDTASER_CA", NOW)
    assert said in found
    assert bool(said) == bool(found)
