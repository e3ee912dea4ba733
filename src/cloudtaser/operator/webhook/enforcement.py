"""Enforcement: whether a pod of a fail-closed namespace really is as the mutation makes it, once everybody
has had his turn with it.

Used by `validation`. Pure. Looks at the final pod alone and trusts no annotation: the command, where the
payload comes from, that nobody but our own init container can write to it, and where the wrapper goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cloudtaser.kube.injection import COMMAND
from cloudtaser.operator.webhook import environment
from cloudtaser.operator.webhook.payload import TARGET, covers, is_installer
from cloudtaser.operator.webhook.plan import Plan
from cloudtaser.operator.webhook.pods import (
    INIT_CONTAINER,
    PAYLOAD_VOLUME,
    WRAPPER_DIRECTORY,
    Container,
    Kind,
    is_below,
    mapping,
    objects,
)
from cloudtaser.operator.webhook.settings import WebhookSettings

Json = dict[str, Any]


def faults(
    pod: Mapping[str, Any], plan: Plan, selected: Sequence[Container], settings: WebhookSettings
) -> list[str]:
    """What is missing for each selected container to get its secrets, and only by our program; empty:
    nothing."""
    if not selected:
        return []
    spec = mapping(pod, "spec")
    return [
        *_payload_faults(spec, selected, _accepted(settings)),
        *_writers(spec),
        *(fault for container in selected for fault in _container_faults(container, plan)),
    ]


def change_faults(old: Mapping[str, Any], pod: Mapping[str, Any], settings: WebhookSettings) -> list[str]:
    """What may not become of a pod that is there: all that can change of our init container is its image.
    Whatever leaves that as it is passes, also in a pod that is not as it must be."""
    before, accepted = list(_installers(old)), _accepted(settings)
    return [
        f"{INIT_CONTAINER} would run {image}, not the operator's image"
        for image in _installers(pod)
        if image not in before and image not in accepted
    ]


def ephemeral_faults(pod: Mapping[str, Any]) -> list[str]:
    """What ephemeral containers may not do: they never get the wrapper, and never write to it."""
    spec = mapping(pod, "spec")
    return [
        f"ephemeral container {one.get('name')} could write to the wrapper's program"
        for one in objects(spec.get("ephemeralContainers"))
        if _mounts_writable(one)
    ]


def _accepted(settings: WebhookSettings) -> tuple[str, ...]:
    return (settings.wrapper_image, *settings.accepted_wrapper_images)


def _installers(pod: Mapping[str, Any]) -> Iterator[object]:
    """The images of the init containers that are called as ours is."""
    present = objects(mapping(pod, "spec").get("initContainers"))
    return (one.get("image") for one in present if one.get("name") == INIT_CONTAINER)


def _payload_faults(
    spec: Mapping[str, Any], selected: Sequence[Container], accepted: Sequence[str]
) -> Iterator[str]:
    volumes = [one for one in objects(spec.get("volumes")) if one.get("name") == PAYLOAD_VOLUME]
    if len(volumes) != 1:
        yield "there is no volume with the wrapper's program"
        return
    image = mapping(volumes[0], "image")
    if image:
        if image.get("reference") not in accepted:
            yield f"the wrapper's program comes from {image.get('reference')}, not from the operator's image"
        return
    if not covers(volumes[0], {"emptyDir": {"medium": "Memory"}}):
        yield "the volume with the wrapper's program is not in memory"
    present = list(objects(spec.get("initContainers")))
    there = [index for index, one in enumerate(present) if one.get("name") == INIT_CONTAINER]
    if not there:
        yield f"there is no init container {INIT_CONTAINER}"
        return
    ours = present[there[0]]
    wanted = {
        "name": INIT_CONTAINER,
        "args": ["--install", TARGET],
        "volumeMounts": [{"name": PAYLOAD_VOLUME, "mountPath": TARGET}],
    }
    if ours.get("image") not in accepted:
        yield f"{INIT_CONTAINER} runs {ours.get('image')}, not the operator's image"
    if not is_installer(ours, wanted):
        yield f"{INIT_CONTAINER} does not install the wrapper's program"
    if any(container.kind is not Kind.APP and container.index < there[0] for container in selected):
        yield f"{INIT_CONTAINER} comes after a container that needs it"


def _writers(spec: Mapping[str, Any]) -> Iterator[str]:
    for part in ("initContainers", "containers"):
        for one in objects(spec.get(part)):
            if one.get("name") != INIT_CONTAINER and _mounts_writable(one):
                yield f"container {one.get('name')} could write to the wrapper's program"


def _mounts_writable(container: Mapping[str, Any]) -> bool:
    return any(
        mount.get("name") == PAYLOAD_VOLUME and mount.get("readOnly") is not True
        for mount in objects(container.get("volumeMounts"))
    )


def _container_faults(container: Container, plan: Plan) -> Iterator[str]:
    on = f"container {container.name}"
    if container.command != COMMAND or not container.args:
        yield f"{on} does not start the wrapper"
    mounts = [
        mount
        for mount in objects(container.spec.get("volumeMounts"))
        if is_below(mount.get("mountPath"), WRAPPER_DIRECTORY)
    ]
    if [(mount.get("name"), mount.get("mountPath")) for mount in mounts] != [
        (PAYLOAD_VOLUME, WRAPPER_DIRECTORY)
    ] or mounts[0].get("subPath", "cloudtaser") != "cloudtaser":
        yield f"{on} has something else at {WRAPPER_DIRECTORY}"
    given = [entry for entry in objects(container.spec.get("env")) if entry.get("name") == "VAULT_ADDR"]
    if given != [environment.variable("VAULT_ADDR", plan.address)]:
        yield f"{on} has another VAULT_ADDR"
