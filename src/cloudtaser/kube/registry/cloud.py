"""Cloud: what the cloud under the cluster gives the operator's own identity for that cloud's registries.

Used by `resolver`, when an administrator names the cloud, for pods of the namespaces that may profit from the
operator's own credentials. Each cloud says which registries are its own, and gets a credential of some hours;
it is kept until a fifth of its life is left. Where a cloud is asked is settled by the cloud and by the
environment that it gives the operator's pod, never by an image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError, ConfigError, ProtocolError, UnavailableError
from cloudtaser.kube.registry.cache import BusyError, Cache, Flights
from cloudtaser.kube.registry.credentials import Credential
from cloudtaser.kube.registry.rules import Rule, Rules
from cloudtaser.kube.registry.settings import Bounds
from cloudtaser.kube.registry.transport import Answer, Transport
from cloudtaser.net.addresses import parse_network
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.secret import Secret
from cloudtaser.wire.strict_json import parse_object

MAX_GRANTS: Final = 256
MAX_ANSWER: Final = 256 * 1024
MAX_TOKEN_FILE: Final = 64 * 1024
_FAILED_SECONDS: Final = 30.0
_KEPT: Final = 0.8
_PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""A cloud's services may be reached by addresses of the cluster's own network (VPC endpoints)."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A credential and the seconds that it lives."""

    credential: Credential
    seconds: float


class Cloud(Protocol):
    """One cloud."""

    def place(self, host: str) -> str | None:
        """What one grant serves (a region, a registry) if `host` is a registry of this cloud."""

    async def grant(self, place: str) -> Grant:
        """Ask for a credential. Raises CloudtaserError."""


class CloudIdentity:
    """The credentials of one cloud, or none."""

    def __init__(
        self, cloud: Cloud | None, namespaces: frozenset[str], *, clock: Callable[[], float]
    ) -> None:
        """`namespaces`: whose pods may profit, `*` for all; `clock`: seconds, steady."""
        self._cloud = cloud
        self._namespaces = namespaces
        self._clock = clock
        self._granted: Cache[str, tuple[Credential | str, float]] = Cache(MAX_GRANTS, MAX_GRANTS)
        self._asking: Flights[str, Credential | str] = Flights(8, 8)

    async def credential(self, host: str, namespace: str) -> Credential | str | None:
        """The credential for `host`, or why there is none although it is the cloud's, or None."""
        place = self._cloud.place(host) if self._cloud is not None else None
        if place is None or not ({"*", namespace} & self._namespaces):
            return None
        kept = self._granted.get(place)
        if kept is not None and self._clock() < kept[1]:
            return kept[0]
        try:
            return await self._asking.join(place, "", lambda: self._ask(place))
        except BusyError:
            return "the cloud is being asked for too many credentials at once"

    async def close(self) -> None:
        """End what is under way."""
        await self._asking.close()

    async def _ask(self, place: str) -> Credential | str:
        assert self._cloud is not None
        found: Credential | str
        try:
            grant = await self._cloud.grant(place)
            found, seconds = grant.credential, grant.seconds * _KEPT
        except CloudtaserError as error:
            found, seconds = f"the operator's cloud identity gives no credential: {error.diagnostic()}", 0.0
        self._granted.put(place, (found, self._clock() + max(seconds, _FAILED_SECONDS)))
        return found


class CloudServices:
    """Requests to a cloud's own services, and what it gave the operator's pod."""

    def __init__(
        self,
        environment: Mapping[str, str],
        bounds: Bounds,
        *,
        metadata: tuple[Rule, ...] = (),
        ca: str = "",
        proxies: Proxies = DIRECT,
    ) -> None:
        """`metadata`: the services on the node itself that may be asked without TLS."""
        self._environment = environment
        networks = [parse_network(text, source="") for text in _PRIVATE]
        self._transport = Transport(Rules(metadata, networks), bounds, ca=ca, proxies=proxies)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    def variable(self, name: str, *further: str) -> str:
        """The first of these variables that is set. ConfigError when none is."""
        for each in (name, *further):
            if value := self._environment.get(each, "").strip():
                return value
        raise ConfigError(
            f"{name} is not set", on="the operator's pod", fix="see docs/registry.md, Cloud identity"
        )

    def has(self, name: str) -> bool:
        """Whether the variable is set."""
        return bool(self._environment.get(name, "").strip())

    def token(self, variable: str) -> Secret:
        """What is in the file that a variable names, read now: it is replaced from time to time."""
        path = self.variable(variable)
        try:
            with open(path, "rb") as file:
                token = Secret(file.read(MAX_TOKEN_FILE).strip())
        except OSError as error:
            raise ConfigError(f"cannot read a token: {os.strerror(error.errno or 0)}", on=path) from None
        if not token:
            raise ConfigError("a token file is empty", on=path)
        return token

    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        form: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> dict[str, Any]:
        """One request and the JSON object that it is answered with. No redirect is followed."""
        answer = await self._transport.send(
            method, url, headers, limit=MAX_ANSWER, follow=False, form=form, data=data
        )
        where = url.partition("?")[0]
        if answer.status != 200:
            raise UnavailableError(f"it is answered {answer.status}{_code(answer)}", on=where)
        try:
            return parse_object(answer.body, what="the answer", limit=MAX_ANSWER)
        except ProtocolError as error:
            raise UnavailableError(error.what, on=where) from None


def text_of(fields: Mapping[str, Any], *path: str) -> str:
    """The text at that path of an answer. UnavailableError when there is none."""
    value: Any = fields
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, str) or not value:
        raise UnavailableError(f"the cloud's answer has no {'.'.join(path)}")
    return value


def seconds_of(fields: Mapping[str, Any], name: str, default: float) -> float:
    """A number of seconds in an answer; some clouds write it as text."""
    try:
        return min(max(float(fields.get(name, default)), 0.0), 86400.0)
    except (TypeError, ValueError):
        return default


def _code(answer: Answer) -> str:
    """The word by which a cloud names its error."""
    try:
        fields = parse_object(answer.body, what="", limit=MAX_ANSWER)
    except ProtocolError:
        return ""
    inner = fields.get("Error")
    word = (
        (inner.get("Code") if isinstance(inner, dict) else None)
        or fields.get("__type")
        or fields.get("error")
    )
    return f" {word[:60]}" if isinstance(word, str) and word.replace("_", "").isalnum() else ""
