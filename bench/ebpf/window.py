"""How long an offender has in the tier `kill`, where the kernel cannot deny.

`python -m bench.ebpf.window`, on this machine's own kernel; needs root. A process opens the environment of a
protected one; a second thread of it reads from the descriptor as soon as there is one, into memory that
another process shares. How often that gets anything, and for how long it has the file until both are dead.
While it runs, whoever else opens environ or mem of its one victim dies too.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from bench.ebpf.throughput import RESULTS
from tests.vm import programs
from tests.vm.agent import Agent
from tests.vm.attacks.table import Subject
from tests.vm.subjects import Crew


def windows(tries: int) -> list[int]:
    """Of the tries that read something: ns from the first byte to the last.

    Raises `RuntimeError` where the tier is another.
    """
    victims_program = programs.program("victim")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        settings = {"EBPF_PIN_PATH": "off", "REACTIVE_KILL": "true"}
        agent = Agent(victims_program, socket=f"{folder}/agent", cgroup="", **settings)
        crew = Crew(programs.program("attack"), pod=False)
        try:
            if agent.status()["tier"] != "kill":
                raise RuntimeError("this kernel can deny")
            with closing(crew.victim(victims_program, "canary-of-the-bench")) as victim:
                agent.protect(victim)
                outcomes = [crew.attack("window", Subject.HOST, victim) for _ in range(tries)]
        finally:
            agent.stop()
            crew.close()
    return [int(outcome.text) for outcome in outcomes if outcome.done]


def main() -> int:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    found = sorted(windows(given.tries))
    had = f"{len(found)} of {given.tries}"
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}: the window of the tier kill",
        "",
        f"`python -m bench.ebpf.window`, natively: kernel {platform.release()}. {had} second threads read",
        "something from the descriptor before both were dead.",
    ]
    if found:
        middle, late = statistics.median(found) / 1000, found[int(len(found) * 0.99)] / 1000
        lines[-1] += (
            f" From its first byte to its last a thread had {middle:.0f} µs (median), {late:.0f} µs "
            f"(99 of 100), {found[-1] / 1000:.0f} µs at most."
        )
    print("\n".join(lines))
    if given.record:
        with RESULTS.open("a") as file:
            file.write("\n" + "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
