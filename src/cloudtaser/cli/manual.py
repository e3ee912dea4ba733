"""Manual: how the help of every command ends, so that nobody needs to look elsewhere for the usual questions.

Pure. Used by every command. A paragraph that begins with \\b keeps its lines (click's documentation).
"""

from __future__ import annotations

_KEEP = "\b\n"


def manual(*lines: str, differs: str = "") -> str:
    """Examples (what follows the program's name) and exit codes; `differs` says when it ends with 3."""
    examples = "".join(f"\n  cloudtaser-cli {line}" for line in lines)
    three = f", 3 {differs}" if differs else ""
    return (
        f"{_KEEP}Examples:{examples}\n\n"
        f"{_KEEP}Exit codes:\n  0 done, 1 failed, 2 usage{three}, 4 not authorised"
    )
