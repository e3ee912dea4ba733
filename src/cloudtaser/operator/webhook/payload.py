"""The payload: how the wrapper's program and the pod's tokens come into the containers.

Used by `mutation` and `s3proxy`. Pure; changes the specification it is given in place. The payload comes by
an init container that copies it into memory, or, where every node can, by mounting the wrapper's image
itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cloudtaser.kube.injection import WRAPPER
from cloudtaser.operator.webhook.hardening import restricted
from cloudtaser.operator.webhook.plan import Plan
from cloudtaser.operator.webhook.pods import (
    INIT_CONTAINER,
    JWT_DIRECTORY,
    JWT_VOLUME,
    PAYLOAD_VOLUME,
    WRAPPER_DIRECTORY,
    is_below,
    mapping,
    objects,
    plain_path,
)
from cloudtaser.operator.webhook.settings import WebhookSettings

Json = dict[str, Any]

TARGET: Final = "/target"
"""Where the init container has the volume that it fills; its own image has the payload at /cloudtaser."""
_SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where the API server mounts its own token into every container that has nothing there. A container that
copies files needs none; and since nothing is added to it, the webhook is not asked a second time.
"""
PAYLOAD_LIMIT: Final = "32Mi"
TOKEN_SECONDS: Final = 600
_MODE: Final = 0o444
_UNSEAL_FILE: Final = "unseal-token"
_NEVER_ADDED: Final = (
    "command", "env", "envFrom", "lifecycle", "volumeDevices", "restartPolicy", "restartPolicyRules",
    "workingDir",
)  # fmt: skip
"""What nobody may add to the init container: each changes what it does."""
_SECRETS: Final = "/var/run/secrets"
"""Below it others, the API server first of all, mount what they give to every container."""


def mount(container: Json, *, image_volume: bool) -> None:
    """Mount payload and tokens into an application's container, read-only."""
    payload: Json = {"name": PAYLOAD_VOLUME, "mountPath": WRAPPER_DIRECTORY, "readOnly": True}
    if image_volume:
        payload["subPath"] = WRAPPER_DIRECTORY.strip("/")  # where it lies in its image
    mounts = list(objects(container.get("volumeMounts")))
    for wanted in (payload, {"name": JWT_VOLUME, "mountPath": JWT_DIRECTORY, "readOnly": True}):
        paths = [found.get("mountPath") for found in mounts]
        if wanted["mountPath"] in paths:
            mounts[paths.index(wanted["mountPath"])] = wanted
        else:
            mounts.append(wanted)
    container["volumeMounts"] = mounts


def add(spec: Json, plan: Plan, settings: WebhookSettings) -> None:
    """The volume and what fills it."""
    if settings.image_volumes:
        source: Json = {"image": {"reference": plan.wrapper_image}}
        _remove(spec, "initContainers", INIT_CONTAINER)
    else:
        source = {"emptyDir": {"medium": "Memory", "sizeLimit": PAYLOAD_LIMIT}}
        put_first(spec, _init_container(spec, plan, settings))
    put_volume(spec, {"name": PAYLOAD_VOLUME, **source})


def add_tokens(spec: Json, plan: Plan) -> None:
    """The volume with the pod's tokens, one for each audience that is used."""
    sources = [_token(plan.audience, "token")]
    if plan.sealed:
        sources.append(_token(plan.unseal_audience, _UNSEAL_FILE))
    put_volume(spec, {"name": JWT_VOLUME, "projected": {"defaultMode": _MODE, "sources": sources}})


def _token(audience: str, path: str) -> Json:
    return {"serviceAccountToken": {"audience": audience, "expirationSeconds": TOKEN_SECONDS, "path": path}}


