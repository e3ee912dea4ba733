"""How settings are written."""

from __future__ import annotations

import pytest

from cloudtaser.beacon.values import duration, endpoint, size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("5s", 5), ("1.5m", 90), ("24h", 86_400), ("7d", 604_800), ("3", 3)],
)
def test_times(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "number"), [("4096", 4096), ("4KiB", 4096), ("1M", 1048576), ("2 GiB", 2 << 30)]
)
def test_sizes(text: str, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:65536", "a:b:c"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        endpoint(text)
