"""The S3 proxy as a sidecar: the container that a pod with `cloudtaser.io/s3proxy` gets.

Used by `mutation`. Pure; changes the specification it is given in place. It is a native sidecar, so that
Jobs end and that it listens before the application starts (spec/s3proxy.md).
"""

from __future__ import annotations

from typing import Any, Final

from cloudtaser.kube.annotations import S3_HEALTH_PORT, S3Proxy
from cloudtaser.operator.webhook import environment, payload
from cloudtaser.operator.webhook.environment import Circumstances
from cloudtaser.operator.webhook.hardening import restricted
from cloudtaser.operator.webhook.plan import Plan
from cloudtaser.operator.webhook.pods import (
    INIT_CONTAINER,
    JWT_DIRECTORY,
    JWT_VOLUME,
    S3PROXY_CONTAINER,
    mapping,
    objects,
)
from cloudtaser.operator.webhook.settings import WebhookSettings

Json = dict[str, Any]

_PREFIX: Final = "CLOUDTASER_S3PROXY_"


def add(spec: Json, plan: Plan, wanted: S3Proxy, around: Circumstances, settings: WebhookSettings) -> None:
    """Put the sidecar behind our own init container and before everything else."""
    sidecar = container(spec, plan, wanted, around, settings)
    present = [one for one in objects(spec.get("initContainers")) if one.get("name") != S3PROXY_CONTAINER]
    there = [one for one in objects(spec.get("initContainers")) if one.get("name") == S3PROXY_CONTAINER]
    if len(there) == 1 and payload.is_whole(there[0], sidecar):
        return
    behind = next((index + 1 for index, one in enumerate(present) if one.get("name") == INIT_CONTAINER), 0)
    spec["initContainers"] = [*present[:behind], sidecar, *present[behind:]]


def container(
    spec: Json, plan: Plan, wanted: S3Proxy, around: Circumstances, settings: WebhookSettings
) -> Json:
    """The sidecar: same OpenBao, same login as the pod's wrappers; only the Transit key is its own
    business."""
    variables: dict[str, str | Json] = {
        _PREFIX + "LISTEN_ADDR": f"localhost:{wanted.port}",
        _PREFIX + "TRANSIT_KEY": wanted.transit_key,
        _PREFIX + "S3_ENDPOINT": wanted.endpoint,
        _PREFIX + "S3_REGION": wanted.region,
        _PREFIX + "BUCKET_ALIAS": wanted.bucket,
        _PREFIX + "AUTH": wanted.auth,
    }
    variables = {name: value for name, value in variables.items() if value}
    port = environment.FIRST_PORT - 1  # of a sealed proxy; wrappers take those from FIRST_PORT on
    variables |= environment.decided(plan, S3PROXY_CONTAINER, around, port)
    probe = {"httpGet": {"path": "/healthz", "port": S3_HEALTH_PORT, "scheme": "HTTP"}, "periodSeconds": 5}
    return {
        "name": S3PROXY_CONTAINER,
        "image": settings.s3proxy_image,
        "restartPolicy": "Always",
        "env": [environment.variable(name, value) for name, value in variables.items()]
        + (_credentials(spec) if wanted.auth == "env" else []),
        "resources": {part: dict(amounts) for part, amounts in settings.s3proxy_resources.items()},
        "securityContext": restricted(mapping(spec, "securityContext")),
        "startupProbe": {**probe, "failureThreshold": 60},
        "readinessProbe": probe,
        "volumeMounts": [{"name": JWT_VOLUME, "mountPath": JWT_DIRECTORY, "readOnly": True}],
    }


def _credentials(spec: Json) -> list[Json]:
    """The AWS variables of the first container that has any: the proxy signs in the application's stead."""
    for one in objects(spec.get("containers")):
        found = [entry for entry in objects(one.get("env")) if str(entry.get("name")).startswith("AWS_")]
        if found:
            return found
    return []
