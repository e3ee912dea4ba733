"""The webhook before a real API server: served with TLS on loopback, and asked about namespaces of its own
only.

`test_webhook*` and `bench/webhook` use it. What the operator would know by watches and registries is plain
data here (`World`), so that nothing but the admission itself is on trial.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from cloudtaser.operator.webhook import configuration
from cloudtaser.operator.webhook.configuration import Registration
from cloudtaser.operator.webhook.ports import NamespaceView
from cloudtaser.operator.webhook.service import Webhook
from tests.cluster.control_plane import ControlPlane
from tests.cluster.identities import Identities
from tests.unit.operator.webhook.pods_rig import World

Json = dict[str, Any]

_KUBECTL_TIMEOUT = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Said:
    """What kubectl did."""

    code: int
    out: str
    err: str

    @property
    def warnings(self) -> list[str]:
        """The warnings of admission webhooks, as a user reads them."""
        return [
            line.removeprefix("Warning: ") for line in self.err.splitlines() if line.startswith("Warning: ")
        ]

    def object(self) -> Json:
        """What `-o json` printed."""
        assert self.code == 0, self.err
        found: Json = json.loads(self.out)
        return found


async def kubectl(plane: ControlPlane, *arguments: str, given: Json | None = None) -> Said:
    """Run kubectl as the administrator; both what it prints and what it complains of."""

    def run() -> Said:
        done = subprocess.run(
            [str(plane.programs / "kubectl"), "--kubeconfig", str(plane.kubeconfig), *arguments],
            input=None if given is None else json.dumps(given),
            capture_output=True,
            text=True,
            timeout=_KUBECTL_TIMEOUT,
            env=os.environ | {"HOME": str(plane.directory)},
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return await asyncio.to_thread(run)


class Served:
    """An aiohttp application with TLS on a free port of loopback; it can be stopped and started again."""

    def __init__(self, application: web.Application, identities: Identities, name: str) -> None:
        self._application = application
        certificate, key = identities.server(name, ["127.0.0.1"])
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        self.ca_bundle = base64.b64encode(identities.ca.read_bytes()).decode()
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._runner = web.AppRunner(self._application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


class Admission:
    """The webhook, registered with a control plane for the namespaces that carry its label."""

    def __init__(self, plane: ControlPlane, directory: Path, world: World, name: str) -> None:
        self.plane = plane
        self.world = world
        self.label = {"webhook-tests": name}
        self.webhook = world.webhook()
        self.identities = Identities(directory / "pki")
        self._name = name
        self.served = self._serve(self.webhook)
        self._namespaces: list[str] = []
        self._objects: list[tuple[str, str]] = []

    def _serve(self, webhook: Webhook) -> Served:
        return Served(webhook.application(), self.identities, "webhook")

    async def __aenter__(self) -> Self:
        await self.served.start()
        registration = Registration(
            url=self.served.url,
            ca_bundle=self.served.ca_bundle,
            namespace_selector={"matchLabels": self.label},
        )
        for made in (configuration.mutating(registration), configuration.validating(registration)):
            made["metadata"]["name"] = f"{made['metadata']['name']}-{self._name}"
            await self.register(made)
        probe = await self.namespace("probe")
        await self.until_asked(probe)
        return self

    async def __aexit__(self, *_: object) -> None:
        for kind, name in reversed(self._objects):
            await kubectl(self.plane, "delete", kind, name, "--ignore-not-found")
        for name in self._namespaces:
            await kubectl(self.plane, "delete", "namespace", name, "--wait=false")
        await self.served.stop()

    async def register(self, made: Json) -> None:
        """Create a webhook configuration, to be deleted in the end."""
        said = await kubectl(self.plane, "create", "-f", "-", given=made)
        assert said.code == 0, said.err
        self._objects.append((made["kind"].lower(), made["metadata"]["name"]))

    async def namespace(
        self, name: str, labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None
    ) -> str:
        """A namespace of ours, known to the webhook; its full name."""
        full = f"{self._name}-{name}"
        view = NamespaceView({**self.label, **(labels or {})}, dict(annotations or {}))
        metadata = {"name": full, "labels": dict(view.labels), "annotations": dict(view.annotations)}
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        said = await kubectl(self.plane, "create", "-f", "-", given=made)
        assert said.code == 0, said.err
        self.world.spaces[full] = view
        self._namespaces.append(full)
        await self.until_it_has_a_service_account(full)
        return full

    async def until_it_has_a_service_account(self, namespace: str) -> None:
        """Pods are refused before the controllers have made it."""
        said = await kubectl(
            self.plane, "wait", "--for=create", "serviceaccount/default", "-n", namespace, "--timeout=60s"
        )
        assert said.code == 0, said.err

    async def until_asked(self, namespace: str) -> None:
        """Until the API server has taken notice of the registration; its informer is told within a second."""
        subject = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "probe", "annotations": {"cloudtaser.io/nonsense": "x"}},
            "spec": {"containers": [{"name": "app", "image": "x", "command": ["x"]}]},
        }
        async with asyncio.timeout(60):
            while (await self.create(namespace, subject, "--dry-run=server")).code == 0:
                continue
            del subject["metadata"]["annotations"]  # type: ignore[attr-defined]
            subject["metadata"]["labels"] = {"cloudtaser.io/inject": "true"}  # type: ignore[index]
            while "cloudtaser-init" not in (await self.create(namespace, subject, "--dry-run=server")).out:
                continue

    async def create(self, namespace: str, subject: Json, *flags: str) -> Said:
        """`kubectl create` of one object in a namespace."""
        made = subject | {"metadata": subject["metadata"] | {"namespace": namespace}}
        return await kubectl(self.plane, "create", "-o", "json", *flags, "-f", "-", given=made)


def registered_elsewhere(name: str, served: Served, path: str, label: Mapping[str, str]) -> Json:
    """A mutating webhook of somebody else's, for pods of the same namespaces."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": f"{name}.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "reinvocationPolicy": "IfNeeded",
                "clientConfig": {"url": served.url + path, "caBundle": served.ca_bundle},
                "namespaceSelector": {"matchLabels": dict(label)},
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                    }
                ],
            }
        ],
    }
