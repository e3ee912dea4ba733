"""The one node of the tests' cluster: containerd and a kubelet that run real pods, and kube-proxy for
Services.

Everything is in the cluster's own `Network`, its DNS too (`names`); this machine reaches it over the cable,
at whose end the `registry` is. Needs root, and from Debian: containerd, runc, the CNI plugins, dnsmasq,
docker-registry and iptables. Settings that are not Kubernetes' defaults
are those that a machine with hybrid control groups (version 1 and 2 side by side) and without the right to
raise limits needs.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any, Final, Self

from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess, together
from cloudtaser.errors import UnavailableError
from tests.cluster.control_plane import DNS_SERVICE, NODE, POD_RANGE, ControlPlane
from tests.cluster.identities import Identities
from tests.cluster.images import image_archive
from tests.cluster.names import Names
from tests.cluster.network import Network
from tests.cluster.registry import HOST, Registry
from tests.cluster.runtime import PAUSE, Containerd, run

_TIMEOUT: Final = 120.0  # seconds
_HERE: Final = Path(__file__).parent


class Cluster:
    """A control plane and its node. Entering starts all of it, leaving ends and removes it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network = Network(directory)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Until the node is Ready. Raises UnavailableError with the last words of whoever is not."""
        self.network.start()
        try:
            address = self.network.host_address
            self.outside = Identities(self.directory / "outside")
            self.registry = Registry(self.directory / "registry", address, self.outside)
            self.control_plane = ControlPlane(self.directory / "control-plane", self.network)
            self.runtime = Containerd(
                self.directory / "containerd", self.network, {HOST: self.registry.hosts_file()}
            )
            self.names = Names(self.directory / "names", self.network, self.control_plane)
            self.names.add(HOST, address)
            await together(self._start_runtime(), self.registry.start(), self.control_plane.start())
            self.kubelet, self.proxy = self._kubelet(), self._proxy()
            self.kubelet.start()
            self.proxy.start()
            await together(
                self.names.start(), self.kubelet.wait_until(self._is_ready, "a Ready node", _TIMEOUT)
            )
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """The kubelet before the API server, what is left of the pods at the end."""
        for part in ("kubelet", "proxy", "names", "control_plane", "runtime", "registry"):
            if hasattr(self, part):
                await getattr(self, part).stop()
        await asyncio.to_thread(self.network.stop)

    async def _start_runtime(self) -> None:
        await self.runtime.start()
        await self.runtime.load(_pause_image(self.directory))

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
        run(["mount", "--bind", str(root), str(root)])  # volumes are shared from here
        run(["mount", "--make-rshared", str(root)])
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
            # without those control groups kubelet 1.34 falls over a pod that it takes for resized, as after a
            # restart between two writes of its checkpoint
            "featureGates": {"InPlacePodVerticalScaling": False},
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
            "resolvConf": str(_resolver(self.directory, self.network.cluster_address)),
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


def _pause_image(directory: Path) -> bytes:
    binary = directory / "pause"
    compiler = shutil.which("musl-gcc") or "gcc"
    run([compiler, "-Os", "-static", "-s", "-o", str(binary), str(_HERE / "pause.c")])
    return image_archive(PAUSE, {"pause": binary.read_bytes()}, entrypoint=["/pause"], user="65535")


def _resolver(directory: Path, address: str) -> Path:
    path = directory / "resolv.conf"
    path.write_text(f"nameserver {address}\n")  # no name of the real world is looked up
    return path
