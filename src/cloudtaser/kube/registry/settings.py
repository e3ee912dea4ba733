"""Settings: what an administrator says about registries, read once at start.

The chart writes the values of `operator.registry` to a file of JSON, which `read_settings` reads
(docs/registry.md has each of them). A value that cannot be used names itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cloudtaser.errors import ConfigError
from cloudtaser.kube.registry.rules import Rule, Rules, parse_realms
from cloudtaser.net.addresses import Network, parse_network

MAX_FILE: Final = 1024 * 1024
MAX_RULES: Final = 256
CLOUDS: Final = ("aws", "google", "azure")
MAX_SECRETS: Final = 4096
_PREFIX: Final = "operator.registry"
_FIX: Final = "see docs/registry.md"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Times in seconds, and how much at once."""

    timeout: float = 7.0
    """One look-up, as an admission waits for it; it may go on behind, for the next one."""
    work_timeout: float = 20.0
    connect_timeout: float = 3.0
    request_timeout: float = 6.0
    tag_seconds: float = 60.0
    """A tag's digest is looked up anew after that."""
    digest_seconds: float = 600.0
    """Of an image by digest: that the credentials still suffice."""
    stale_seconds: float = 3600.0
    """What was known is used for that long while its registry is away."""
    refused_seconds: float = 15.0
    """A refusal is remembered for that long, and a registry that is away for a third of it."""
    secret_seconds: float = 30.0
    entries: int = 4096
    concurrent: int = 32
    """Look-ups that talk to registries at the same time."""
    concurrent_of_namespace: int = 8


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """All of `operator.registry`."""

    rules: tuple[Rule, ...] = ()
    networks: tuple[Network, ...] = ()
    ca: str = ""
    """PEM, trusted besides the system's CAs for every host that has no CA of its own."""
    pull_secrets: frozenset[tuple[str, str]] = frozenset()
    """Namespace and name of each Secret that the operator may read."""
    docker_config: str = ""
    """File with the operator's own credentials."""
    docker_config_namespaces: frozenset[str] = frozenset(("*",))
    """Whose pods may profit from them, and from the cloud's."""
    cloud_identity: str = ""
    """`aws`, `google` or `azure`, whose identity the operator's pod has."""
    bounds: Bounds = field(default_factory=Bounds)

    def make_rules(self) -> Rules:
        """The rules; ConfigError when one cannot be used."""
        return Rules(self.rules, self.networks)


def read_settings(path: str) -> RegistrySettings:
    """The settings in a file. ConfigError names the file and the value."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the registries' settings: {error.strerror}", on=path) from None
    return parse_settings(data, source=path)


def parse_settings(data: bytes, *, source: str) -> RegistrySettings:
    """The settings in JSON; what is missing has its default. ConfigError names the value."""
    try:
        value = json.loads(data) if len(data) <= MAX_FILE else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigError("the registries' settings are no JSON object", on=source, fix=_FIX)
    reader = _Reader(value, _PREFIX, source)
    rules = [
        _rule(_Reader(item, f"{_PREFIX}.registries[{index}]", source))
        for index, item in enumerate(reader.objects("registries", MAX_RULES))
    ]
    settings = RegistrySettings(
        rules=tuple(rules),
        networks=reader.networks("networks"),
        ca=reader.text("ca"),
        pull_secrets=frozenset(
            _secret(_Reader(item, f"{_PREFIX}.pullSecrets[{index}]", source))
            for index, item in enumerate(reader.objects("pullSecrets", MAX_SECRETS))
        ),
        docker_config=reader.text("dockerConfigFile"),
        docker_config_namespaces=frozenset(reader.texts("dockerConfigNamespaces", ("*",))),
        cloud_identity=reader.one_of("cloudIdentity", CLOUDS),
        bounds=Bounds(timeout=reader.seconds("timeoutSeconds", Bounds().timeout)),
    )
    reader.finish()
    settings.make_rules()
    return settings


def _rule(reader: _Reader) -> Rule:
    host = reader.text("host").lower()
    rule = Rule(
        host=host,
        mirrors=reader.texts("mirrors"),
        plain_http=reader.flag("plainHttp"),
        ca=reader.text("ca"),
        realms=parse_realms(reader.texts("realms"), host),
        networks=reader.networks("networks"),
    )
    if not rule.host:
        raise reader.error("host", "is missing")
    reader.finish()
    return rule


def _secret(reader: _Reader) -> tuple[str, str]:
    namespace, name = reader.text("namespace"), reader.text("name")
    if not namespace or not name:
        raise reader.error("namespace" if not namespace else "name", "is missing")
    reader.finish()
    return namespace, name


class _Reader:
    """One object of the file, whose every key must be asked for."""

    def __init__(self, value: Mapping[str, Any], path: str, source: str) -> None:
        self._value = dict(value)
        self._path = path
        self._source = source

    def error(self, key: str, what: str) -> ConfigError:
        return ConfigError(f"{self._path}.{key} {what}", on=self._source, fix=_FIX)

    def text(self, key: str) -> str:
        value = self._value.pop(key, None)
        if value is not None and not isinstance(value, str):
            raise self.error(key, "is no text")
        return value or ""

    def texts(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        value = self._value.pop(key, None)
        if value is None:
            return default
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.error(key, "is no list of texts")
        return tuple(value)

    def objects(self, key: str, most: int) -> list[Mapping[str, Any]]:
        value = self._value.pop(key, None) or []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "is no list of objects")
        if len(value) > most:
            raise self.error(key, f"has more than {most} entries")
        return value

    def one_of(self, key: str, words: tuple[str, ...]) -> str:
        value = self.text(key)
        if value and value not in words:
            raise self.error(key, f"is none of {', '.join(words)}")
        return value

    def flag(self, key: str) -> bool:
        value = self._value.pop(key, None)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, "is neither true nor false")
        return value is True

    def seconds(self, key: str, default: float) -> float:
        value = self._value.pop(key, None)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value <= 30:
            raise self.error(key, "is no number of seconds between 1 and 30")
        return float(value)

    def networks(self, key: str) -> tuple[Network, ...]:
        source = f"{self._path}.{key} in {self._source}"
        return tuple(parse_network(text, source=source) for text in self.texts(key))

    def finish(self) -> None:
        for key in self._value:
            raise self.error(key, "is not known")
