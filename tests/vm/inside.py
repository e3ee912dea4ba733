"""What runs in the VM: all attacks before the agent, past one that detects, past one that enforces; the
report.

`reports` starts it there, as `python -m tests.vm.inside PROGRAMS… quick|whole`; `stage.Programs` in order.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.vm import checks, scenarios
from tests.vm.agent import Agent
from tests.vm.attacks.table import ATTACKS
from tests.vm.campaign import Campaign
from tests.vm.stage import Programs, Stage

OUT = Path("/run/out")


class Run:
    """The phases, and the report as far as it is."""

    def __init__(self, programs: Programs, *, whole: bool) -> None:
        self._allowed = (programs.victim, programs.payload / "wrapper")
        self._whole = whole
        self._stage = Stage(programs)
        release = os.uname().release
        major, minor = (int(part) for part in release.split(".")[:2])
        scenarios.restore()
        self._campaign = Campaign(self._stage, (major, minor))
        self.report: dict[str, Any] = {"release": release, "status": {}, "checks": {}}
        self.agent: Agent | None = None

    def _say(self, what: str) -> None:
        """Progress, for who reads the output of a run that was cut short."""
        print(f"{time.monotonic():.0f} s: {what}", flush=True)

    def before(self) -> None:
        """Without an agent."""
        self._say("before")
        self._campaign.run("before")
        if self._whole:
            self._campaign.play("before")

    def detect(self) -> None:
        """Past one that only tells."""
        self._say("an agent that detects")
        scenarios.SOCKET.unlink(missing_ok=True)
        self._others = scenarios.objects()
        self.agent = Agent(*self._allowed, ENFORCE_MODE="detect", GLOBAL_POLICY="node", POD_SOCKETS="true")
        if self._status("detect")["tier"] == "none":
            return
        self._guard(self.agent)
        self._campaign.run("detect")
        if self._whole:
            self._campaign.play("detect", harmless=True)
        self._enforce(self.agent)

    def _enforce(self, agent: Agent) -> None:
        self._say("one that enforces")
        agent.restart(ENFORCE_MODE="enforce", GLOBAL_POLICY="off")
        self._status("enforce")
        self._guard(agent)
        self._campaign.run("enforce")
        if self._whole:
            self._campaign.play("enforce")
            self._say("checks")
            self.report["checks"] = checks.run(checks.Ground(self._stage, self._campaign, agent))
        self._say("one that binds the whole node")
        agent.restart(GLOBAL_POLICY="node")
        self._status("node")
        self._campaign.run("node", tuple(attack for attack in ATTACKS if attack.node))

    def _guard(self, agent: Agent) -> None:
        others = self._others
        fresh = {kind: sorted(found - others[kind]) for kind, found in scenarios.objects().items()}
        # maps are pinned and stay, constants come anew with each agent; programs and links are its own
        which = {kind: ids[0 if kind == "map" else -1] for kind, ids in fresh.items()}
        self._campaign.guard(agent, agent.process.pid, which)

    def _status(self, phase: str) -> dict[str, Any]:
        assert self.agent is not None
        self.report["status"][phase] = found = self.agent.status()
        return found

    def finish(self) -> None:
        """Write the report; what there is of it, if something failed."""
        self.report["rows"] = self._campaign.report()
        if self.agent is not None:
            self.report["exit"] = self.agent.stop()
            (OUT / "agent.log").write_text("".join(self.agent.said))
        (OUT / "report.json").write_text(json.dumps(self.report))
        self._stage.close()


def main() -> int:
    """All phases."""
    *places, extent = sys.argv[1:]
    run = Run(Programs(*map(Path, places)), whole=extent == "whole")
    try:
        run.before()
        run.detect()
    finally:
        run.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
