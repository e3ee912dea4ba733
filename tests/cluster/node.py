"""The one node of the tests' cluster: containerd and a kubelet that run real pods, and kube-proxy for
Services.

Everything is in the cluster's own `Network`; this machine reaches it over the cable. Needs root, and from
Debian: containerd, runc, the CNI plugins, dnsmasq and iptables. Settings that are not Kubernetes' defaults
are those that a machine with hybrid control groups (version 1 and 2 side by side) and without the right to
raise limits needs.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess
from cloudtaser.errors import UnavailableError
from tests.cluster.control_plane import DNS_SERVICE, NODE, POD_RANGE, ControlPlane
from tests.cluster.images import image_archive
from tests.cluster.network import Network

_PAUSE: Final = "tests.invalid/pause:1"
_NODE_PODS: Final = (
    "10.88.0.0/24"  # the first part of POD_RANGE, which the controller manager hands out first
)
_BRIDGE: Final = "ctpods0"
_TIMEOUT: Final = 120.0  # seconds
_HERE: Final = Path(__file__).parent


class Cluster:
    """A control plane and its node. Entering starts all of it, leaving ends and removes it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network = Network()
        self._mounted: list[Path] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Until the node is Ready. Raises UnavailableError with the last words of whoever is not."""
        self.network.start()
        try:
            self.control_plane = ControlPlane(self.directory / "control-plane", self.network)
            self.runtime = _Containerd(self.directory / "containerd", self.network)
            await self.runtime.start()
            await self.runtime.load(_pause_image(self.directory))
            await self.control_plane.start()
            self.kubelet, self.proxy = self._kubelet(), self._proxy()
            self.kubelet.start()
            self.proxy.start()
            await self.kubelet.wait_until(self._is_ready, "a Ready node", _TIMEOUT)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """The kubelet before the API server, the pods before containerd."""
        for part in ("kubelet", "proxy"):
            if hasattr(self, part):
                await getattr(self, part).stop()
        if hasattr(self, "control_plane"):
            await self.control_plane.stop()
        if hasattr(self, "runtime"):
            await self.runtime.stop()
        for place in reversed(self._mounted):
            _run(["umount", "--recursive", "--lazy", str(place)], strict=False)
        self._mounted.clear()
        self.network.stop()

    async def _is_ready(self) -> bool:
        try:
            node = await self.control_plane.get("node", NODE)
        except UnavailableError:
            return False
        conditions = node["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _kubelet(self) -> PartProcess:
        identities = self.control_plane.identities
        root = self.directory / "kubelet"
        root.mkdir(exist_ok=True)
        _run(["mount", "--bind", str(root), str(root)])  # volumes are shared from here
        self._mounted.append(root)
        _run(["mount", "--make-rshared", str(root)])
        certificate, key = identities.server("kubelet", [NODE, self.network.cluster_address])
        config = self.directory / "kubelet.json"
        config.write_text(json.dumps(self._kubelet_settings(certificate, key)))
        kubeconfig = identities.kubeconfig(
            "kubelet", self.control_plane.server, f"system:node:{NODE}", ("system:nodes",)
        )
        return self.control_plane.part(
            "kubelet",
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--root-dir={root}",
            f"--cert-dir={self.directory / 'kubelet-certificates'}",
            f"--hostname-override={NODE}",
            f"--node-ip={self.network.cluster_address}",
        )

    def _kubelet_settings(self, certificate: Path, key: Path) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self.runtime.socket}",
            "address": self.network.cluster_address,
            "port": free_port(),
            "healthzBindAddress": "127.0.0.1",
            "healthzPort": free_port(),
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(self.control_plane.identities.ca)},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": True,
            "hairpinMode": "none",
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi"},
            "podLogsDir": str(self.directory / "pod-logs"),
            "resolvConf": str(_resolver(self.directory)),
            "syncFrequency": "10s",
        }

    def _proxy(self) -> PartProcess:
        config = self.directory / "proxy.json"
        kubeconfig = self.control_plane.identities.kubeconfig(
            "proxy", self.control_plane.server, "system:kube-proxy"
        )
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                    "kind": "KubeProxyConfiguration",
                    "mode": "iptables",
                    "clusterCIDR": POD_RANGE,
                    "hostnameOverride": NODE,
                    "clientConnection": {"kubeconfig": str(kubeconfig)},
                    "conntrack": {"maxPerCore": 0, "min": 0},  # this machine's table is left as it is
                    "healthzBindAddress": f"127.0.0.1:{free_port()}",
                    "metricsBindAddress": f"127.0.0.1:{free_port()}",
                }
            )
        )
        return self.control_plane.part("kube-proxy", f"--config={config}")


class _Containerd:
    """containerd of the cluster's own, beside any that this machine runs."""

    def __init__(self, directory: Path, network: Network) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.socket = directory / "c.sock"
        self._directory = directory
        networks = directory / "cni"
        networks.mkdir(exist_ok=True)
        (networks / "10-pods.conflist").write_text(json.dumps(_pod_network()))
        config = directory / "containerd.toml"
        config.write_text(_settings(directory, self.socket, networks))
        self._process = PartProcess(
            "containerd",
            [*network.inside, "containerd", "--config", str(config)],
            directory / "containerd.log",
        )

    async def start(self) -> None:
        self._process.start()
        await self._process.wait_until(self._answers, "answering", _TIMEOUT)

    async def load(self, archive: bytes) -> None:
        """Make an image known to pods."""
        await asyncio.to_thread(_run, [*self._ctr(), "images", "import", "-"], given=archive, strict=True)

    async def stop(self) -> None:
        """End every container, then containerd."""
        for listed, ended in ((("tasks", "ls", "-q"), ("tasks", "delete", "--force")),
                              (("containers", "ls", "-q"), ("containers", "delete"))):  # fmt: skip
            names = (await asyncio.to_thread(_run, [*self._ctr(), *listed], strict=False)).split()
            for name in names:
                await asyncio.to_thread(_run, [*self._ctr(), *ended, name], strict=False)
        await self._process.stop()
        for mount in sorted(_mounts_below(self._directory), reverse=True):
            await asyncio.to_thread(_run, ["umount", "--lazy", mount], strict=False)

    async def _answers(self) -> bool:
        done = await asyncio.to_thread(
            subprocess.run, [*self._ctr(), "version"], capture_output=True, timeout=_TIMEOUT
        )
        return done.returncode == 0

    def _ctr(self) -> list[str]:
        return ["ctr", "--address", str(self.socket), "--namespace", "k8s.io"]


