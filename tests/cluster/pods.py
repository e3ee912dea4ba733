"""Pods of the tests: what they are made of, and waiting for what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cloudtaser.errors import UnavailableError
from tests.chain_tools import eventually
from tests.cluster.control_plane import ControlPlane

RESTRICTED: Final[dict[str, Any]] = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
PATIENCE: Final = 180.0  # seconds for what a busy machine does in ten
_POLL: Final = 0.2


def container(image: str, *arguments: str, name: str = "app", **more: Any) -> dict[str, Any]:
    """A container that runs its image's own command with `arguments`, under `restricted`."""
    made = {"name": name, "image": image, "securityContext": RESTRICTED} | more
    return made | {"args": list(arguments)} if arguments else made


def pod(
    name: str,
    *containers: Mapping[str, Any],
    namespace: str = "default",
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A pod that is ended without grace and never restarted."""
    metadata = {"name": name, "namespace": namespace, "labels": dict(labels or {"app": name})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata | {"annotations": dict(annotations or {})},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "containers": [dict(one) for one in containers],
        }
        | spec,
    }


class Pods:
    """Waits for pods of one cluster."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    async def until(
        self, name: str, holds: Callable[[Mapping[str, Any]], bool], what: str, *, namespace: str = "default"
    ) -> dict[str, Any]:
        """The pod, once `holds` says yes to it. Fails the test with what there is to know about it."""
        found: dict[str, Any] = {}

        async def does() -> bool:
            found.clear()
            found.update(await self._control_plane.read(f"/api/v1/namespaces/{namespace}/pods/{name}") or {})
            return bool(found) and holds(found)

        try:
            await eventually(does, f"pod {namespace}/{name} {what}", timeout=PATIENCE, every=_POLL)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.described(name, namespace)}") from None
        return found

    async def ready(self, name: str, *, namespace: str = "default") -> dict[str, Any]:
        """The pod, once it is Ready."""
        return await self.until(name, is_ready, "is ready", namespace=namespace)

    async def ended(self, name: str, *, namespace: str = "default") -> dict[str, Any]:
        """The pod, once it has Succeeded or Failed."""
        return await self.until(name, has_ended, "ends", namespace=namespace)

    async def admitted(self, made: Mapping[str, Any]) -> None:
        """Create a pod, once the API server and whoever it asks let it."""
        told = ""

        async def does() -> bool:
            nonlocal told
            try:
                await self._control_plane.kubectl("create", "-f", "-", given=json.dumps(made))
            except UnavailableError as error:
                told = error.what
                return "AlreadyExists" in told
            return True

        try:
            await eventually(does, "the pod is admitted", timeout=PATIENCE, every=5 * _POLL)
        except AssertionError as error:
            raise AssertionError(f"{error}: {told}") from None

    async def running(self, namespace: str) -> dict[str, dict[str, tuple[str, int]]]:
        """The `lives` of all pods of a namespace that are Ready, by their names."""
        found = await self._control_plane.read(f"/api/v1/namespaces/{namespace}/pods")
        return {one["metadata"]["name"]: lives(one) for one in found["items"] if is_ready(one)}

    async def log(self, name: str, container: str = "app", *, namespace: str = "default") -> str:
        """What a container has printed so far."""
        return await self._control_plane.kubectl("logs", "-n", namespace, name, "-c", container)

    async def says(self, name: str, text: str, container: str = "app", *, namespace: str = "default") -> str:
        """The log, once it holds `text`."""
        told = ""

        async def does() -> bool:
            nonlocal told
            try:
                told = await self.log(name, container, namespace=namespace)
            except UnavailableError as error:  # it has not started yet
                told = error.what
            return text in told

        try:
            await eventually(does, f"{namespace}/{name} says {text!r}", timeout=PATIENCE, every=2 * _POLL)
        except AssertionError as error:
            raise AssertionError(
                f"{error}; its log: {told}\n{await self.described(name, namespace)}"
            ) from None
        return told

    async def described(self, name: str, namespace: str) -> str:
        """For the person who has to know why."""
        try:
            return await self._control_plane.kubectl("describe", "pod", "-n", namespace, name)
        except UnavailableError as error:
            return error.diagnostic()


def is_injected(found: Mapping[str, Any]) -> bool:
    """Whether every container of it starts with the wrapper."""
    return all(one.get("command", ("",))[0] == "/cloudtaser/wrapper" for one in found["spec"]["containers"])


def is_ready(found: Mapping[str, Any]) -> bool:
    """Whether its condition says so."""
    conditions: Sequence[Mapping[str, Any]] = found["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def has_ended(found: Mapping[str, Any]) -> bool:
    """Whether none of its containers will run again."""
    return found["status"]["phase"] in ("Succeeded", "Failed")


def lives(found: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Of each container: which one it is and how often it was started again. The same as long as it runs."""
    return {
        one["name"]: (one["containerID"], one["restartCount"]) for one in found["status"]["containerStatuses"]
    }


def exit_code(found: Mapping[str, Any], container: str = "app") -> int:
    """Of a container that has ended."""
    (status,) = [one for one in found["status"]["containerStatuses"] if one["name"] == container]
    return int(status["state"]["terminated"]["exitCode"])
