"""Spaces: whose each is, and how one comes, changes hands and goes, in either layout.

Used by registration, deregistration and whatever else settles a cluster's corner of OpenBao. With namespaces
the owner stands in the namespace's metadata; without, in the description of the space's mount `secret`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.client import Json, OpenBao
from cloudtaser.openbao.errors import NotFoundError
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.steps import Steps

_OWNER: Final = "cloudtaser space of "
_DELETION_WAIT: Final = 60.0  # seconds
_DELETION_POLL: Final = 0.1
_OF_OPENBAO: Final = ("system", "identity", "cubbyhole")
_WITHOUT_LEASES: Final = (*_OF_OPENBAO, *(f"ns_{kind}" for kind in _OF_OPENBAO))


async def ensure_system(steps: Steps, layout: Layout) -> None:
    """Have the namespace in which everything of cloudtaser is, where the server has any."""
    if layout.has_namespaces:
        path = f"sys/namespaces/{layout.system_namespace}"
        await steps.ensure("", path, {}, "holds everything of cloudtaser")


async def find_space(client: OpenBao, layout: Layout, fingerprint: str) -> str | None:
    """Name of the space that belongs to this fingerprint, None if there is none."""
    if not layout.has_namespaces:
        mounts = (await client.request("GET", "sys/mounts", namespace=""))["data"]
        owned = (layout.space_of_mount(path) for path in mounts if _owner(mounts[path]) == fingerprint)
        return next((space.name for space in owned if space is not None), None)
    try:
        answer = await client.request("LIST", "sys/namespaces", namespace=layout.system_namespace)
    except NotFoundError:
        return None
    for name, info in (answer["data"].get("key_info") or {}).items():
        if _owner(info) == fingerprint and not info.get("tainted"):
            return str(name).rstrip("/")
    return None


async def claim(steps: Steps, layout: Layout, space: Space, fingerprint: str) -> None:
    """Have the space, as this cluster's; CloudtaserError if it is another's."""
    why = "the cluster's space"
    if not layout.has_namespaces:
        current = await steps.find("", f"sys/mounts/{space.secret}")
        if current is not None:
            _check_owner(space, current, fingerprint)
        await steps.mount("", space.secret, "kv", why, description=_OWNER + fingerprint)
        return
    where, path = layout.system_namespace, f"sys/namespaces/{space.name}"
    current = await steps.find(where, path)
    if current is None:
        await steps.do("POST", where, path, why, {"custom_metadata": {"fingerprint": fingerprint}})
        return
    if current.get("tainted"):
        raise CloudtaserError("the space is being deleted", on=space.shown, fix="try again in a moment")
    _check_owner(space, current, fingerprint)
    steps.fine(where, path, why)


async def give(steps: Steps, layout: Layout, space: Space, fingerprint: str) -> None:
    """Write down that a space that is there belongs to this cluster from now on."""
    why = f"the space is {fingerprint}'s"
    body: Json
    if not layout.has_namespaces:
        where, path = "", f"sys/mounts/{space.secret}"
        write, body = f"{path}/tune", {"description": _OWNER + fingerprint}
    else:
        where, path = layout.system_namespace, f"sys/namespaces/{space.name}"
        write, body = path, {"custom_metadata": {"fingerprint": fingerprint}}
    if _owner(await steps.find(where, path) or {}) == fingerprint:
        steps.fine(where, path, why)
    else:
        await steps.do("POST", where, write, why, body)


async def own_mounts(client: OpenBao, space: Space) -> dict[str, Any]:
    """What is mounted in the space (`sys/mounts`), by the names that pods use."""
    return space.own((await client.request("GET", "sys/mounts", namespace=space.namespace))["data"])


async def leased_prefixes(client: OpenBao, space: Space) -> tuple[str, ...]:
    """Prefixes of the ids of all leases that can have been issued in the space, tokens first.

    Every engine is among them, a KV engine too: an answer that a pod had wrapped is a lease of the path that
    it read.
    """
    mounts = await own_mounts(client, space)
    leased = sorted(path for path, info in mounts.items() if info["type"] not in _WITHOUT_LEASES)
    return (*space.login_origins, *(space.path(path.rstrip("/")) for path in leased))


async def delete(steps: Steps, layout: Layout, space: Space) -> None:
    """Have nothing left of the space, its secrets included."""
    if not layout.has_namespaces:
        for path in sorted(await own_mounts(steps.client, space)):
            await steps.unmount("", space.path(path.rstrip("/")), "delete all that it holds")
        return
    system, path = layout.system_namespace, f"sys/namespaces/{space.name}"
    await steps.do("DELETE", system, path, "delete the space with all its secrets")
    if not steps.dry_run:
        await _until_gone(steps, system, path)


async def _until_gone(steps: Steps, namespace: str, path: str) -> None:
    """OpenBao deletes a namespace in the background."""
    try:
        async with asyncio.timeout(_DELETION_WAIT):
            while await steps.find(namespace, path) is not None:  # noqa: ASYNC110  # OpenBao tells nobody
                await asyncio.sleep(_DELETION_POLL)
    except TimeoutError:
        raise CloudtaserError(
            "the space is still being deleted", on=namespace, fix="OpenBao goes on by itself; see its log"
        ) from None


def _check_owner(space: Space, info: Mapping[str, Any], fingerprint: str) -> None:
    owner = _owner(info) or "nobody known to cloudtaser"
    if owner != fingerprint:
        raise CloudtaserError(
            f"the space belongs to {owner}", on=space.shown, fix="choose another name with --space NAME"
        )


def _owner(info: Mapping[str, Any]) -> str:
    """The fingerprint that a namespace or a mount names."""
    description = str(info.get("description") or "")
    if description.startswith(_OWNER):
        return description.removeprefix(_OWNER)
    return str((info.get("custom_metadata") or {}).get("fingerprint") or "")
