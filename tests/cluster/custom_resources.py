"""The custom resource definitions of the chart, installed into the tests' cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.chain_tools import eventually
from tests.cluster.control_plane import ControlPlane

DEFINITIONS: Final = Path(__file__).parents[2] / "charts/cloudtaser/crds"


async def install(plane: ControlPlane) -> None:
    """Install them; returns once objects of all of them can be made."""
    await plane.kubectl("apply", "--server-side", "-f", str(DEFINITIONS))
    names = [f"crd/{file.stem}.api.cloudtaser.io" for file in DEFINITIONS.glob("*.yaml")]
    await plane.kubectl("wait", "--for=condition=Established", "--timeout=50s", *names)

    async def served() -> bool:
        found = await plane.kubectl("api-resources", "--api-group=api.cloudtaser.io", "-o", "name")
        return len(found.split()) == len(names)

    await eventually(served, "the custom resources are served", timeout=60, every=0.2)
