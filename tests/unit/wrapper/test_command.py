"""How a command is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudtaser.wrapper.command import DEFAULT_PATH, candidates, check
from cloudtaser.wrapper.errors import CommandError


def test_a_name_with_a_slash_is_taken_as_it_is() -> None:
    assert candidates(b"./a", b"/bin") == [b"./a"]


def test_a_bare_name_is_looked_for_in_path() -> None:
    assert candidates(b"a", b"/x::/y") == [b"/x/a", b"./a", b"/y/a"]
    assert candidates(b"a", None)[0] == DEFAULT_PATH.split(b":")[0] + b"/a"
    assert candidates(b"", b"/bin") == []


@pytest.mark.parametrize(("mode", "code"), [(0o755, None), (0o644, 126)])
def test_what_cannot_be_executed_is_126_and_what_is_not_there_127(
    tmp_path: Path, mode: int, code: int | None
) -> None:
    file = tmp_path / "tool"
    file.write_text("#!/bin/sh\n")
    file.chmod(mode)
    path = f"/nonexistent:{tmp_path}".encode()
    if code is None:
        check(b"tool", path)
    else:
        with pytest.raises(CommandError) as caught:
            check(b"tool", path)
        assert caught.value.code == code
    for missing in (b"missing", b"", b"/nonexistent/tool", b"nul\0byte"):
        with pytest.raises(CommandError) as caught:
            check(missing, path)
        assert caught.value.code == 127
    with pytest.raises(CommandError) as caught:
        check(bytes(tmp_path), path)
    assert caught.value.code == 126
