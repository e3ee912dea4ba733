"""Pods to admit, a webhook with plain data behind its ports, and RFC 6902 as an API server applies it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client import CollectorRegistry

from cloudtaser.kube.events import Occurred
from cloudtaser.kube.registry.errors import ImageNotFoundError
from cloudtaser.kube.registry.image import ImageConfig, ImageRequest
from cloudtaser.operator.webhook.ports import InjectionConfig, NamespaceView, Ports
from cloudtaser.operator.webhook.review import Answer, Review
from cloudtaser.operator.webhook.service import Webhook
from cloudtaser.operator.webhook.settings import WebhookSettings

Json = dict[str, Any]

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"
WRAPPER_IMAGE = "registry.example.com/cloudtaser-wrapper@sha256:" + "ab" * 32
DIGEST = "sha256:" + "cd" * 32
PEM = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
SETTINGS = WebhookSettings(FINGERPRINT, WRAPPER_IMAGE, s3proxy_image="registry.example.com/s3proxy:1")
PATHS = {"cloudtaser.io/secret-paths": "secret/data/shop/db", "cloudtaser.io/env-map": "password=PGPASSWORD"}


def pod(
    *containers: Json,
    annotations: Mapping[str, str] | None = None,
    inits: Sequence[Json] = (),
    inject: bool = True,
    metadata: Json | None = None,
    **spec: Any,
) -> Json:
    """A pod that asks for one secret; more of its specification by keyword."""
    asked = ({"cloudtaser.io/inject": "true", **PATHS} if inject else {}) | dict(annotations or {})
    made: Json = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "annotations": asked} | (metadata or {}),
        "spec": {"containers": list(containers) or [container()], **spec},
    }
    if inits:
        made["spec"]["initContainers"] = list(inits)
    return made


def container(name: str = "app", command: Sequence[str] | None = ("app", "--serve"), **more: Any) -> Json:
    """A container with a command, unless that is None."""
    made: Json = {"name": name, "image": f"registry.example.com/{name}:1", **more}
    if command is not None:
        made["command"] = list(command)
    return made


class Images:
    """Images by name; every other is not found."""

    def __init__(self) -> None:
        self.known: dict[str, ImageConfig] = {}
        self.asked: list[ImageRequest] = []

    async def resolve(self, request: ImageRequest) -> ImageConfig:
        self.asked.append(request)
        if request.image not in self.known:
            raise ImageNotFoundError("there is no such image", on=request.image, fix="check its name")
        return self.known[request.image]

    def add(self, image: str, entrypoint: Sequence[str] = (), cmd: Sequence[str] = ()) -> None:
        self.known[image] = ImageConfig(DIGEST, DIGEST, tuple(entrypoint), tuple(cmd))


@dataclass(frozen=True, slots=True)
class Config:
    """A CloudTaserConfig's spec."""

    vault_address: str = ""
    vault_auth_path: str = ""
    vault_role: str = ""
    secret_paths: tuple[str, ...] = ()
    env_map: str = ""
    wrapper_image: str = ""
    wrapper_resources: Mapping[str, Any] | None = None
    namespace_selector: Mapping[str, Any] | None = None


@dataclass
class World:
    """What the webhook sees of the rest of the operator."""

    images: Images = field(default_factory=Images)
    ca: str = PEM
    configs: dict[tuple[str, str], InjectionConfig] = field(default_factory=dict)
    configs_known: bool = True
    spaces: dict[str, NamespaceView] = field(default_factory=lambda: {"shop": NamespaceView()})
    occurrences: list[Occurred] = field(default_factory=list)
    settings: WebhookSettings = SETTINGS
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    made: dict[str, Webhook] = field(default_factory=dict)

    def webhook(self, **settings: Any) -> Webhook:
        """One webhook for each set of settings; `registry` is the one's with the world's own."""
        key = repr(settings)
        if key not in self.made:
            registry = CollectorRegistry() if settings else self.registry
            self.made[key] = Webhook(replace(self.settings, **settings), self.ports(), registry)
        return self.made[key]

    def ports(self) -> Ports:
        return Ports(
            entrypoints=self.images,
            pod_ca=lambda: self.ca,
            configs=_Configs(self),
            namespaces=_Namespaces(self.spaces),
            events=_Events(self.occurrences),
        )

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


class _Configs:
    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def known(self) -> bool:
        return self._world.configs_known

    def get(self, namespace: str, name: str) -> InjectionConfig | None:
        return self._world.configs.get((namespace, name))


class _Namespaces:
    def __init__(self, spaces: dict[str, NamespaceView]) -> None:
        self._spaces = spaces

    def get(self, name: str) -> NamespaceView | None:
        return self._spaces.get(name)


class _Events:
    def __init__(self, occurrences: list[Occurred]) -> None:
        self._occurrences = occurrences

    def record(self, occurrence: Occurred) -> None:
        self._occurrences.append(occurrence)


def review(subject: Json, **more: Any) -> Review:
    """The question about an object that is to be made."""
    given: Json = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "operation": "CREATE",
        "namespace": subject.get("metadata", {}).get("namespace", "shop"),
        "name": subject.get("metadata", {}).get("name", ""),
        "kind": subject.get("kind", "Pod"),
        "subresource": "",
        "dry_run": False,
        "object": subject,
        "old": {},
    }
    return Review(**(given | more))


async def mutated(world: World, subject: Json, *, required: bool = False, **settings: Any) -> Json:
    """The pod after the webhook, which must take it."""
    answer = await world.webhook(**settings).mutate(review(subject), 5.0, required=required)
    assert answer.allowed
    assert answer.patch, answer.warnings
    return apply(subject, answer)


async def refusal(world: World, subject: Json, **settings: Any) -> str:
    """Why the webhook does not take the pod in a fail-closed namespace."""
    answer = await world.webhook(**settings).mutate(review(subject), 5.0, required=True)
    assert not answer.allowed
    assert not answer.patch
    return answer.message


def apply(document: Json, answer: Answer) -> Json:
    """The document with the patch applied (RFC 6902: add, remove, replace)."""
    result: Any = copy.deepcopy(document)
    for operation in answer.patch:
        path = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        result = _applied(result, path, operation)
    assert isinstance(result, dict)
    return result


def _applied(document: Any, path: list[str], operation: Json) -> Any:
    kind, value = operation["op"], copy.deepcopy(operation.get("value"))
    if not path:
        assert kind == "replace"
        return value
    holder = document
    for part in path[:-1]:
        holder = holder[int(part)] if isinstance(holder, list) else holder[part]
    last = path[-1]
    if isinstance(holder, list):
        at = len(holder) if last == "-" else int(last)
        assert 0 <= at <= len(holder) - (kind != "add")
        if kind == "add":
            holder.insert(at, value)
        elif kind == "remove":
            del holder[at]
        else:
            holder[at] = value
    else:
        assert kind == "add" or last in holder
        if kind == "remove":
            del holder[last]
        else:
            holder[last] = value
    return document


def named(subject: Json, name: str) -> Json:
    """One container of a pod."""
    spec = subject["spec"]
    (found,) = [one for one in [*spec.get("initContainers", []), *spec["containers"]] if one["name"] == name]
    assert isinstance(found, dict)
    return found


def environment(subject: Json, name: str = "app") -> dict[str, str]:
    """A container's variables as the kubelet would hand them over."""
    return {
        entry["name"]: entry["value"].replace("$$", "$")
        if entry.get("value")
        else str(entry.get("valueFrom", ""))
        for entry in named(subject, name).get("env", [])
    }
