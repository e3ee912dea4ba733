"""The token method's world: a real API server, OpenBao, beacon and bridge, replicas of the operator as they
run in a cluster (manager and broker apart), and pods that are objects only, with a stand-in for their node.

Pods have addresses of a range that this machine answers for as a whole, so the operator meets each at its own
address, as in a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.command import program
from cloudtaser.demo.exposition import fetch, sum_metric
from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.kinds import PODS
from cloudtaser.kube.objects import BoundPod
from cloudtaser.kube.transport import Json
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.errors import NotFoundError, OpenBaoError
from cloudtaser.openbao.grants import allow
from cloudtaser.operator.tokens.ledger import NAMES, Entry, parse
from cloudtaser.wire import names
from cloudtaser.wire.hashes import short_fingerprint
from tests.chain_tools import MANY_LOGINS, eventually
from tests.charts import beacon, only, render
from tests.cluster.accounts import EVERYTHING, account, client
from tests.cluster.control_plane import ControlPlane

RANGE: Final = "198.18.64.0/18"
"""Of the block for tests between networks (RFC 2544): nobody's."""
SHOP: Final = "token-shop"
WEB: Final = "web"
PATH: Final = f"secret/data/{SHOP}/db"
PATIENCE: Final = 120.0
_RIGHTS: Final = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


@contextlib.contextmanager
def addresses() -> Iterator[None]:
    """The whole range is this machine's meanwhile. Needs root."""

    def ip(verb: str) -> None:
        first = RANGE.replace(".0/", ".1/")
        subprocess.run(["ip", "address", verb, first, "dev", "lo"], check=True, capture_output=True)

    with contextlib.suppress(subprocess.CalledProcessError):
        ip("del")  # of a run that was killed
    ip("add")
    try:
        yield
    finally:
        ip("del")


@dataclass(slots=True)
class TokenPod:
    """A pod object: where its wrapper listens, and who it is."""

    namespace: str
    name: str
    uid: str
    address: str
    port: int
    service_account: str = WEB


@dataclass(slots=True)
class Replica:
    """One pod of the operator: its manager and its broker."""

    name: str
    manager: PartProcess
    broker: PartProcess
    unseal_port: int
    broker_port: int
    metrics_port: int

    async def metric(self, name: str, **labels: str) -> float:
        """A sum over the samples of a metric with these labels."""
        total = 0.0
        for line in (await fetch(self.metrics_port, "/metrics")).splitlines():
            if all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += sum_metric(line, name)
        return total

    async def is_ready(self) -> bool:
        """Whether it has the certificates to unseal with."""
        expiry = await self.metric("cloudtaser_operator_seal_certificate_expiry_seconds")
        return expiry > 0

    async def leads(self) -> bool:
        """Whether it is the leader."""
        return await self.metric("cloudtaser_operator_leader") == 1


