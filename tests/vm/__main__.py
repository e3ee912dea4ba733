"""`python -m tests.vm [options] COMMAND …`: one command in a VM, by hand."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.vm import kernels
from tests.vm.archive import ArchiveError
from tests.vm.machine import Boot, MachineError, run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm", description="Run a command under another kernel."
    )
    parser.add_argument("--kernel", choices=sorted(kernels.SUITES), default="6.12")
    parser.add_argument(
        "--no-lsm-bpf", action="store_true", help="boot without bpf among the security modules"
    )
    parser.add_argument("--no-secretmem", action="store_true", help="boot without memfd_secret")
    parser.add_argument(
        "--no-btf", action="store_true", help="boot a kernel whose type information is blanked"
    )
    parser.add_argument("--seconds", type=float, default=300, help="limit for the command, after the boot")
    parser.add_argument("--out", type=Path, help="folder for the files that the command leaves in /run/out")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("a command is missing")
    boot = Boot(lsm_bpf=not given.no_lsm_bpf, secretmem=not given.no_secretmem, btf=not given.no_btf)
    try:
        result = run(kernels.kernel(given.kernel), command, seconds=given.seconds, boot=boot)
    except (ArchiveError, MachineError) as problem:
        print(problem, file=sys.stderr)
        return 125
    sys.stdout.write(result.output)
    for name, content in result.files.items():
        if given.out is not None:
            target = given.out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return result.status


if __name__ == "__main__":
    sys.exit(main())
