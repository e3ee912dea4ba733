"""docs/beacon.md names every setting, its default, and every metric."""

from __future__ import annotations

import re
from pathlib import Path

from cloudtaser.beacon import page
from cloudtaser.beacon.config import _SETTINGS

TEXT = (Path(__file__).parents[3] / "docs" / "beacon.md").read_text()


def test_every_setting_is_documented_with_its_default() -> None:
    for setting in _SETTINGS.values():
        row = next(
            (line for line in TEXT.splitlines() if line.startswith("|") and f"`{setting.flag}`" in line), ""
        )
        assert row, setting.flag
        if setting.default and setting.name != "max_pairs":
            assert f"`{setting.default}`" in row.split("|")[2], setting.flag


def test_every_metric_is_documented() -> None:
    source = Path(page.__file__).read_text()
    names = re.findall(r'(?:sample|lines)\(\s*"(\w+)"', source)
    assert len(names) > 15
    for name in names:
        assert f"`{name}" in TEXT, name
