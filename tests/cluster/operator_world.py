"""The operator's programs under the chart's rights: an API server, the chart, the EU side, some replicas.

There is no kubelet here: what the Deployment says of its containers (variables, settings, ServiceAccount) is
taken from the API server, and the programs run in the cluster's network with it. What a kubelet and
kube-proxy would do besides is done by hand: a token in a file, and an EndpointSlice by which the API server
finds the webhook.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from cloudtaser.demo.chain import Chain
from cloudtaser.demo.command import program
from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess, together
from tests.chain_tools import MANY_LOGINS
from tests.charts import NAMESPACE, Helm, Json, beacon
from tests.cluster.control_plane import ControlPlane
from tests.cluster.network import Network

NAME: Final = "cloudtaser-operator-webhook"
LIFETIME: Final = 60
"""Seconds of a webhook certificate, so that a test sees it replaced."""
LEASE_SECONDS: Final = 6


class Replica:
    """One pod's two programs."""

    def __init__(self, world: OperatorWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.directory = world.plane.directory / name
        self.webhook, self.probes, self.broker_probes = free_port(), free_port(), free_port()
        self.sockets = self.directory / "sockets"
        self.manager = self._program("manager", self._manager())
        self.broker = self._program("broker", self._broker())

    async def start(self) -> None:
        """As a kubelet would: both at once."""
        shutil.rmtree(self.sockets, ignore_errors=True)
        self.sockets.mkdir(parents=True, mode=0o770)
        self.manager.start()
        self.broker.start()

    async def up(self, timeout: float = 90.0) -> None:
        """Until it is ready, and known to the Service."""
        await self.manager.wait_until(self.is_ready, "ready", timeout)
        await self.world.publish(self, ready=True)

    async def is_ready(self) -> bool:
        """What the kubelet would find."""
        return (await self.readyz())[0] == 200

    async def readyz(self) -> tuple[int, str]:
        """Status and text of /readyz?verbose; 0 when nobody answers."""
        return await self._get(self.probes, "/readyz?verbose")

    async def metric(self, name: str, *, broker: bool = False) -> float:
        """A sample without labels, 0 where there is none."""
        _, text = await self._get(self.broker_probes if broker else self.probes, "/metrics")
        lines = (line.split() for line in text.splitlines() if line.startswith(f"{name} "))
        return next((float(value) for _, value in lines), 0.0)

    async def kill(self) -> None:
        """Both with -9."""
        await asyncio.gather(self.manager.kill(), self.broker.kill())

    async def stop(self) -> tuple[int | None, int | None]:
        """Both with SIGTERM; their exit codes."""
        manager, broker = await asyncio.gather(self.manager.stop(), self.broker.stop())
        return manager, broker

    async def certificate(self) -> float:
        """When the webhook's certificate ends, Unix time."""
        return await self.metric("cloudtaser_operator_webhook_certificate_expiry_seconds")

    async def _get(self, port: int, path: str) -> tuple[int, str]:
        url = f"http://{self.world.network.cluster_address}:{port}{path}"
        timeout = aiohttp.ClientTimeout(total=10)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as client, client.get(url) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return 0, ""

    def _program(self, name: str, more: dict[str, str]) -> PartProcess:
        container = self.world.containers[name]
        variables = {one["name"]: one.get("value", self.name) for one in container["env"]}
        address = self.world.network.cluster_address
        prefix = "CLOUDTASER_OPERATOR_"
        variables |= {f"{prefix}{key}": value for key, value in more.items()}
        port = self.probes if name == "manager" else self.broker_probes
        for which in ("PROBE_ADDR", "METRICS_ADDR"):
            variables[prefix + which] = f"{address}:{port}"
        variables[f"{prefix}SOCKETS"] = str(self.sockets)
        variables |= {
            "KUBERNETES_SERVICE_HOST": address,
            "KUBERNETES_SERVICE_PORT": str(self.world.plane.port),
        }
        command = [*self.world.network.inside, program("cloudtaser-operator"), *container["args"]]
        return PartProcess(
            f"{self.name} {name}", command, self.world.plane.directory / f"{self.name}-{name}.log", variables
        )

    def _manager(self) -> dict[str, str]:
        world = self.world
        return {
            "APISERVER_CA": str(world.plane.identities.ca),
            "APISERVER_TOKEN_FILE": str(world.token),
            "NAMESPACE": NAMESPACE,
            "SETTINGS": str(world.settings / "settings.json"),
            "REGISTRIES": str(world.settings / "registries.json"),
            "WEBHOOK_LISTEN": f"{world.network.cluster_address}:{self.webhook}",
            "WEBHOOK_LIFETIME": str(LIFETIME),
            "UNSEAL_LISTEN": f"{world.network.cluster_address}:{free_port()}",
            "BROKER_UID": "0",
        }

    def _broker(self) -> dict[str, str]:
        address = self.world.network.cluster_address
        return {
            "BEACON_CA": str(self.world.chain.beacon_ca),
            "LISTEN": f"{address}:{free_port()}",
            "ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
            "MANAGER_UID": "0",
        }


class OperatorWorld:
    """Everything but the replicas, which a test adds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.network = Network(directory)
        self.replicas: list[Replica] = []
        self.containers: dict[str, Json] = {}
        self.settings = directory / "settings"
        self.token = directory / "token"

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.network.start)
        try:
            # so that it calls webhooks by their endpoints: there is no kube-proxy
            flags = ("--enable-aggregator-routing=true",)
            self.plane = ControlPlane(self._directory / "plane", self.network, flags=flags)
            await self.plane.start()
            namespace = await self.plane.get("namespace", "kube-system")
            self.fingerprint = str(namespace["metadata"]["uid"])
            self.chain = Chain(fingerprint=self.fingerprint, beacon_host=self.network.host_address)
            await together(self._start_chain(), self._install())
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def replica(self) -> Replica:
        """Another pod, not started."""
        replica = Replica(self, f"operator-{len(self.replicas)}")
        self.replicas.append(replica)
        return replica

    async def publish(self, replica: Replica, *, ready: bool) -> None:
        """What the EndpointSlice controller would say of it."""
        await self.plane.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "addressType": "IPv4",
                "metadata": {
                    "name": f"{NAME}-{replica.name}",
                    "namespace": NAMESPACE,
                    "labels": {
                        "kubernetes.io/service-name": NAME,
                        "endpointslice.kubernetes.io/managed-by": "tests",
                    },
                },
                "endpoints": [{"addresses": [self.network.cluster_address], "conditions": {"ready": ready}}],
                "ports": [{"name": "webhook", "port": replica.webhook, "protocol": "TCP"}],
            }
        )

    async def leader(self) -> Replica | None:
        """Who holds the Lease, if he runs."""
        leases = await self.plane.get("lease", "-n", NAMESPACE)
        holders = {one["metadata"]["name"]: one["spec"].get("holderIdentity") for one in leases["items"]}
        holder = str(holders.get("cloudtaser-operator-leader") or "").rpartition("_")[0]
        return next((one for one in self.replicas if one.name == holder and one.manager.pid), None)

    async def configuration(self, kind: str = "mutating") -> Json:
        """A webhook configuration as it is."""
        found: Json = await self.plane.get(f"{kind}webhookconfiguration", NAME)
        return found

    @contextlib.asynccontextmanager
    async def without_bridge(self) -> AsyncIterator[None]:
        """No bridge meanwhile, and so no tunnel."""
        assert self.chain.bridge is not None
        await self.chain.bridge.kill()
        try:
            yield
        finally:
            self.chain.bridge.start()

    async def _start_chain(self) -> None:
        await self.chain.start_openbao()
        await self.chain.register()
        await together(self.chain.start_beacon(), self.chain.start_bridge(*MANY_LOGINS))

    async def _install(self) -> None:
        self.helm = Helm(self.plane.kubeconfig)
        await self.helm.install(beacon(self.chain.beacon_address, leaseSeconds=LEASE_SECONDS))
        deployment = await self.plane.get("deployment", "cloudtaser-operator", "-n", NAMESPACE)
        pod = deployment["spec"]["template"]["spec"]
        self.containers = {one["name"]: one for one in pod["containers"]}
        data = (await self.plane.get("configmap", "cloudtaser-operator", "-n", NAMESPACE))["data"]
        self.settings.mkdir()
        for name, text in data.items():
            (self.settings / name).write_text(text)
        account = pod["serviceAccountName"]
        token = await self.plane.kubectl("create", "token", account, "-n", NAMESPACE, "--duration", "4h")
        self.token.touch(mode=0o600)
        self.token.write_text(token)

    async def _stop(self) -> None:
        for replica in self.replicas:
            for part in (replica.manager, replica.broker):
                if part.pid:
                    await part.kill()
        if hasattr(self, "chain"):
            await self.chain.close()
        if hasattr(self, "plane"):
            await self.plane.stop()
        await asyncio.to_thread(self.network.stop)


def pod(name: str = "app", **annotations: str) -> dict[str, Any]:
    """A pod that asks for secrets and says what it starts, so that no registry is asked."""
    asked = {"cloudtaser.io/inject": "true", "cloudtaser.io/secret-paths": "secret/data/shop/db"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": asked | annotations},
        "spec": {"containers": [{"name": "app", "image": "tests.invalid/app:1", "command": ["/app"]}]},
    }


def is_injected(made: Json) -> bool:
    """Whether the webhook has seen to it."""
    return bool(made["spec"]["containers"][0]["command"][0] == "/cloudtaser/wrapper")
