"""The chart as Helm renders and installs it, by Helm's own code (helm-python-sdk), for tests of all kinds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import helm_python as helm
from ruamel.yaml import YAML

CHARTS = Path(__file__).resolve().parents[1] / "charts"
RELEASE = "cloudtaser"
NAMESPACE = "cloudtaser-system"
Json = dict[str, Any]


def merged(*values: Json) -> Json:
    """Values laid over one another, the last on top."""
    result: Json = {}
    for one in values:
        for key, value in one.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def beacon(address: str = "beacon.example.com:443", **operator: Any) -> Json:
    """The values of beacon mode, and more below `operator`."""
    return {"operator": {"beacon": {"address": address}} | operator}


def render(values: Json, *, namespace: str = NAMESPACE, chart: str = "cloudtaser") -> list[Json]:
    """Every object of the chart, CRDs not included."""
    with helm.Chart.load(str(CHARTS / chart)) as loaded:
        loaded.validate_schema(values)
        files = loaded.render(values, name=RELEASE, namespace=namespace)
    yaml = YAML(typ="safe")
    objects = [
        one
        for name, text in sorted(files.items())
        if not name.endswith("NOTES.txt")
        for one in yaml.load_all(text)
        if one
    ]
    plain: list[Json] = json.loads(json.dumps(objects))
    return plain


def notes(values: Json, *, namespace: str = NAMESPACE) -> str:
    """What a user reads after an installation."""
    with helm.Chart.load(str(CHARTS / "cloudtaser")) as loaded:
        return loaded.render(values, name=RELEASE, namespace=namespace)["cloudtaser/templates/NOTES.txt"]


def lint(values: Json) -> list[str]:
    """What `helm lint --strict` objects to; hints are not counted."""
    report = helm.lint(str(CHARTS / "cloudtaser"), values, strict=True)
    return [str(one["error"]) for one in report["messages"] if one["severity"] > 1] + list(report["errors"])


def only(objects: list[Json], kind: str, name: str) -> Json:
    """The one object of that kind and name."""
    (found,) = (one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


class Helm:
    """Releases in one cluster. What Helm remembers of them lies in ConfigMaps: no Secret, here either."""

    def __init__(self, kubeconfig: Path, namespace: str = NAMESPACE) -> None:
        self._kubeconfig = kubeconfig
        self._namespace = namespace

    async def install(self, values: Json, name: str = RELEASE) -> None:
        """Install the chart, its CRDs and its namespace; returns when the objects are there."""
        await asyncio.to_thread(self._run, "install", values, name)

    async def upgrade(self, values: Json, name: str = RELEASE) -> None:
        """Upgrade the release to these values."""
        await asyncio.to_thread(self._run, "upgrade", values, name)

    async def uninstall(self, name: str = RELEASE) -> None:
        """Remove it."""
        await asyncio.to_thread(self._run, "uninstall", {}, name)

    def _run(self, action: str, values: Json, name: str) -> None:
        with helm.Config(
            kubeconfig_path=str(self._kubeconfig), namespace=self._namespace, storage_driver="configmap"
        ) as config:
            if action == "uninstall":
                config.uninstall(name, timeout=60)
                return
            with helm.Chart.load(str(CHARTS / "cloudtaser")) as chart:
                if action == "install":
                    config.install(
                        chart, name, values, namespace=self._namespace, create_namespace=True, timeout=120
                    )
                else:
                    config.upgrade(chart, name, values, namespace=self._namespace, timeout=120)
