"""Webhook: the door to this package. Made once by the manager's wiring, served under its TLS context.

Each answer is made of plain data; the one thing waited for is an image's registry. What a failure means
depends on the path that was called: a refusal where the namespace is fail-closed, else a warning, an event
and a pod as it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry

from cloudtaser.kube.allow_list import AllowList
from cloudtaser.kube.annotations import PREFIX, is_asked, parse
from cloudtaser.kube.events import Occurrence
from cloudtaser.kube.registry.errors import ImageError
from cloudtaser.kube.registry.image import ImageConfig, ImageRequest, Platform
from cloudtaser.net.log import get_logger
from cloudtaser.operator.webhook import mutation, plan, pods, validation
from cloudtaser.operator.webhook.configuration import (
    MUTATE,
    MUTATE_REQUIRED,
    VALIDATE,
    VALIDATE_REQUIRED,
    VALIDATE_WORKLOAD,
)
from cloudtaser.operator.webhook.errors import BadRequestError, NotInjectedError
from cloudtaser.operator.webhook.metrics import WebhookMetrics
from cloudtaser.operator.webhook.patch import difference
from cloudtaser.operator.webhook.ports import NamespaceView, Ports
from cloudtaser.operator.webhook.review import Answer, Review, one_line
from cloudtaser.operator.webhook.server import build
from cloudtaser.operator.webhook.settings import WebhookSettings

Json = dict[str, Any]

_log = get_logger("operator.webhook")
_NOTHING: Final = NamespaceView()
_ARCHITECTURE: Final = "kubernetes.io/arch"


class Webhook:
    """Answers admission reviews; `application` is to be served with TLS on port 9443."""

    def __init__(self, settings: WebhookSettings, ports: Ports, registry: CollectorRegistry) -> None:
        """ConfigError when a setting cannot be used."""
        settings.check()
        self._settings = settings
        self._ports = ports
        self._allowed = AllowList(settings.allowed_addresses)
        self._metrics = WebhookMetrics(registry)

    def application(self) -> web.Application:
        """A fresh aiohttp application with the paths of `configuration`."""
        fails = self._settings.failure_policy == "Fail"
        return build(
            {
                MUTATE: lambda review, seconds: self.mutate(review, seconds, required=fails),
                MUTATE_REQUIRED: lambda review, seconds: self.mutate(review, seconds, required=True),
                VALIDATE: lambda review, _: self.validate(review, required=False),
                VALIDATE_REQUIRED: lambda review, _: self.validate(review, required=True),
                VALIDATE_WORKLOAD: lambda review, _: self.validate_workload(review),
            },
            self._settings.limits,
            self._metrics,
        )

    async def mutate(self, review: Review, seconds: float, *, required: bool) -> Answer:
        """The wrapper for a pod that is made and asks for it; `required`: without it the pod is refused."""
        pod = review.object
        metadata = pods.mapping(pod, "metadata")
        asked = is_asked(pods.strings(metadata, "annotations"), pods.strings(metadata, "labels"))
        if review.kind != "Pod" or review.operation != "CREATE" or review.subresource or not asked:
            return Answer()
        try:
            agreed, selected = self._prepare(review.namespace, pod)
            if not agreed.direct and not agreed.ca:
                raise NotInjectedError(
                    "pod_ca", "the operator does not know the pod CA yet", fix="it learns it from a bridge"
                )
            try:
                async with asyncio.timeout(seconds):
                    images = await self._images(review.namespace, pod, selected)
            except TimeoutError:
                what = "the registry did not say in time what the image starts"
                raise NotInjectedError("image_timeout", what, fix="set the container's command") from None
            mutated = mutation.mutate(pod, agreed, selected, images, self._settings)
        except BadRequestError as error:
            # in any namespace, and not left to the validation: a CloudTaserConfig that comes in between would
            # let the pod through there as it is
            return self._failed(review, error, required=True)
        except NotInjectedError as error:
            return self._failed(review, error, required)
        operations = tuple(difference(pod, mutated.pod))
        if not review.dry_run:
            self._metrics.injections.labels(self._label(review.namespace)).inc()
        audit = {"injected": ",".join(mutated.wrapped)} if mutated.wrapped else None
        return Answer(patch=operations, warnings=mutated.warnings, audit=audit)

    async def validate(self, review: Review, *, required: bool) -> Answer:
        """Whether a pod may be as it now is."""
        if review.kind != "Pod":
            return Answer()
        if review.subresource == "ephemeralcontainers":
            verdict = validation.of_ephemeral(review.object)
        elif required and review.operation == "UPDATE" and not review.subresource:
            verdict = validation.of_change(review.old, review.object, self._settings)
        elif review.operation == "CREATE" and not review.subresource:
            verdict = validation.of_pod(
                review.object,
                lambda pod: self._prepare(review.namespace, pod),
                self._settings,
                required=required,
            )
        else:
            return Answer()
        if verdict.refusal is not None:
            return self._failed(review, verdict.refusal, required=True)
        return Answer(warnings=verdict.warnings)

    async def validate_workload(self, review: Review) -> Answer:
        """What is to be said of a workload whose pods will ask."""
        if review.kind not in validation.WORKLOADS:
            return Answer()
        return Answer(
            warnings=validation.of_workload(review.object, lambda pod: self._prepare(review.namespace, pod))
        )

    def _prepare(self, namespace: str, pod: Mapping[str, Any]) -> tuple[plan.Plan, list[pods.Container]]:
        """The plan for a pod that asks, and its containers that get the wrapper. NotInjectedError."""
        metadata = pods.mapping(pod, "metadata")
        request, problems = parse(pods.strings(metadata, "annotations"), pods.strings(metadata, "labels"))
        if problems:
            raise BadRequestError(problems)
        if request.config and not self._ports.configs.known:
            raise NotInjectedError(
                "config_unknown",
                f"CloudTaserConfigs are not known yet, {request.config!r} among them",
                on=PREFIX + "config",
                fix="the operator's /readyz?verbose says why",
            )
        agreed = plan.make(
            request,
            self._ports.configs.get(namespace, request.config) if request.config else None,
            self._settings,
            self._allowed,
            self._ports.namespaces.get(namespace) or _NOTHING,
            self._ports.pod_ca() or "",
        )
        selected, unknown = pods.select(pod, request)
        problems = (*unknown, *pods.check_size(pod, request, selected))
        if problems:
            raise BadRequestError(problems)
        mutation.check(pod, agreed, selected)
        return agreed, mutation.without_secrets(selected, agreed)

    async def _images(
        self, namespace: str, pod: Mapping[str, Any], selected: Sequence[pods.Container]
    ) -> dict[str, ImageConfig]:
        """What the images of those containers start that do not say it themselves. NotInjectedError."""
        asking = [container for container in selected if container.needs_image]
        if not asking:
            return {}
        spec = pods.mapping(pod, "spec")
        secrets = tuple(
            name
            for one in pods.objects(spec.get("imagePullSecrets"))
            if isinstance(name := one.get("name"), str) and name
        )
        platform = Platform("linux", _architecture(spec) or self._settings.architecture)

        async def resolve(container: pods.Container) -> ImageConfig:
            image = container.spec.get("image")
            asked = ImageRequest(image if isinstance(image, str) else "", namespace, secrets, platform)
            try:
                return await self._ports.entrypoints.resolve(asked)
            except ImageError as error:
                fix = error.fix or "or set the container's command"
                raise NotInjectedError(
                    f"image_{error.reason}",
                    f"container {container.name} names no command, and of its image: {error.what}",
                    on=error.on,
                    fix=fix,
                ) from None

        tasks = [asyncio.ensure_future(resolve(container)) for container in asking]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return {container.name: image for container, image in zip(asking, found, strict=True)}

    def _failed(self, review: Review, error: NotInjectedError, required: bool) -> Answer:
        """A refusal, or a warning and the pod as it came."""
        message = one_line(error.diagnostic())
        label = self._label(review.namespace)
        if not review.dry_run:
            self._metrics.failures.labels(label, error.reason).inc()
            occurrence = _occurrence(review, message, refused=required)
            if occurrence.name:  # else nobody has made it who could be told
                self._ports.events.record(occurrence)
        _log.warning("no injection", namespace=label, reason=error.reason, refused=required, why=message)
        if required:
            return Answer(
                allowed=False, message=message, code=422 if isinstance(error, BadRequestError) else 403
            )
        return Answer(warnings=(f"this pod gets no secrets: {message}",))

    def _label(self, namespace: str) -> str:
        return namespace if self._ports.namespaces.get(namespace) is not None else "unknown"


def _occurrence(review: Review, message: str, *, refused: bool) -> Occurrence:
    """Told of what makes such pods where there is one: a pod that was refused has nobody to describe it."""
    metadata = pods.mapping(review.object, "metadata")
    owners = list(pods.objects(metadata.get("ownerReferences")))
    owner = next((one for one in owners if one.get("controller") is True), None)
    about = owner or {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": metadata.get("name") or review.name,
        "uid": "",
    }
    return Occurrence(
        namespace=review.namespace,
        api_version=str(about.get("apiVersion", "")),
        kind=str(about.get("kind", "")),
        name=str(about.get("name", "")),
        uid=str(about.get("uid", "")),
        reason="SecretInjectionRefused" if refused else "SecretInjectionSkipped",
        message=message,
    )


def _architecture(spec: Mapping[str, Any]) -> str:
    """The one architecture that the pod asks its node to have, if it asks."""
    chosen = pods.mapping(spec, "nodeSelector").get(_ARCHITECTURE)
    if isinstance(chosen, str):
        return chosen
    affinity = pods.mapping(pods.mapping(spec, "affinity"), "nodeAffinity")
    required = pods.mapping(affinity, "requiredDuringSchedulingIgnoredDuringExecution")
    values = [
        expression.get("values")
        for term in pods.objects(required.get("nodeSelectorTerms"))
        for expression in pods.objects(term.get("matchExpressions"))
        if expression.get("key") == _ARCHITECTURE and expression.get("operator") == "In"
    ]
    first = values[0] if values else None
    if not isinstance(first, list) or not first or any(value != values[0] for value in values):
        return ""
    return first[0] if isinstance(first[0], str) else ""