def _init_container(spec: Json, plan: Plan, settings: WebhookSettings) -> Json:
    container: Json = {
        "name": INIT_CONTAINER,
        "image": plan.wrapper_image,
        "args": ["--install", TARGET],
        "resources": {part: dict(amounts) for part, amounts in plan.wrapper_resources.items()},
        "securityContext": restricted(mapping(spec, "securityContext")),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": PAYLOAD_VOLUME, "mountPath": TARGET},
            {"name": PAYLOAD_VOLUME, "mountPath": _SERVICE_ACCOUNT, "readOnly": True},
        ],
    }
    if settings.wrapper_pull_policy:
        container["imagePullPolicy"] = settings.wrapper_pull_policy
    return container


def put_first(spec: Json, wanted: Json) -> None:
    """Make `wanted` the first init container, unless it is there as it must be before every one that is
    wrapped."""
    present = list(objects(spec.get("initContainers")))
    wrapped = [index for index, one in enumerate(present) if _is_wrapped(one)]
    there = [index for index, one in enumerate(present) if one.get("name") == wanted["name"]]
    if len(there) == 1 and there[0] < min(wrapped, default=len(present)):
        kept = present[there[0]]
        if not is_installer(kept, wanted):
            present[there[0]] = wanted
    else:
        present = [wanted, *(one for one in present if one.get("name") != wanted["name"])]
    spec["initContainers"] = present


def _is_wrapped(container: Json) -> bool:
    command = container.get("command")
    return isinstance(command, list) and command[:1] == [WRAPPER]


def is_whole(container: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a container of ours is as we made it, but for what does not change what it does."""
    added = [name for name in _NEVER_ADDED if name not in wanted and container.get(name)]
    return not added and covers(container, {**wanted, "imagePullPolicy": container.get("imagePullPolicy")})


def is_installer(container: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether that init container installs the program of its image and no other: it is whole, and nothing
    but its own mounts, and what others give to every container, is mounted into it."""
    own = list(objects(wanted.get("volumeMounts")))
    mounts = list(objects(container.get("volumeMounts")))
    return (
        is_whole(container, wanted)
        and all(_is_one_of(mount, own) or is_below(mount.get("mountPath"), _SECRETS) for mount in mounts)
        and not _are_nested([plain_path(mount.get("mountPath")) for mount in mounts])
    )


def _is_one_of(mount: Mapping[str, Any], own: Sequence[Json]) -> bool:
    return (
        not mount.get("subPath") and not mount.get("subPathExpr") and any(covers(mount, one) for one in own)
    )


def _are_nested(paths: Sequence[str]) -> bool:
    """Whether one lies below another. A runtime follows the symbolic links in a volume that is mounted
    already, so what seems to lie below it may come to lie over the image's program."""
    ordered = sorted(set(paths), key=lambda path: path.split("/"))  # what is below one comes right behind it
    return any(is_below(path, before) for before, path in itertools.pairwise(ordered))


def put_volume(spec: Json, wanted: Json) -> None:
    """Make `wanted` one of the pod's volumes, in the place of one of its name that is another."""
    volumes = list(objects(spec.get("volumes")))
    there = [index for index, one in enumerate(volumes) if one.get("name") == wanted["name"]]
    if not there:
        volumes.append(wanted)
    elif not covers(volumes[there[0]], wanted) or len(volumes[there[0]]) != len(wanted):
        volumes[there[0]] = wanted
    spec["volumes"] = volumes


def covers(actual: Any, wanted: Any) -> bool:
    """Whether everything `wanted` is in `actual`, which may hold more: the API server fills in defaults."""
    if isinstance(wanted, dict):
        return isinstance(actual, dict) and all(
            covers(actual.get(name), value) if value is not None else actual.get(name) is None
            for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        if not isinstance(actual, list):
            return False
        if not all(isinstance(one, dict) for one in wanted):
            return bool(actual == wanted)
        return all(any(covers(one, part) for one in actual) for part in wanted)
    return bool(actual == wanted)


def _remove(spec: Json, part: str, name: str) -> None:
    if part in spec:
        spec[part] = [one for one in spec[part] if one.get("name") != name]
        if not spec[part]:
            del spec[part]
