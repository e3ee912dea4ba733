"""What runs in the VM: all attacks before the agent, past one that detects, past one that enforces; the
report.

`reports` starts it there, as `python -m tests.vm.inside ATTACK VICTIM MODULE quick|whole`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.vm import checks, scenarios
from tests.vm.agent import Agent
from tests.vm.attacks.table import ATTACKS
from tests.vm.campaign import Campaign
from tests.vm.stage import Programs, Stage


def main() -> int:
    """All of it; the report goes to the folder that the machine shares with the host."""
    attack, victim, module, quick = sys.argv[1:]
    stage = Stage(Programs(Path(attack), Path(victim), Path(module)))
    release = os.uname().release
    version = tuple(int(part) for part in release.split(".")[:2])
    scenarios.restore()
    campaign = Campaign(stage, (version[0], version[1]))
    report: dict[str, Any] = {"release": release, "status": {}, "checks": {}}

    campaign.run("before")
    if quick != "quick":
        campaign.play("before")

    scenarios.SOCKET.unlink(missing_ok=True)
    others = scenarios.objects()
    agent = Agent(Path(victim), ENFORCE_MODE="detect", GLOBAL_POLICY="node")
    report["status"]["detect"] = agent.status()

    def ids() -> dict[str, int]:
        return {kind: min(found - others[kind], default=0) for kind, found in scenarios.objects().items()}

    if report["status"]["detect"]["tier"] != "none":
        campaign.guard(agent, agent.process.pid, ids())
        campaign.run("detect")
        if quick != "quick":
            campaign.play("detect", harmless=True)
        agent.restart(ENFORCE_MODE="enforce", GLOBAL_POLICY="off")
        report["status"]["enforce"] = agent.status()
        campaign.guard(agent, agent.process.pid, ids())
        campaign.run("enforce")
        if quick != "quick":
            campaign.play("enforce")
            report["checks"] = checks.run(checks.Ground(stage, campaign, agent))
        agent.restart(GLOBAL_POLICY="node")
        report["status"]["node"] = agent.status()
        campaign.run("node", tuple(attack for attack in ATTACKS if attack.node))
    report["rows"] = campaign.report()
    Path("/run/out/report.json").write_text(json.dumps(report))
    report["exit"] = agent.stop()
    Path("/run/out/report.json").write_text(json.dumps(report))
    Path("/run/out/agent.log").write_text("".join(agent.said))
    stage.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