@dataclass(slots=True)
class TokenWorld:
    """Everything that runs."""

    plane: ControlPlane
    chain: Chain
    kube: KubeApi
    admin: OpenBao
    fingerprint: str
    token_file: Path
    replicas: list[Replica] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def fp8(self) -> str:
        """As in audiences."""
        return short_fingerprint(self.fingerprint)

    # --- the operator

    def replica(self, *, apiserver: str = "", apiserver_ca: str = "", rate: str = "1000/5000") -> Replica:
        """Another replica, not started; it may be told another way to the API server."""
        number = len(self.replicas) + 1
        name = f"operator-{number}"
        sockets = self.chain.directory / f"{name}.sockets"
        sockets.mkdir()
        ports = [free_port() for _ in range(6)]
        manager = [
            program("cloudtaser-operator"), "manager", "--apiserver", apiserver or self.plane.server,
            "--apiserver-ca", apiserver_ca or str(self.plane.identities.ca), "--apiserver-token-file",
            str(self.token_file), "--namespace", names.SYSTEM_NAMESPACE, "--sockets", str(sockets),
            "--broker-uid", "0", "--lease-seconds", "3", "--unseal-listen", f"127.0.0.1:{ports[0]}",
            "--unseal-rate", rate, "--webhook-listen", f"127.0.0.1:{ports[5]}", "--probe-addr",
            f"127.0.0.1:{ports[1]}", "--metrics-addr", f"127.0.0.1:{ports[1]}", "--id", name,
            "--log-level", "debug", "--settings", str(self._settings("settings.json")),
            "--registries", str(self._settings("registries.json")),
        ]  # fmt: skip
        broker = [
            program("cloudtaser-operator"), "broker", "--sockets", str(sockets), "--manager-uid", "0",
            "--listen", f"127.0.0.1:{ports[2]}", "--beacon-address", self.chain.beacon_address,
            "--beacon-ca", str(self.chain.beacon_ca), "--probe-addr", f"127.0.0.1:{ports[3]}",
            "--metrics-addr", f"127.0.0.1:{ports[3]}", "--id", name,
        ]  # fmt: skip
        inside = {"KUBERNETES_SERVICE_HOST": self.plane.host, "KUBERNETES_SERVICE_PORT": str(self.plane.port)}
        logs = self.chain.logs
        made = Replica(
            name,
            PartProcess(f"{name}-manager", manager, logs / f"{name}-manager.log", inside),
            PartProcess(f"{name}-broker", broker, logs / f"{name}-broker.log", inside),
            ports[0],
            ports[2],
            ports[1],
        )
        self.replicas.append(made)
        return made

    def _settings(self, name: str) -> Path:
        """A file as the chart mounts it."""
        file = self.chain.directory / name
        file.write_text(only(render(beacon()), "ConfigMap", "cloudtaser-operator")["data"][name])
        return file

    async def start(self, replica: Replica) -> None:
        """Manager and broker; until it can unseal."""
        for part in (replica.manager, replica.broker):
            if not part.pid:
                part.start()
        await replica.manager.wait_until(replica.is_ready, "ready to unseal", PATIENCE)

    async def stop(self, replica: Replica) -> None:
        """Both, in order."""
        await replica.manager.stop()
        await replica.broker.stop()

    async def leader(self) -> Replica:
        """Who leads, once somebody does."""
        found: list[Replica] = []

        async def led() -> bool:
            found[:] = [one for one in self.replicas if one.manager.pid and await one.leads()]
            return len(found) == 1

        await eventually(led, "one replica leads", timeout=PATIENCE)
        return found[0]

    def logs(self) -> str:
        """Whatever any part wrote so far."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.chain.logs.iterdir()))

    # --- pods

    async def add_pod(
        self,
        *,
        port: int,
        namespace: str = SHOP,
        service_account: str = WEB,
        containers: Iterable[str] = ("app",),
    ) -> TokenPod:
        """A pod object as the webhook leaves it and the kubelet reports it: running, at an address of its
        own."""
        number = next(self.numbers)
        address = f"198.18.{64 + number // 250}.{2 + number % 250}"
        name = f"pod-{number}-{uuid.uuid4().hex[:6]}"
        body = pod_object(namespace, name, service_account, port, containers)
        made = await self.kube.create_object(PODS, body)
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "False"}],
        }
        await self.kube.patch_object(PODS, namespace, name, {"status": status}, subresource="status")
        return TokenPod(namespace, name, made["metadata"]["uid"], address, port, service_account)

    async def delete(self, pod: TokenPod) -> None:
        """As a user does; no node has to agree."""
        await self.kube.delete_object(PODS, pod.namespace, pod.name, grace_seconds=0)

    async def end(self, pod: TokenPod, phase: str = "Succeeded") -> None:
        """The pod has run to its end."""
        body = {"status": {"phase": phase}}
        await self.kube.patch_object(PODS, pod.namespace, pod.name, body, subresource="status")

    async def jwt(self, pod: TokenPod, audience: str = "") -> str:
        """What the kubelet projects into it; for unsealing, unless told otherwise."""
        made = await self.kube.token_request(
            pod.namespace,
            pod.service_account,
            (audience or names.unseal_audience(self.fp8),),
            600,
            BoundPod(pod.name, pod.uid),
        )
        return made.token.reveal_text()

    async def annotation(self, pod: TokenPod) -> str:
        """`cloudtaser.io/token-accessor` as it is."""
        found = await self.kube.get_object(PODS, pod.namespace, pod.name)
        return str((found["metadata"].get("annotations") or {}).get("cloudtaser.io/token-accessor", ""))

    async def warnings(self, pod: TokenPod) -> list[str]:
        """The notes of the pod's events."""
        listed = await self.plane.get("events", "-n", pod.namespace)
        return [one["message"] for one in listed["items"] if one["involvedObject"].get("uid") == pod.uid]

    # --- what is out

    async def ledger(self) -> list[Entry]:
        """All that the ledger holds."""
        maps = [await self.kube.get_config_map(names.SYSTEM_NAMESPACE, name) for name in NAMES]
        return [entry for found in maps if found is not None for entry in parse(found.data)]

    async def accessors(self) -> set[str]:
        """Of every token in the cluster's space."""
        try:
            listed = await self.admin.request("LIST", "auth/token/accessors")
        except NotFoundError:  # so it says that there is none
            return set()
        return set(listed["data"]["keys"])

    async def tokens(self) -> dict[str, Json]:
        """Every pod's token that OpenBao knows, by accessor: what it says of each."""
        found: dict[str, Json] = {}
        for accessor in await self.accessors():
            with contextlib.suppress(OpenBaoError):  # it has just ended
                body = {"accessor": accessor}
                said = await self.admin.request("POST", "auth/token/lookup-accessor", body=body)
                if (said["data"].get("meta") or {}).get("pod_uid"):
                    found[accessor] = said["data"]
        return found

    async def tokens_of(self, pod: TokenPod) -> dict[str, Json]:
        """Those of one pod."""
        return {key: one for key, one in (await self.tokens()).items() if one["meta"]["pod_uid"] == pod.uid}

    async def until_gone(self, pod: TokenPod, *, but: int = 0) -> None:
        """Until no token of the pod is left, in OpenBao (`but` so many) nor in the ledger."""

        async def gone() -> bool:
            left = [entry for entry in await self.ledger() if entry.pod.uid == pod.uid]
            return not left and len(await self.tokens_of(pod)) <= but

        await eventually(gone, f"the tokens of {pod.name} are revoked", timeout=PATIENCE, every=0.2)


