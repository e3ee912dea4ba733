"""`cloudtaser-ebpf`: the node agent's command line."""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import sys
from typing import Any

from cloudtaser.ebpf import config as configuration
from cloudtaser.ebpf import layout
from cloudtaser.ebpf.agent import Agent
from cloudtaser.ebpf.guard import Guard, Identity
from cloudtaser.ebpf.probe import probe
from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.version import VERSION

_DESCRIPTION = """\
Keeps everybody, root included, from reading the memory and the environment of
registered processes on this node.

Without a command it is the agent: it loads its programs into the kernel, tests
them against a process of its own, pins them under /sys/fs/bpf/cloudtaser, and
registers the wrappers that ask it to. When it stops, protection stays.
"""

_EPILOGUE = """\
environment:
  NODE_NAME               what events call this node (default: its host name)
  ENFORCE_MODE            enforce (default; true) or detect (false): only tell
  GLOBAL_POLICY           off (default): ways without a target process, such as
                          loading modules, are refused to pods; node: to all
  REACTIVE_KILL           where this kernel cannot deny (tier kill): false
                          (default): only tell; true: kill who opens environ or
                          mem, traces or reads memory, root's `ps -e` included
  LOG_ALL                 true: also tell of each child that inherits
  ALLOWED_EXECUTABLES     who may register: paths, measured at start, and
                          sha256:HEX, separated by commas
  CLOUDTASER_AGENT_SOCKET where wrappers ask (default:
                          /run/cloudtaser/agent.sock; empty: nowhere)
  POD_SOCKETS             true: also inside each pod's network namespace
  RUNTIME_EXECUTABLES     container runtimes that may enter namespaces (runc)
  RUNTIME_CGROUPS         cgroups from which they may
  TRACER_EXECUTABLES      programs that may load tracing programs
  HEALTH_LISTEN_ADDR      /healthz, /readyz, /status, /metrics
                          (default: 127.0.0.1:9090)
  EBPF_OBJECT_PATH        the programs (default: those of this package)
  EBPF_PIN_PATH           where they are pinned; off: they end with the agent
  HANDOVER_SECONDS        after a stop, how long any root process may succeed
                          the agent (default: 0, its own executable only)

exit codes:
  0 done   1 not available   2 bad usage or configuration
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="cloudtaser-ebpf",
        description=_DESCRIPTION,
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"cloudtaser-ebpf {VERSION}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    status = commands.add_parser("status", help="what the agent of this node protects, and how")
    status.add_argument("--enforcement-tier", action="store_true", help="print the tier alone")
    status.add_argument("--json", action="store_true", help="print all of /status")
    commands.add_parser(
        "probe", help="what would hold on this kernel; loads, tests, and takes everything back"
    )
    commands.add_parser("remove", help="end protection on this node: take away all pins of a stopped agent")
    return top


def main() -> int:
    """The program; its exit code."""
    arguments = parser().parse_args()
    try:
        config = configuration.read(os.environ)
        if arguments.command == "status":
            return _status(config, tier_only=arguments.enforcement_tier, as_json=arguments.json)
        _need_root()
        if arguments.command == "probe":
            return _probe(config)
        if arguments.command == "remove":
            return _remove(config)
        agent = Agent(config)
        agent.load()
        asyncio.run(agent.run())
    except CloudtaserError as error:
        print(f"cloudtaser-ebpf: {error.diagnostic()}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"cloudtaser-ebpf: {error}", file=sys.stderr)
        return 1
    return 0


def _need_root() -> None:
    if os.geteuid() != 0:
        raise UnavailableError(
            "the agent needs root", fix="run it as root, with CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN"
        )


def _status(config: configuration.Config, *, tier_only: bool, as_json: bool) -> int:
    host, port = config.health
    connection = http.client.HTTPConnection(host or "127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/status")
        found: dict[str, Any] = json.loads(connection.getresponse().read(1 << 20))
        tier = found["tier"]
    except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
        raise UnavailableError(
            f"no agent answers: {error}", on=f"{host}:{port}", fix="is cloudtaser-ebpf running?"
        ) from None
    finally:
        connection.close()
    print(tier if tier_only else json.dumps(found, indent=1) if as_json else _table(found))
    if tier_only and found.get("mode") == "detect":
        print("cloudtaser-ebpf: mode detect: accesses are told, none is refused", file=sys.stderr)
    return 0


def _table(found: dict[str, Any]) -> str:
    vectors = found["vectors"]
    head = (
        f"tier {found['tier']}, mode {found['mode']}, {vectors['hold']} of {vectors['known']} vectors hold, "
        f"{found['registrations']} registered"
    )
    return "\n".join(
        [head, *(f"{each['number']:>3}  {each['standing']:<9} {each['name']}" for each in vectors["list"])]
    )


def _probe(config: configuration.Config) -> int:
    mode, kills = config.mode, config.reactive_kill
    me = Identity.of_this_process()
    base = layout.Config(agent_tgid=me.tgid, agent_start=me.start)
    guard, outcome = probe(config.object_path, None, mode=mode, kills=kills, base=lambda _: base)
    if guard is not None:
        guard.close()
    found = {
        "tier": outcome.tier.value,
        "known": outcome.known,
        "hold": outcome.hold,
        "standings": {str(number): standing.value for number, standing in outcome.standings.items()},
        "tested": sorted(outcome.tested),
        "refused": outcome.refused,
    }
    print(json.dumps(found, indent=1))
    return 0


def _remove(config: configuration.Config) -> int:
    if config.pins is None or not config.pins.exists():
        print("cloudtaser-ebpf: nothing is pinned")
        return 0
    guard = Guard(config.object_path, pins=config.pins)
    guard.claim()
    guard.unpin()
    print("cloudtaser-ebpf: protection has ended on this node")
    return 0


if __name__ == "__main__":
    sys.exit(main())
