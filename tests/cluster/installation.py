"""The product in a cluster, installed as a user does it: images in the registry, the chart by Helm.

`conftest` installs it once for the tests of this folder that have pods injected. The operator gets the rights
that the chart gives it, and no others.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Final

from cloudtaser.errors import UnavailableError
from cloudtaser.wire.names import SYSTEM_NAMESPACE
from tests.chain_tools import eventually
from tests.charts import Helm
from tests.cluster.applications import run_build, static_image, wrapper_image
from tests.cluster.europe import Europe
from tests.cluster.images import Image
from tests.cluster.node import Cluster
from tests.cluster.pods import PATIENCE, container, is_injected, is_ready, pod

OPERATOR: Final = "cloudtaser-operator"
_ROOT: Final = Path(__file__).parent.parent.parent
_TAG: Final = "tests"
_TIMEOUT: Final = 180  # seconds


class Installation:
    """One release of the chart, for a cluster whose EU site is `europe`."""

    def __init__(self, cluster: Cluster, europe: Europe, store: Path) -> None:
        self._cluster = cluster
        self._europe = europe
        self._store = store
        self._helm = Helm(cluster.control_plane.kubeconfig)
        self._values: dict[str, Any] = {}

    async def prepare(self) -> None:
        """Build and push the images."""
        registry = self._cluster.registry
        wrapper, operator = await asyncio.gather(
            asyncio.to_thread(wrapper_image, self._store), asyncio.to_thread(operator_image, self._store)
        )
        await registry.push(f"cloudtaser/operator:{_TAG}", operator)
        await registry.push(f"cloudtaser/wrapper:{_TAG}", wrapper)
        self.probe_image = await registry.push("tests/probe:1", static_image())
        self._values = {
            "global": {"registry": "registry.cloud.test"},
            "operator": {
                "image": {"repository": "cloudtaser/operator", "tag": _TAG, "digest": operator.digest},
                "beacon": {"address": self._europe.beacon, "ca": self._europe.beacon_ca.read_text()},
                "registry": {"ca": registry.ca.read_text(), "networks": [f"{registry.address}/32"]},
            },
            "wrapper": {
                "image": {"repository": "cloudtaser/wrapper", "tag": _TAG, "digest": wrapper.digest},
                "pollInterval": "3s",
            },
        }

    async def install(self) -> None:
        """As `helm install` does; returns once the operator's pods are Ready."""
        await self._helm.install(self._values)
        try:
            await eventually(self._is_ready, "the operator is ready", timeout=_TIMEOUT, every=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.described()}") from None

    async def uninstall(self) -> None:
        """As `helm uninstall` does; returns once no pod of the operator is left."""
        await self._helm.uninstall()
        await eventually(self._is_gone, "the operator's pods are gone", timeout=PATIENCE, every=0.5)

    async def injects(self) -> None:
        """Until a pod would be injected: the webhook serves, and the API server takes its certificate."""
        told = ""

        async def does() -> bool:
            nonlocal told
            try:
                told = await self._cluster.control_plane.kubectl(
                    "create", "--dry-run=server", "-o", "json", "-f", "-",
                    given=json.dumps(_probe(self.probe_image)),
                )  # fmt: skip
            except UnavailableError as error:
                told = error.what
                return False
            return is_injected(json.loads(told))

        try:
            await eventually(does, "pods are injected", timeout=_TIMEOUT, every=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}: {told[:2000]}\n{await self.described()}") from None

    async def described(self) -> str:
        """What the operator's pods are and say, for the person who has to know why."""
        plane = self._cluster.control_plane
        parts = []
        for arguments in (
            ("describe", "pods"),
            ("logs", f"deployment/{OPERATOR}", "--all-containers", "--prefix", "--tail=15"),
        ):
            try:
                parts.append(await plane.kubectl(*arguments, "-n", SYSTEM_NAMESPACE))
            except UnavailableError as error:
                parts.append(error.diagnostic())
        return "\n".join(parts)

    async def pods(self) -> list[dict[str, Any]]:
        """The operator's."""
        found = await self._cluster.control_plane.get(
            "pods", "-n", SYSTEM_NAMESPACE, "-l", "app.kubernetes.io/component=operator"
        )
        return list(found["items"])

    async def _is_ready(self) -> bool:
        found = await self.pods()
        return bool(found) and all(map(is_ready, found))

    async def _is_gone(self) -> bool:
        return not await self.pods()


def operator_image(store: Path) -> Image:
    """The operator's own, by its build."""
    layout = store / "operator.oci"
    build = _ROOT / "images" / "operator" / "build"
    run_build([sys.executable, str(build), "--oci", str(layout), str(store / "operator")])
    return Image.from_layout(layout)


def _probe(image: str) -> dict[str, Any]:
    return pod(
        "probe",
        container(image),
        annotations={
            "cloudtaser.io/inject": "true",
            "cloudtaser.io/secret-paths": "secret/data/default/none",
        },
    )
