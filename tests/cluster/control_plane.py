"""A real control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.

The tests of the operator, the webhook and the CLI run against it on loopback; where pods are to run, `node`
adds a kubelet, and all of it lives in a network of its own. Every port is free when taken, every file lies
in one directory, every request is in the audit log.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final, Self

from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess
from cloudtaser.errors import UnavailableError
from tests.cluster import binaries
from tests.cluster.identities import Identities
from tests.cluster.network import Network

SERVICE_RANGE: Final = "10.96.0.0/16"
POD_RANGE: Final = "10.88.0.0/16"
KUBERNETES_SERVICE: Final = "10.96.0.1"  # the first of SERVICE_RANGE, which the API server takes for itself
DNS_SERVICE: Final = "10.96.0.10"
ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
NODE: Final = "n1"
_READY_TIMEOUT: Final = 120.0  # seconds
_KUBECTL_TIMEOUT: Final = 60.0
_READ_TIMEOUT: Final = 10.0
_AUDIT_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


class ControlPlane:
    """One control plane in `directory`; `start` returns when the API server is ready for anything."""

    def __init__(
        self, directory: Path, network: Network | None = None, *, flags: tuple[str, ...] = ()
    ) -> None:
        """`flags`: more of them for the API server."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory = directory
        self.network = network
        self._flags = flags
        self.programs = binaries.programs()
        self.identities = Identities(directory / "pki")
        self.port = free_port()
        self.host = network.cluster_address if network else "127.0.0.1"
        self.server = f"https://{self.host}:{self.port}"
        self.audit_log = directory / "audit.log"
        self.etcd_data = directory / "etcd"
        self.kubeconfig = self.identities.kubeconfig("admin", self.server, "admin", ("system:masters",))
        self._admin = self.identities.client("probe", "admin", ("system:masters",))
        self.etcd = self._etcd()
        self.apiserver = self._apiserver()
        self.controller_manager = self._controller_manager()
        self.scheduler = self._scheduler()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start all four. Raises UnavailableError with the last lines of the one that would not."""
        try:
            self.etcd.start()
            self.apiserver.start()
            await self.apiserver.wait_until(self.is_ready, "ready", _READY_TIMEOUT)
            self.controller_manager.start()
            self.scheduler.start()
            await self.controller_manager.wait_until(self._has_defaults, "at work", _READY_TIMEOUT)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End all four, whoever depends on another before it."""
        await asyncio.gather(self.controller_manager.stop(), self.scheduler.stop())
        await self.apiserver.stop()
        await self.etcd.stop()

    async def is_ready(self) -> bool:
        """Whether the API server says so itself."""
        return await asyncio.to_thread(self._answers, "/readyz")

    async def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints, as the administrator. Raises UnavailableError with its complaint."""

        def run() -> str:
            done = subprocess.run(
                [str(self.programs / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments],
                input=given,
                capture_output=True,
                text=True,
                timeout=_KUBECTL_TIMEOUT,
                env=os.environ | {"HOME": str(self.directory)},
            )
            if done.returncode:
                raise UnavailableError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
            return done.stdout

        return await asyncio.to_thread(run)

    async def get(self, *arguments: str) -> Any:
        """What `kubectl get … -o json` finds."""
        return json.loads(await self.kubectl("get", *arguments, "-o", "json"))

    async def apply(self, *objects: dict[str, Any]) -> str:
        """Apply objects; what kubectl printed."""
        return await self.kubectl(
            "apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        )

    async def read(self, path: str) -> Any:
        """What the API server has at `path`; None where it has nothing. Raises UnavailableError."""
        return await asyncio.to_thread(self._read, path)

    async def compact(self) -> None:
        """Make etcd forget every version of an object but the last one."""

        def ask(path: str, **fields: Any) -> Any:
            context = ssl.create_default_context(cafile=str(self.identities.ca))
            context.load_cert_chain(*self._etcd_client)
            request = urllib.request.Request(
                f"{self._etcd_address}/v3/kv/{path}", data=json.dumps(fields).encode(), method="POST"
            )
            with urllib.request.urlopen(request, timeout=_KUBECTL_TIMEOUT, context=context) as answer:
                return json.load(answer)

        now = await asyncio.to_thread(ask, "range", key="AA==", keys_only=True)
        revision = now["header"]["revision"]
        await asyncio.to_thread(ask, "compaction", revision=revision, physical=True)

    def audited(self) -> list[dict[str, Any]]:
        """The audit log so far, an event a request."""
        lines = self.audit_log.read_text().splitlines(keepends=True) if self.audit_log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _answers(self, path: str) -> bool:
        try:
            with self._open(path) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _read(self, path: str) -> Any:
        try:
            with self._open(path) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise UnavailableError(f"the API server answered {error.code}", on=path) from None
        except OSError as error:
            raise UnavailableError(f"the API server does not answer: {error}", on=path) from None

    def _open(self, path: str) -> Any:
        context = ssl.create_default_context(cafile=str(self.identities.ca))
        context.load_cert_chain(*self._admin)
        return urllib.request.urlopen(self.server + path, timeout=_READ_TIMEOUT, context=context)

    async def _has_defaults(self) -> bool:
        """Whether namespaces get their ServiceAccount: pods are refused before."""
        return await asyncio.to_thread(
            self._answers, "/api/v1/namespaces/default/serviceaccounts/default"
        ) and await asyncio.to_thread(self._answers, "/api/v1/namespaces/kube-system/serviceaccounts/default")

    def part(self, name: str, *flags: str) -> PartProcess:
        """One of the cluster's programs, in the cluster's network where it has one of its own."""
        inside = self.network.inside if self.network else []
        return PartProcess(
            name,
            [*inside, str(self.programs / name), *flags],
            self.directory / f"{name}.log",
            {"HOME": str(self.directory)},
        )

    def _etcd(self) -> PartProcess:
        certificate, key = self.identities.server("etcd", ["127.0.0.1"])
        client_port, peer_port = free_port(), free_port()
        self._etcd_address = f"https://127.0.0.1:{client_port}"
        return self.part(
            "etcd",
            f"--data-dir={self.etcd_data}",
            "--name=tests",
            f"--listen-client-urls={self._etcd_address}",
            f"--advertise-client-urls={self._etcd_address}",
            f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
            f"--initial-cluster=tests=http://127.0.0.1:{peer_port}",
            f"--cert-file={certificate}",
            f"--key-file={key}",
            "--client-cert-auth",
            f"--trusted-ca-file={self.identities.ca}",
            "--unsafe-no-fsync",  # a throw-away cluster on a slow disk
            "--log-level=warn",
        )

    def _apiserver(self) -> PartProcess:
        certificate, key = self.identities.server(
            "apiserver",
            [
                "127.0.0.1", self.host, KUBERNETES_SERVICE, "localhost", "kubernetes", "kubernetes.default",
                "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
            ],
        )  # fmt: skip
        etcd_certificate, etcd_key = self.identities.client("apiserver-etcd", "apiserver")
        self._etcd_client = etcd_certificate, etcd_key
        kubelet_certificate, kubelet_key = self.identities.client(
            "apiserver-kubelet", "apiserver", ("system:masters",)
        )
        self._token_key, token_public = self.identities.keypair("service-account")
        policy = self.directory / "audit-policy.json"
        policy.write_text(json.dumps(_AUDIT_POLICY))
        return self.part(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_address}",
            f"--etcd-cafile={self.identities.ca}",
            f"--etcd-certfile={etcd_certificate}",
            f"--etcd-keyfile={etcd_key}",
            f"--secure-port={self.port}",
            f"--bind-address={self.host}",
            f"--advertise-address={self.host}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.identities.ca}",
            f"--kubelet-client-certificate={kubelet_certificate}",
            f"--kubelet-client-key={kubelet_key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-key-file={token_public}",
            f"--service-account-signing-key-file={self._token_key}",
            f"--service-account-issuer={ISSUER}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--audit-log-path={self.audit_log}",
            f"--audit-policy-file={policy}",
            "--allow-privileged=false",
            "--shutdown-delay-duration=0s",
            *self._flags,
        )

    def _controller_manager(self) -> PartProcess:
        config = self.identities.kubeconfig(
            "controller-manager", self.server, "system:kube-controller-manager"
        )
        return self.part(
            "kube-controller-manager",
            f"--kubeconfig={config}",
            f"--service-account-private-key-file={self._token_key}",
            f"--root-ca-file={self.identities.ca}",
            f"--cluster-signing-cert-file={self.identities.ca}",
            f"--cluster-signing-key-file={self.identities.ca_key}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            "--allocate-node-cidrs",
            f"--cluster-cidr={POD_RANGE}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
        )

    def _scheduler(self) -> PartProcess:
        config = self.identities.kubeconfig("scheduler", self.server, "system:kube-scheduler")
        return self.part(
            "kube-scheduler",
            f"--kubeconfig={config}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
        )
