"""Pods as the API server sends them: their containers, of which kind each is, and which of them get the
wrapper.

Used by `mutation`, `validation` and `enforcement`. Pure, and reads a pod defensively: what is not of the
shape that Kubernetes gives it is as if it were not there.
"""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.kube.annotations import MAX_HINTS, PREFIX, WRITTEN_BY_US, Problem, Request, nearest
from cloudtaser.kube.injection import WRAPPER

Json = dict[str, Any]

WRAPPER_DIRECTORY: Final = "/cloudtaser"
INIT_CONTAINER: Final = "cloudtaser-init"
S3PROXY_CONTAINER: Final = "cloudtaser-s3proxy"
PAYLOAD_VOLUME: Final = "cloudtaser-payload"
JWT_VOLUME: Final = "cloudtaser-token"
JWT_DIRECTORY: Final = "/var/run/secrets/cloudtaser.io"

OURS: Final = (INIT_CONTAINER, S3PROXY_CONTAINER)
MESH: Final = frozenset(
    (
        "istio-proxy", "istio-init", "istio-validation", "linkerd-proxy", "linkerd-init",
        "linkerd-network-validator", "kuma-sidecar", "kuma-init", "consul-dataplane", "envoy-sidecar",
        "consul-connect-inject-init", "osm-init", "mesh-proxy-init",
    )
)  # fmt: skip
"""Sidecars of meshes: infrastructure that wants no secret of the application's. `containers` may still name
one."""


class Kind(enum.StrEnum):
    """What a container is to the kubelet."""

    APP = "app"
    INIT = "init"
    SIDECAR = "sidecar"
    """An init container that runs on (restartPolicy Always)."""


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod: where it is, and what the pod says of it."""

    kind: Kind
    index: int
    name: str
    spec: Mapping[str, Any]

    @property
    def part(self) -> str:
        """The list it is in."""
        return "containers" if self.kind is Kind.APP else "initContainers"

    @property
    def is_wrapped(self) -> bool:
        """Whether it starts the wrapper already."""
        return self.command[:1] == (WRAPPER,)

    @property
    def command(self) -> tuple[str, ...]:
        return _texts(self.spec.get("command"))

    @property
    def args(self) -> tuple[str, ...]:
        return _texts(self.spec.get("args"))

    @property
    def original(self) -> tuple[str, ...]:
        """What it starts by itself or, if it is wrapped, behind the wrapper."""
        if not self.is_wrapped:
            return self.command + self.args
        behind = self.command[1:] + self.args
        return behind[1:] if behind[:1] == ("--",) else behind

    @property
    def needs_image(self) -> bool:
        """Whether only its image knows what it starts."""
        return not self.original if self.is_wrapped else not self.command

    @property
    def variables(self) -> dict[str, str]:
        """Its variables with values that stand in the pod."""
        return {
            entry["name"]: entry["value"]
            for entry in objects(self.spec.get("env"))
            if isinstance(entry.get("name"), str) and isinstance(entry.get("value"), str)
        }

    @property
    def has_imports(self) -> bool:
        """Whether it takes whole ConfigMaps or Secrets as variables."""
        return bool(self.spec.get("envFrom"))


def containers(pod: Mapping[str, Any]) -> list[Container]:
    """Every container but ephemeral ones, in the order in which they start; ours left out."""
    spec = mapping(pod, "spec")
    found = []
    for part in ("initContainers", "containers"):
        for index, container in enumerate(objects(spec.get(part))):
            kind = Kind.APP
            if part == "initContainers":
                kind = Kind.SIDECAR if container.get("restartPolicy") == "Always" else Kind.INIT
            name = container.get("name")
            if isinstance(name, str) and name not in OURS:
                found.append(Container(kind, index, name, container))
    return found


def select(pod: Mapping[str, Any], request: Request) -> tuple[list[Container], list[Problem]]:
    """The containers that get the wrapper, and names that no container has."""
    present = containers(pod)
    known = dict.fromkeys(container.name for container in present)
    problems: list[Problem] = []
    for annotation, names in (
        ("containers", request.containers),
        ("skip-containers", request.skip_containers),
    ):
        for name in names:
            if name not in known:
                close = nearest(name, known) if len(problems) < MAX_HINTS else ""
                fix = f"did you mean {close}?" if close else ""
                problems.append(Problem(PREFIX + annotation, f"the pod has no container {name}", fix))
    return [container for container in present if _is_selected(container, request)], problems


def _is_selected(container: Container, request: Request) -> bool:
    if container.name in request.skip_containers:
        return False
    if request.containers:
        return container.name in request.containers
    if container.name in MESH:
        return False
    return container.kind is not Kind.INIT or request.init_containers


MAX_SELECTED: Final = 100
MAX_TEMPLATES: Final = 100
MAX_TEXT: Final = 1024 * 1024
"""Bytes of a pod's annotations of ours, times the containers that they are read for."""


def check_size(pod: Mapping[str, Any], request: Request, selected: Sequence[Container]) -> list[Problem]:
    """What would be too much work. What comes here is bounded by a body's size alone, and each container is
    gone through, and gets, everything that the annotations say."""
    annotations = strings(mapping(pod, "metadata"), "annotations")
    asked = [name for name in annotations if name.startswith(PREFIX) and name not in WRITTEN_BY_US]
    text = sum(len(name) + len(annotations[name]) for name in asked)
    if len(selected) > MAX_SELECTED:
        what = f"more than {MAX_SELECTED} containers of one pod would get the wrapper"
        return [Problem(PREFIX + "containers", what, "name fewer")]
    if len(request.templates) > MAX_TEMPLATES:
        return [Problem(f"{PREFIX}template-…", f"there are more than {MAX_TEMPLATES} templates")]
    if text * len(selected) > MAX_TEXT:
        what = f"annotations of {text} bytes are too long for {len(selected)} containers"
        return [Problem(PREFIX + "containers", what, "shorten them, or name fewer")]
    return []


def mapping(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object under that name, or an empty one."""
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def objects(value: object) -> Iterator[Json]:
    """The objects of a list, nothing if it is none."""
    return (one for one in value if isinstance(one, dict)) if isinstance(value, list) else iter(())


def strings(holder: Mapping[str, Any], name: str) -> dict[str, str]:
    """Labels or annotations."""
    return {key: text for key, text in mapping(holder, name).items() if isinstance(text, str)}


def is_below(path: object, directory: str) -> bool:
    """Whether a mount at `path` is at `directory` or below it, however it is spelled."""
    plain = plain_path(path)
    return plain == directory or plain.startswith(directory + "/")


def plain_path(path: object) -> str:
    """The one spelling of a mount's path."""
    return "/" + posixpath.normpath("/" + str(path)).strip("/")


def _texts(value: object) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()
