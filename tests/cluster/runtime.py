"""The node's containerd, of the cluster's own, beside any that this machine runs.

`node` starts it. Needs Debian's containerd, runc and CNI plugins. Each pod is at the end of a cable of its
own (CNI plugin `ptp`): with a bridge, a pod that reaches another by a Service's address would get answers
that the node's packet filter never saw.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cloudtaser.demo.process import PartProcess
from cloudtaser.errors import UnavailableError
from tests.cluster.network import Network

PAUSE: Final = "tests.invalid/pause:1"
_NODE_PODS: Final = (
    "10.88.0.0/24"  # the first part of POD_RANGE, which the controller manager hands out first
)
_TIMEOUT: Final = 120.0  # seconds


class Containerd:
    """One containerd. Its containers outlive it, until the cluster's network is removed."""

    def __init__(self, directory: Path, network: Network, registries: Mapping[str, str]) -> None:
        """`registries`: hosts.toml for each registry's name."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.socket = directory / "c.sock"
        networks = directory / "cni"
        networks.mkdir(exist_ok=True)
        (networks / "10-pods.conflist").write_text(json.dumps(_pod_network(directory / "addresses")))
        for host, text in registries.items():
            place = directory / "registries" / host
            place.mkdir(parents=True, exist_ok=True)
            (place / "hosts.toml").write_text(text)
        config = directory / "containerd.toml"
        config.write_text(_settings(directory, self.socket))
        self.process = PartProcess(
            "containerd",
            [*network.inside, "containerd", "--config", str(config)],
            directory / "containerd.log",
        )

    async def start(self) -> None:
        """Until it answers."""
        self.process.start()
        await self.process.wait_until(self._answers, "answering", _TIMEOUT)

    async def load(self, archive: bytes) -> None:
        """Make an image known to pods."""
        await asyncio.to_thread(run, [*self._ctr(), "images", "import", "-"], given=archive)

    async def stop(self) -> None:
        """End it."""
        await self.process.stop()

    async def _answers(self) -> bool:
        done = await asyncio.to_thread(
            subprocess.run, [*self._ctr(), "version"], capture_output=True, timeout=_TIMEOUT
        )
        return done.returncode == 0

    def _ctr(self) -> list[str]:
        return ["ctr", "--address", str(self.socket), "--namespace", "k8s.io"]


def _settings(directory: Path, socket: Path) -> str:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
  address = "{socket}"
[{cri}]
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  sandbox_image = "{PAUSE}"
  [{cri}.cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{directory}/cni"
  [{cri}.registry]
    config_path = "{directory}/registries"
  [{cri}.containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
  [{cri}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [{cri}.containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def _pod_network(addresses: Path) -> dict[str, Any]:
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(addresses),
                    "ranges": [[{"subnet": _NODE_PODS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def run(command: Sequence[str], *, given: bytes | None = None, strict: bool = True) -> str:
    """What a command of the node's prints. Raises UnavailableError with its complaint where `strict`."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=_TIMEOUT)
    except FileNotFoundError:
        raise UnavailableError(f"{command[0]} is not installed", fix="run tools/prepare cluster") from None
    if done.returncode and strict:
        raise UnavailableError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")