def _settings(directory: Path, socket: Path, networks: Path) -> str:
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
  sandbox_image = "{_PAUSE}"
  [{cri}.cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{networks}"
  [{cri}.containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
  [{cri}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [{cri}.containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def _pod_network() -> dict[str, Any]:
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": _BRIDGE,
                "isGateway": True,
                "ipMasq": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": _NODE_PODS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _pause_image(directory: Path) -> bytes:
    binary = directory / "pause"
    compiler = shutil.which("musl-gcc") or "gcc"
    _run([compiler, "-Os", "-static", "-s", "-o", str(binary), str(_HERE / "pause.c")])
    return image_archive(_PAUSE, {"pause": binary.read_bytes()}, entrypoint=["/pause"], user="65535")


def _resolver(directory: Path) -> Path:
    path = directory / "resolv.conf"
    path.write_text("nameserver 127.0.0.1\n")  # pods get the cluster's; nothing outside is to be resolved
    return path


def _mounts_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [place for line in lines if (place := line.split()[1]).startswith(f"{directory}/")]


def _run(command: Sequence[str], *, given: bytes | None = None, strict: bool = True) -> str:
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=_TIMEOUT)
    except FileNotFoundError:
        raise UnavailableError(f"{command[0]} is not installed", fix="run tools/prepare cluster") from None
    if done.returncode and strict:
        raise UnavailableError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")
