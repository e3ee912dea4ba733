"""Rules: where each registry is, what is known about its host, and who may be given its credentials.

Made once from the operator's settings (`settings`). One rule counts for a host wherever it turns up: as a
registry, a mirror, a token server, or the end of a redirect. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from cloudtaser.errors import ConfigError, ProtocolError
from cloudtaser.kube.registry.reference import DOCKER_HUB, Reference
from cloudtaser.net.addresses import Network, parse_host

_HUB_ENDPOINT: Final = "registry-1.docker.io"
_HUB_NAMES: Final = frozenset((DOCKER_HUB, "index.docker.io", _HUB_ENDPOINT))
_PORTS: Final = {"https": 443, "http": 80}
_PAIRS: Final = {
    # token servers of well-known registries that have a host of their own; those of Amazon (ECR), Google
    # (GCR, Artifact Registry), Azure (ACR), GitHub, Quay and Red Hat are on the registry's own
    DOCKER_HUB: frozenset(("auth.docker.io",)),
    "registry.gitlab.com": frozenset(("gitlab.com",)),
    "registry.digitalocean.com": frozenset(("api.digitalocean.com",)),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What an administrator says about one host (`registry.example.com:5000`) or all below one (`*.…`)."""

    host: str = ""
    mirrors: tuple[str, ...] = ()
    """URLs, asked before the registry itself; what follows the host goes before each repository's name."""
    plain_http: bool = False
    ca: str = ""
    """PEM; then no other CA is trusted for this host."""
    realms: frozenset[str] = frozenset()
    """Token servers on other hosts that may be given this registry's credentials."""
    networks: tuple[Network, ...] = ()
    """Addresses besides public ones that this host may have."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a repository is asked for."""

    base: str
    """`https://registry-1.docker.io`."""
    host: str
    """The name that rules and credentials go by: `docker.io`, `mirror.example.com:5000`."""
    repository: str
    mirrored: str = ""
    """Of a mirror: the registry whose images are wanted."""

    @property
    def name(self) -> str:
        """What credentials are found by."""
        return f"{self.host}/{self.repository}"

    @property
    def secure(self) -> bool:
        """Whether TLS protects what is sent."""
        return self.base.startswith("https://")


def canonical(authority: str, scheme: str = "https") -> str:
    """The one spelling of `host[:port]`: lower case, the scheme's own port left out, Docker Hub by one name.

    ProtocolError when it is none (see `parse_host`).
    """
    host, port = authority.strip(), ""
    bracketed = host.startswith("[")
    if bracketed:
        host, end, port = host[1:].partition("]")
        if not end or ":" not in host or (port and not port.startswith(":")):
            raise ProtocolError(f"{authority[:80]!r} is no host")
        colon, port = port[:1], port[1:]
    else:
        host, colon, port = host.partition(":")
    plain = parse_host(host)
    if colon and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ProtocolError(f"{authority[:80]!r} has no port after the colon")
    name = f"[{plain}]" if bracketed else str(plain)
    if port and int(port) != _PORTS.get(scheme):
        return f"{name}:{int(port)}"
    return DOCKER_HUB if name in _HUB_NAMES else name


class Rules:
    """All rules; hosts without one of their own have the default."""

    def __init__(self, rules: Iterable[Rule] = (), networks: Iterable[Network] = ()) -> None:
        """`networks`: addresses besides public ones that any host may have. ConfigError for a bad mirror."""
        self._exact: dict[str, Rule] = {}
        self._wild: list[tuple[str, Rule]] = []
        self._mirrors: dict[str, tuple[tuple[str, str, str], ...]] = {}
        self.networks: Final = tuple(networks)
        self.default: Final = Rule()
        for rule in rules:
            if rule.host.startswith("*."):
                self._wild.append((rule.host[1:].lower(), rule))
            else:
                self._exact |= dict.fromkeys(_own_names(rule), rule)
            self._mirrors[rule.host] = tuple(_mirror(url, rule.host) for url in rule.mirrors)
        self._wild.sort(key=lambda pair: -len(pair[0]))

    def all(self) -> tuple[Rule, ...]:
        """Every rule that was given."""
        return (*self._exact.values(), *(rule for _, rule in self._wild))

    def of(self, host: str) -> Rule:
        """The rule for a host by its canonical name: its own, else of the longest wildcard."""
        if host in self._exact:
            return self._exact[host]
        return next((rule for suffix, rule in self._wild if host.endswith(suffix)), self.default)

    def networks_of(self, rule: Rule) -> tuple[Network, ...]:
        """Addresses besides public ones that the rule's hosts may have."""
        return (*rule.networks, *self.networks)

    def endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        """Where to ask for an image: mirrors first, the registry itself last."""
        host = canonical(reference.host)
        rule = self.of(host)
        found = [
            Endpoint(base, mirror, f"{prefix}{reference.repository}", mirrored=host)
            for base, mirror, prefix in self._mirrors.get(rule.host, ())
        ]
        scheme = "http" if rule.plain_http else "https"
        where = _HUB_ENDPOINT if host == DOCKER_HUB else reference.host
        return (*found, Endpoint(f"{scheme}://{where}", host, reference.repository))

    def trusts(self, host: str, realm: str) -> bool:
        """Whether credentials of registry `host` may be shown to the token server `realm`."""
        return realm == host or realm in self.of(host).realms or realm in _PAIRS.get(host, ())


def parse_realms(texts: Iterable[str], host: str) -> frozenset[str]:
    """Token servers' hosts as `Rules.trusts` compares them. ConfigError for what is no host."""
    try:
        return frozenset(canonical(text) for text in texts)
    except ProtocolError as error:
        raise ConfigError(
            f"a realm cannot be used: {error.what}", on=host, fix="name its host[:port]"
        ) from None


def _own_names(rule: Rule) -> set[str]:
    """By which the rule's host may turn up: with its port, and without where the scheme has the same."""
    try:
        return {canonical(rule.host, scheme) for scheme in _PORTS}
    except ProtocolError as error:
        raise ConfigError(f"a registry's host cannot be used: {error.what}", on=rule.host) from None


def _mirror(url: str, host: str) -> tuple[str, str, str]:
    """Base, canonical host and the prefix of repositories."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"{url[:120]!r} is no mirror", on=host, fix="write it as https://mirror.example.com[/project]"
        )
    try:
        name = canonical(parts.netloc, parts.scheme)
    except ProtocolError as error:
        raise ConfigError(f"a mirror cannot be used: {error.what}", on=host) from None
    prefix = parts.path.strip("/").removeprefix("v2").lstrip("/")
    return f"{parts.scheme}://{parts.netloc.lower()}", name, f"{prefix}/" if prefix else ""
