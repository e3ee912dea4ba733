"""`make bench`: each comparison in turn; its arguments (`--record`, `--rounds 9`) go to all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COMPARISONS = ("beacon/compare.py", "chain/compare.py", "wrapper/compare.py")


def main() -> int:
    """The first status that is not 0, else 0."""
    here = Path(__file__).resolve().parent
    worst = 0
    for comparison in COMPARISONS:
        print(f"== {comparison}", flush=True)
        worst = (
            subprocess.run([sys.executable, str(here / comparison), *sys.argv[1:]], check=False).returncode
            or worst
        )
    return worst


if __name__ == "__main__":
    sys.exit(main())
