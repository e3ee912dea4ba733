"""Pull secrets: the Secrets that an administrator lets the operator read, one by one, and no others.

Used by `resolver`. For each entry of `operator.registry.pullSecrets` the chart makes a Role in that namespace
with `get` on that one name; a Secret that is not listed is never asked for, so that the API server's audit
log shows no attempt. What was read is kept in memory for half a minute.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.errors import KubeForbiddenError, NotFoundError
from cloudtaser.kube.kinds import Kind
from cloudtaser.kube.registry.cache import BusyError, Cache, Flights
from cloudtaser.kube.registry.credentials import Entry, parse_docker_config
from cloudtaser.kube.verbs import Verbs

MAX_SECRETS: Final = 1024
MAX_BYTES: Final = 8 * 1024 * 1024
MAX_READS: Final = 32
"""At once; a quarter of it for one namespace."""
_SETTING: Final = "operator.registry.pullSecrets"
_KEYS: Final = {
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
    "kubernetes.io/dockercfg": ".dockercfg",
}

ReadSecret = Callable[[str, str], Awaitable[Mapping[str, Any]]]
"""Namespace and name to the Secret's JSON. Raises NotFoundError and KubeForbiddenError among others."""
_SECRETS: Final = Kind("", "v1", "secrets", "Secret")
"""Here and nowhere else: no other part of the operator has a word for it."""


def reader(kube: Verbs) -> ReadSecret:
    """Reads by `get` on the one name, under the operator's own identity."""

    async def read(namespace: str, name: str) -> Mapping[str, Any]:
        return await kube.get_object(_SECRETS, namespace, name)

    return read


@dataclass(frozen=True, slots=True)
class PullSecret:
    """What a Secret holds, or `problem`: why it is of no use, as an error ends."""

    entries: tuple[Entry, ...] = ()
    problem: str = ""


class PullSecretSource(Protocol):
    """Where `resolver` gets pull secrets from."""

    async def read(self, namespace: str, name: str) -> PullSecret:
        """One Secret; never raises."""

    async def close(self) -> None:
        """End what is under way."""


class PullSecrets:
    """The Secrets of Kubernetes that were granted."""

    def __init__(
        self,
        read: ReadSecret,
        granted: frozenset[tuple[str, str]],
        *,
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """`seconds`: how long one is kept; `clock`: seconds, steady."""
        self._read = read
        self._granted = granted
        self._seconds = seconds
        self._clock = clock
        self._kept: Cache[tuple[str, str], tuple[PullSecret, float]] = Cache(MAX_SECRETS, MAX_BYTES)
        self._reads: Flights[tuple[str, str], PullSecret] = Flights(MAX_READS, MAX_READS // 4)

    async def read(self, namespace: str, name: str) -> PullSecret:
        """The Secret's credentials, as read within the last `seconds`."""
        where = f"{namespace}/{name}"
        if (namespace, name) not in self._granted:
            entry = f"{{namespace: {namespace}, name: {name}}}"
            return PullSecret(problem=f"for its pull secret add {entry} to {_SETTING}")
        kept = self._kept.get((namespace, name))
        if kept is not None and self._clock() < kept[1]:
            return kept[0]
        try:
            return await self._reads.join(
                (namespace, name), namespace, lambda: self._fetch(namespace, name, where)
            )
        except BusyError:
            return PullSecret(problem=f"pull secret {where} cannot be read: too many are read at once")

    async def close(self) -> None:
        """End what is under way."""
        await self._reads.close()

    async def _fetch(self, namespace: str, name: str, where: str) -> PullSecret:
        secret, size = await self._asked(namespace, name, where)
        self._kept.put((namespace, name), (secret, self._clock() + self._seconds), size)
        return secret

    async def _asked(self, namespace: str, name: str, where: str) -> tuple[PullSecret, int]:
        try:
            found = await self._read(namespace, name)
            return _parsed(found, where)
        except KubeForbiddenError:
            problem = (
                f"the operator may not read pull secret {where}: it is listed in {_SETTING}, but no Role of"
                " its namespace grants get on it: upgrade the chart's release"
            )
        except NotFoundError:
            problem = f"pull secret {where} does not exist"
        except CloudtaserError as error:
            problem = f"pull secret {where} cannot be read: {error.what}"
        return PullSecret(problem=problem), len(problem)


def _parsed(found: Mapping[str, Any], where: str) -> tuple[PullSecret, int]:
    kind = found.get("type")
    data = found.get("data")
    key = _KEYS.get(kind) if isinstance(kind, str) else None
    text = data.get(key) if key is not None and isinstance(data, dict) else None
    if not isinstance(text, str):
        return PullSecret(problem=f"pull secret {where} is not of type {' or '.join(_KEYS)}"), len(where)
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return PullSecret(problem=f"pull secret {where} holds no base64"), len(where)
    return PullSecret(parse_docker_config(raw, source=f"pull secret {where}")), len(raw)
