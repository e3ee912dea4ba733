"""A cluster that is there already, for the tests that need nothing but an API server (marker `anywhere`).

`conftest` uses it where `make test-cluster KUBECONFIG=FILE` names one. What the tests make there has names of
their own and is removed at the end; what was there before, our custom resource definitions among it, stays.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloudtaser.errors import UnavailableError
from cloudtaser.kube.kubeconfig import load
from tests.cluster import binaries
from tests.cluster.control_plane import ControlPlane

VARIABLE: Final = "CLOUDTASER_TEST_KUBECONFIG"
KINDS: Final = ("namespaces", "clusterroles", "clusterrolebindings", "customresourcedefinitions")
"""Of what tests make outside a namespace; the first takes with it what is inside."""


@dataclass(frozen=True, slots=True)
class _Identities:
    """As much of `identities.Identities` as there is of somebody else's cluster."""

    ca: Path


class ExistingControlPlane(ControlPlane):
    """The API server of a kubeconfig. Only what `anywhere` tests use of a ControlPlane works."""

    def __init__(self, directory: Path, kubeconfig: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        access = load(os.environ, kubeconfig=str(kubeconfig))
        ca = directory / "ca.crt"
        ca.write_text(access.ca_pem)
        own = shutil.which("kubectl")
        self.directory = directory
        self.programs = Path(own).parent if own else binaries.programs()
        self.identities = _Identities(ca)  # type: ignore[assignment]
        self.server = access.server
        self.kubeconfig = kubeconfig
        self._before: set[str] = set()

    async def start(self) -> None:
        """See what is there. UnavailableError where the API server is not ready."""
        if not await self.is_ready():
            raise UnavailableError("the cluster is not ready", on=str(self.kubeconfig))
        self._before = await self._names()

    async def stop(self) -> None:
        """Remove what was not there."""
        for name in sorted(await self._names() - self._before):
            await self.kubectl("delete", name, "--ignore-not-found", "--wait=false")

    async def is_ready(self) -> bool:
        """Whether the API server says so itself."""
        try:
            return "ok" in await self.kubectl("get", "--raw", "/readyz")
        except UnavailableError:
            return False

    async def _names(self) -> set[str]:
        found: set[str] = set()
        for kind in KINDS:
            items: list[dict[str, Any]] = (await self.get(kind))["items"]
            found |= {f"{kind}/{item['metadata']['name']}" for item in items}
        return found
