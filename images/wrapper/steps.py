"""One step of the payload's build: a program that is run with nothing of the caller's but where programs are.

`sources`, `interpreter` and `build` take their steps here.
"""

import os
import subprocess
import sys
from pathlib import Path

# What stands for "now" in everything that is built, seconds since 1970 (reproducible-builds.org).
EPOCH = "1700000000"


class BuildError(Exception):
    """One line: what failed, and what to do."""


def run(arguments: list[str], directory: Path, log: Path, *, programs: Path | None = None) -> None:
    """Run a program in `directory`; what it says goes to the end of `log`. `programs` are looked for first.

    No CFLAGS, no locale and no clock of the caller's. Raises BuildError, after printing the end of the log.
    """
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    environment = {
        "PATH": f"{programs}:{path}" if programs else path,
        "HOME": str(directory),
        "LC_ALL": "C",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": EPOCH,
    }
    with log.open("ab") as output:
        output.write(f"$ {' '.join(arguments)}\n".encode())
        output.flush()
        done = subprocess.run(
            arguments,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode:
        print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        raise BuildError(f"{arguments[0]} ended with {done.returncode}; all of what was said is in {log}")
