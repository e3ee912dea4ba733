"""The whole chain on two machines: OpenBao and bridge in one network namespace, the cluster in another.

Run by `test_firewall` as a program inside the cluster's namespace; prints one JSON document of what it saw.
Arguments: the bridge's namespace, the broker's address, the bridge's address, and the commands (JSON) that
put the second firewall in the place of the first; under that one the bridge dials by TLS alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from cloudtaser.demo.command import CommandResult, program, run_command
from cloudtaser.demo.openbao import OpenBaoServer, bao_binary
from cloudtaser.demo.process import PartProcess, together
from tests.chain_tools import delivered, eventually
from tests.reverse_chain import NAME, ReverseChain, without

WAIT = 1.5


class ThereServer(OpenBaoServer):
    """OpenBao in the other namespace."""

    def __init__(self, directory: Path, there: list[str]) -> None:
        super().__init__(directory)
        self._there = there

    def _command(self) -> list[str]:
        return [*self._there, *super()._command()]

    def _answers(self) -> bool:
        environment = {
            "BAO_ADDR": self.address,
            "BAO_CACERT": str(self.ca_file),
            "BAO_TOKEN": self.root_token.reveal_text(),
            "HOME": "/nonexistent",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        command = [*self._there, bao_binary(), "token", "lookup"]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


class TwoMachines(ReverseChain):
    """`there` runs a program beside OpenBao."""

    def __init__(self, namespace: str, address: str) -> None:
        super().__init__()
        self.there = ["ip", "netns", "exec", namespace]
        self.openbao = ThereServer(self.directory / "openbao-there", self.there)
        self.reverse_host, self.reverse_port = address, 443

    async def cli(self, *arguments: str, check: bool = True) -> CommandResult:
        command = [*self.there, program("cloudtaser-cli"), *arguments]
        return await run_command(command, self.admin_environment, check=check)

    async def put(self, path: str, value: str) -> None:
        space = {"BAO_NAMESPACE": f"cloudtaser/{self.fingerprint[:8]}"}
        command = [*self.there, bao_binary(), "kv", "put", "-mount=secret", path, f"value={value}"]
        await run_command(command, self.admin_environment | space)

    async def new_bridge(self, *arguments: str) -> PartProcess:
        part = await super().new_bridge(*arguments)
        part.arguments = [*self.there, *without(part.arguments, "--admin-token-file")]
        return part

    async def _write_admin_token(self, name: str) -> None:
        """OpenBao is out of reach from here."""


def listening(pid: int) -> list[str]:
    """Every socket that listens in a process's namespace: protocol, and address in the kernel's hex."""
    found = []
    for protocol, listens in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            if state == listens:
                found.append(f"{protocol} {local}")
    return sorted(found)


async def attempt(host: str, port: int, prefix: list[str]) -> str:
    """`open`, `refused` or `silence`."""
    code = (
        "import socket, sys\n"
        f"s = socket.socket(); s.settimeout({WAIT})\n"
        f"try: s.connect(({host!r}, {port})); print('open')\n"
        "except TimeoutError: print('silence')\n"
        "except ConnectionRefusedError: print('refused')\n"
    )
    result = await run_command([*prefix, sys.executable, "-c", code], {})
    return result.output.strip()


async def run(namespace: str, broker: str, bridge: str, change: list[list[str]]) -> dict[str, Any]:
    """The story."""
    chain = TwoMachines(namespace, broker)
    seen: dict[str, Any] = {}
    with contextlib.closing(socket.create_server((broker, 444))):
        try:
            await chain.start_openbao()
            await chain.register()
            flags = [*chain.bridge_flags(f"{NAME}:443"), "--strict"]
            await together(chain.start_bridge(*flags), chain.start_apiserver())
            await chain.start_operator()
            await chain.put("shop/value", "behind a firewall")
            found = await delivered(chain, "secret/data/shop/value", "value=VALUE")
            seen["value"] = found["VALUE"]
            seen["asked"] = sorted(set(chain.apiserver.audit))
            assert chain.bridge is not None
            seen["listening"] = listening(chain.bridge.pid)
            ports = (chain.openbao.port, chain.openbao.cluster_port)
            seen["openbao"] = sorted(f"tcp 0100007F:{port:04X}" for port in ports)
            seen["out to elsewhere"] = await attempt(broker, 444, chain.there)
            seen["in to openbao"] = await attempt(bridge, chain.openbao.port, [])
            await chain.operator.restart()
            seen["back within"] = await eventually(chain.tunnel_is_up, "a tunnel after a restart")
            await chain.put("shop/value", "still")
            found = await delivered(chain, "secret/data/shop/value", "value=VALUE")
            seen["value later"] = found["VALUE"]
            for command in change:
                await run_command([*chain.there, *command], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
            await chain.carry_by("tls")
            await chain.operator.restart()
            await eventually(chain.tunnel_is_up, "a tunnel by TLS after a restart")
            await chain.put("shop/value", "by TLS")
            found = await delivered(chain, "secret/data/shop/value", "value=VALUE")
            seen["value by tls"] = found["VALUE"]
            seen["listening later"] = listening(chain.bridge.pid)
            seen["out to elsewhere later"] = await attempt(broker, 444, chain.there)
            seen["in to openbao later"] = await attempt(bridge, chain.openbao.port, [])
        except BaseException:
            for part in (chain.bridge, chain.operator):
                if part is not None:
                    print(part.last_lines(), file=sys.stderr)
            raise
        finally:
            await chain.close()
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])))))
