"""Chain: every part on loopback, wired as in production, each a process of its own.

Used by the demo (`app`) and by the tests of the whole chain. The chain plays the parts that a cluster would:
a stand-in API server, and the kubelet that writes pod-bound token files on tmpfs and keeps them fresh.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudtaser.demo.apiserver import StandInApiServer
from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.demo.command import CommandResult, program, run_command, wrapper
from cloudtaser.demo.exposition import fetch, probe, sum_metric
from cloudtaser.demo.guard import guard
from cloudtaser.demo.openbao import OpenBaoServer, bao_binary
from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess, start_in_thread, together
from cloudtaser.demo.tokens import PodReference
from cloudtaser.openbao.admin_token import make_admin_token
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.form import Form
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.wire import names
from cloudtaser.wire.hashes import short_fingerprint

_TOKEN_SECONDS = 600
_TOKEN_REFRESH = 300.0
_LOOPBACK = "127.0.0.1"
BEACON_NAME = "beacon.demo.internal"
TUNNELS_METRIC = "cloudtaser_broker_tunnels"


@dataclass(frozen=True, slots=True)
class OperatorPorts:
    """Where one replica listens on loopback."""

    broker: int
    probes: int
    metrics: int
    admin: int

    @classmethod
    def free(cls) -> OperatorPorts:
        """Four ports that nobody uses."""
        return cls(free_port(), free_port(), free_port(), free_port())


@dataclass(slots=True)
class Pod:
    """One pod as the kubelet sees it: an identity, and a token file that is kept fresh."""

    namespace: str
    service_account: str
    reference: PodReference
    token_file: Path
    environment: dict[str, str] = field(default_factory=dict)


class Chain:
    """OpenBao, beacon, bridge, stand-in API server and operator with its broker, in `directory`."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        record: bool = False,
        layout: Form = Form.NAMESPACES,
        payload: Path | None = None,
        fingerprint: str = "",
        beacon_host: str = _LOOPBACK,
    ) -> None:
        """With the `fingerprint` of a real cluster and an address of this machine for it to reach the beacon
        at, the chain is the other half of that cluster: it takes no API server and no operator of its own."""
        self.wrapper = wrapper(payload)
        self.directory = directory or Path(tempfile.mkdtemp(prefix="cloudtaser-demo-"))
        self.directory.chmod(0o711)  # PostgreSQL runs under an account of its own below it
        self.tmpfs = Path(tempfile.mkdtemp(prefix="cloudtaser-tokens-", dir=_tmpfs()))
        self.logs = self.directory / "logs"
        self.records = self.directory / "records"
        for path in (self.logs, self.records):
            path.mkdir(exist_ok=True)
        for path in (self.directory, self.tmpfs):
            guard.remove(path)
        self.fingerprint = fingerprint or str(uuid.uuid4())
        self.audience = names.pod_audience(short_fingerprint(self.fingerprint))
        self.record = record
        self.layout = Layout(form=layout)
        self.openbao = OpenBaoServer(self.directory / "openbao")
        self.apiserver = StandInApiServer(self.directory / "apiserver", self.fingerprint)
        self.beacon_host = beacon_host
        self.beacon_port, self.beacon_metrics_port = free_port(), free_port()
        self.ports = OperatorPorts.free()
        self.bridge_socket = self.directory / "bridge.sock"
        self._beacon_files = write_server_certificate(
            self.directory / "beacon", "beacon", [beacon_host, "localhost", BEACON_NAME]
        )
        self._parts: list[PartProcess] = []
        self._wrappers: list[PartProcess] = []
        self._pods: list[Pod] = []
        self._kubelet: asyncio.Task[None] | None = None
        self._bridges, self._operators = 0, 1
        self.beacon = self._part("beacon", self._beacon_command())
        self.operator = self._part("operator", [])
        self.bridge: PartProcess | None = None

    @property
    def space(self) -> Space:
        """The cluster's own corner of OpenBao."""
        return self.layout.space(self.fingerprint)

    @property
    def broker_address(self) -> str:
        """`host:port` at which pods reach the broker."""
        return f"127.0.0.1:{self.ports.broker}"

    @property
    def beacon_address(self) -> str:
        """`host:port` of the beacon."""
        return f"{self.beacon_host}:{self.beacon_port}"

    @property
    def beacon_ca(self) -> Path:
        """The CA of the beacon's certificate."""
        return self._beacon_files.ca

    @property
    def admin_environment(self) -> dict[str, str]:
        """Variables under which `bao` and `cloudtaser-cli source` act as OpenBao's administrator."""
        return {
            "VAULT_ADDR": self.openbao.address,
            "BAO_ADDR": self.openbao.address,
            "VAULT_CACERT": str(self.openbao.ca_file),
            "BAO_CACERT": str(self.openbao.ca_file),
            "VAULT_TOKEN": self.openbao.root_token.reveal_text(),
        }

    async def start_openbao(self) -> None:
        """Start the real OpenBao; returns once it is active."""
        await start_in_thread(self.openbao.start, self.openbao.kill)

    async def cli(self, *arguments: str, check: bool = True) -> CommandResult:
        """Run `cloudtaser-cli` as the administrator beside OpenBao would."""
        return await run_command([program("cloudtaser-cli"), *arguments], self.admin_environment, check=check)

    async def bao(self, *arguments: str, environment: dict[str, str] | None = None) -> CommandResult:
        """Run the unmodified `bao` client, as the administrator unless told otherwise."""
        return await run_command([bao_binary(), *arguments], environment or self.admin_environment)

    async def register(self, *arguments: str) -> Any:
        """`source register` for this chain's cluster; its JSON output."""
        options = ["--fingerprint", self.fingerprint, "-o", "json", *arguments]
        if not self.layout.has_namespaces:  # OpenBao has some: say that they are not wanted
            options += ["--layout", self.layout.form]
        return (await self.cli("source", "register", *options)).json()

    async def start_beacon(self) -> None:
        """Start the beacon and wait until it listens."""
        self.beacon.start()
        await self.beacon.wait_until(lambda: probe(self.beacon_metrics_port, "/readyz"), "ready")

    async def new_bridge(self, *arguments: str) -> PartProcess:
        """A bridge with a token of its own, not started yet; the first becomes `self.bridge`."""
        self._bridges += 1
        name = f"bridge-{self._bridges}"
        token = self.directory / f"{name}.token"
        result = await self.cli("source", "bridge-token", "--id", name, "-o", "json")
        token.touch(mode=0o600)
        token.write_text(result.json()["token"])
        await self._write_admin_token(name)
        socket = self.bridge_socket if self._bridges == 1 else self.directory / f"{name}.sock"
        command = [program("cloudtaser-bridge"), "--vault-addr", self.openbao.address, "--id", name]
        command += ["--vault-ca-cert", str(self.openbao.ca_file), "--vault-token-file", str(token)]
        command += ["--admin-token-file", str(self.directory / f"{name}.admin.token")]
        command += ["--beacon-address", self.beacon_address, "--beacon-ca", str(self.beacon_ca)]
        command += ["--status-socket", str(socket), "--poll-interval", "1", *arguments]
        part = self._part(name, command)
        self.bridge = self.bridge or part
        return part

    async def _write_admin_token(self, name: str) -> None:
        """What `source bridge-token --admin` would print, without a process for it."""
        file = self.directory / f"{name}.admin.token"
        openbao = self.openbao
        async with OpenBao(openbao.address, ca_file=str(openbao.ca_file), token=openbao.root_token) as root:
            made = await make_admin_token(root, name)
        file.touch(mode=0o600)
        file.write_text(made.token.reveal_text())

    async def start_bridge(self, *arguments: str) -> None:
        """Start the (first) bridge; does not wait for tunnels."""
        part = self.bridge or await self.new_bridge(*arguments)
        part.start()

    async def start_apiserver(self) -> None:
        """Start the stand-in API server, and the kubelet's part of keeping token files fresh."""
        await self.apiserver.start()
        # the operator's command names the API server's files, which exist from now on
        self.operator.arguments = self._operator_command(self.ports, self.apiserver)
        if self._kubelet is None:
            self._kubelet = asyncio.get_running_loop().create_task(self._refresh_tokens())

    async def start_operator(self, *, wait: bool = True) -> None:
        """Start operator and broker; by default returns once a tunnel is up and pods can be served."""
        self.operator.start()
        if wait:
            await self.operator.wait_until(self.tunnel_is_up, "connected to a bridge")

    def new_operator(
        self, *arguments: str, apiserver: StandInApiServer | None = None
    ) -> tuple[PartProcess, OperatorPorts]:
        """Another replica, not started; with an API server of its own it is somebody else's cluster."""
        self._operators += 1
        ports = OperatorPorts.free()
        command = [*self._operator_command(ports, apiserver or self.apiserver), *arguments]
        return self._part(f"operator-{self._operators}", command), ports

    async def start(self, *bridge: str) -> None:
        """Everything, in the order in which a newcomer would; `bridge` are more arguments for it."""
        await self.start_openbao()
        await self.register()
        await together(self.start_beacon(), self.start_bridge(*bridge), self.start_apiserver())
        await self.start_operator()

    async def tunnel_is_up(self) -> bool:
        """Whether the broker holds a tunnel to a bridge."""
        return await self.tunnels() > 0

    async def tunnels(self, ports: OperatorPorts | None = None) -> int:
        """How many tunnels a replica holds (the first one unless told); 0 when it does not answer."""
        exposition = await fetch((ports or self.ports).metrics, "/metrics")
        return int(sum_metric(exposition, TUNNELS_METRIC))

    def pod_ca(self) -> str:
        """The pod CA (PEM) as the webhook would inject it, from ConfigMap `cloudtaser-ca`."""
        data = self.apiserver.config_map(names.SYSTEM_NAMESPACE, names.POD_CA_CONFIGMAP)
        return data.get("pod-ca.crt", "")

    def admin_token(self, seconds: int = _TOKEN_SECONDS) -> str:
        """What TokenRequest gives for ServiceAccount `cloudtaser-admin` and this cluster's admin audience."""
        audience = names.admin_audience(short_fingerprint(self.fingerprint))
        account = names.ADMIN_SERVICE_ACCOUNT
        return self.apiserver.issue(names.SYSTEM_NAMESPACE, account, [audience], seconds=seconds)

    def pod(self, namespace: str, service_account: str = "default", name: str = "") -> Pod:
        """A pod with its token file on tmpfs and the variables that the webhook would set."""
        name = name or f"{service_account}-{uuid.uuid4().hex[:8]}"
        reference = self.apiserver.add_pod(namespace, name, service_account)
        pod = Pod(namespace, service_account, reference, self.tmpfs / reference.uid / "token")
        pod.environment = {
            "VAULT_ADDR": f"broker://{self.broker_address}",
            "CLOUDTASER_CA": self.pod_ca(),
            "VAULT_JWT_FILE": str(pod.token_file),
            "CLOUDTASER_POD_UID": reference.uid,
        }
        self._write_token(pod)
        self._pods.append(pod)
        return pod

    def wrap(self, pod: Pod, command: Sequence[str], environment: dict[str, str]) -> PartProcess:
        """`command` under the wrapper as the container's process, not started yet."""
        variables = pod.environment | environment
        part = self._part(pod.reference.name, [self.wrapper, "--", *command], variables)
        self._wrappers.append(part)
        return part

    async def close(self, *, keep_files: bool = False) -> None:
        """End every part that this chain started, and remove its files."""
        if self._kubelet is not None:
            self._kubelet.cancel()
        # wrappers first: they give their tokens back through the others
        await asyncio.gather(*(part.stop() for part in self._wrappers))
        await asyncio.gather(*(part.stop() for part in self._parts))
        await asyncio.gather(self.apiserver.close(), asyncio.to_thread(self.openbao.stop))
        for path in (self.tmpfs,) if keep_files else (self.tmpfs, self.directory):
            shutil.rmtree(path, ignore_errors=True)
            guard.keep(path)

    def _part(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> PartProcess:
        part = PartProcess(name, command, self.logs / f"{name}.log", environment)
        self._parts.append(part)
        return part

    def _beacon_command(self) -> list[str]:
        command = ["--addr", self.beacon_address, "--tls-cert", str(self._beacon_files.certificate)]
        command += ["--tls-key", str(self._beacon_files.key)]
        command += ["--metrics-addr", f"127.0.0.1:{self.beacon_metrics_port}"]
        return [*self._recorder("beacon", "cloudtaser-beacon"), *command]

    def _operator_command(self, ports: OperatorPorts, apiserver: StandInApiServer) -> list[str]:
        command = ["--standalone", "--fingerprint", self.fingerprint, "--apiserver", apiserver.url]
        command += ["--apiserver-ca", str(apiserver.ca_file)]
        command += ["--apiserver-token-file", str(apiserver.operator_token_file)]
        command += ["--listen", f"127.0.0.1:{ports.broker}", "--admin-listen", f"127.0.0.1:{ports.admin}"]
        command += ["--beacon-address", self.beacon_address]
        command += ["--beacon-ca", str(self.beacon_ca)]
        command += ["--probe-addr", f"127.0.0.1:{ports.probes}"]
        command += ["--metrics-addr", f"127.0.0.1:{ports.metrics}"]
        return [*self._recorder("operator", "cloudtaser-operator"), *command]

    def _recorder(self, part: str, name: str) -> list[str]:
        if not self.record:
            return [program(name)]
        return [sys.executable, "-m", "cloudtaser.demo.recorder", part, str(self.records / part), "--"]

    async def _refresh_tokens(self) -> None:
        while True:
            await asyncio.sleep(_TOKEN_REFRESH)
            for pod in self._pods:
                self._write_token(pod)

    def _write_token(self, pod: Pod) -> None:
        token = self.apiserver.issue(
            pod.namespace, pod.service_account, [self.audience], pod=pod.reference, seconds=_TOKEN_SECONDS
        )
        pod.token_file.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = pod.token_file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(token)
        fresh.replace(pod.token_file)


def _tmpfs() -> str | None:
    shared_memory = Path("/dev/shm")  # noqa: S108  # tmpfs on every Linux, in a directory of mode 0700
    return str(shared_memory) if os.access(shared_memory, os.W_OK) else None
