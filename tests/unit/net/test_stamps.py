"""Whether a file is still the one that was read."""

from __future__ import annotations

import os
from pathlib import Path

from cloudtaser.net.stamps import stamp


def test_a_stamp_changes_with_what_is_in_a_file_and_with_the_file_itself(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    names = str(first), str(second)
    assert stamp(*names) == (None, None)
    first.write_text("x")
    seen = [stamp(*names)]
    second.write_text("y")
    seen.append(stamp(*names))
    first.write_text("longer")
    seen.append(stamp(*names))
    (tmp_path / "new").write_text("z")
    os.replace(tmp_path / "new", second)
    seen.append(stamp(*names))
    assert len(set(seen)) == len(seen)
    assert stamp(*names) == seen[-1]
