"""Manual: how the help of every command ends, so that nobody needs to look elsewhere for the usual questions.

Pure. Used by every command. A paragraph that begins with \\b keeps its lines (click's documentation), so what
is written here must fit 80 columns by itself.
"""

from __future__ import annotations

import re
from typing import Final

_KEEP: Final = "\b\n"
_WIDTH: Final = 78  # of a terminal's 80, as click indents all of it
_BREAK: Final = re.compile(r" (?=--?[a-z]|> |[0-9a-f]{8}-)")
EXIT_CODES: Final = (
    "0  done, or nothing was to do",
    "1  failed: the line says what, on what, and what to do",
    "2  the command line cannot be used as it is",
    "3  ",
    "4  not authorised",
)


def manual(*lines: str, differs: str = "") -> str:
    """Examples (what follows the program's name) and exit codes; `differs` says when it ends with 3."""
    examples = "".join(f"\n  {fitting(f'cloudtaser-cli {line}')}" for line in lines)
    codes = (code + differs if code.startswith("3") else code for code in EXIT_CODES)
    shown = "".join(f"\n  {code}" for code in codes if not code.endswith(" "))
    return f"{_KEEP}Examples:{examples}\n\n{_KEEP}Exit codes:{shown}"


def fitting(line: str) -> str:
    """The line, continued before a flag, a fingerprint or a file as a shell allows where it is too long."""
    pieces = _BREAK.split(line)
    rows = [pieces[0]]
    for piece in pieces[1:]:
        if len(rows[-1]) + len(piece) + 5 <= _WIDTH:
            rows[-1] += f" {piece}"
        else:
            rows.append(f"  {piece}")
    return " \\\n  ".join(rows)