def pod_object(namespace: str, name: str, service_account: str, port: int, containers: Iterable[str]) -> Json:
    """A pod as the webhook leaves it; nobody schedules it."""
    made = [
        {
            "name": container,
            "image": "registry.example/app:1",
            "command": ["/cloudtaser/wrapper"],
            "args": ["--", "/app"],
            "env": [
                {"name": "VAULT_AUTH_METHOD", "value": "token"},
                {"name": "CLOUDTASER_LISTEN_ADDR", "value": f":{port}"},
            ],
        }
        for container in containers
    ]
    spec = {"serviceAccountName": service_account, "schedulerName": "nobody", "containers": made}
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


@contextlib.asynccontextmanager
async def token_world(plane: ControlPlane) -> AsyncIterator[TokenWorld]:
    """All of it but the operator, with one grant: namespace `token-shop`, ServiceAccount `web`."""
    await _forget(plane)
    operator_file = await _accounts(plane)
    everything = await account(plane, SHOP, "tests", EVERYTHING)
    with addresses():
        chain = Chain()
        try:
            async with client(plane, everything) as kube:
                chain.fingerprint = await kube.namespace_uid("kube-system")
                await _start_site(chain)
                openbao = chain.openbao
                async with (
                    OpenBao(openbao.address, ca_file=openbao.ca_file, token=openbao.root_token) as root,
                    OpenBao(
                        openbao.address,
                        ca_file=openbao.ca_file,
                        token=openbao.root_token,
                        namespace=str(chain.space.namespace),
                    ) as admin,
                ):
                    await setup.write_secret(admin, f"{SHOP}/db", {"value": "first"})
                    await allow(root, chain.fingerprint, SHOP, WEB, [PATH], layout=chain.layout)
                    world = TokenWorld(plane, chain, kube, admin, chain.fingerprint, operator_file)
                    try:
                        yield world
                    finally:
                        await asyncio.gather(*(one.manager.stop() for one in world.replicas))
                        await asyncio.gather(*(one.broker.stop() for one in world.replicas))
        finally:
            await chain.close()
            await _forget(plane)


async def _forget(plane: ControlPlane) -> None:
    """What an operator of another site left, which this one must not believe."""
    own = names.SYSTEM_NAMESPACE
    left = [names.TRUST_CONFIGMAP, names.POD_CA_CONFIGMAP, *NAMES]
    await plane.kubectl("delete", "configmaps", "--namespace", own, "--ignore-not-found", *left)
    await plane.kubectl("delete", "lease", "--namespace", own, "--ignore-not-found", names.LEADER_LEASE)


async def _start_site(chain: Chain) -> None:
    await chain.start_openbao()
    await chain.register()
    await asyncio.gather(chain.start_beacon(), chain.start_bridge(*MANY_LOGINS))


async def _accounts(plane: ControlPlane) -> Path:
    """Namespaces and ServiceAccounts, the operator's with the chart's rights; its token's file."""
    own = names.SYSTEM_NAMESPACE
    for name in (own, SHOP):
        await plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    await plane.apply(*(one for one in render(beacon()) if one["kind"] in _RIGHTS))
    for name in (WEB, "stranger"):
        await account(plane, SHOP, name)
    return await account(plane, own, names.OPERATOR_SERVICE_ACCOUNT)
