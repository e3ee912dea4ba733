"""What the tests of the image resolver share: settings for loopback, Secrets as the API server has them."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from cloudtaser.demo.certificates import CertificateFiles
from cloudtaser.kube.errors import KubeForbiddenError, NotFoundError
from cloudtaser.kube.registry.image import ImageConfig, ImageRequest, Platform
from cloudtaser.kube.registry.metrics import RegistryMetrics
from cloudtaser.kube.registry.resolver import ImageResolver
from cloudtaser.kube.registry.rules import Rule
from cloudtaser.kube.registry.settings import Bounds, RegistrySettings
from cloudtaser.net.addresses import Network
from cloudtaser.net.proxy import DIRECT, Proxies

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
AMD64 = Platform("linux", "amd64")
PATIENT = replace(Bounds(), timeout=60.0, work_timeout=60.0, request_timeout=60.0, connect_timeout=60.0)
"""For a machine that has much else to do."""


@dataclass
class Secrets:
    """The Secrets of a namespace, read as from the API server; counts who was asked for."""

    held: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    read: list[tuple[str, str]] = field(default_factory=list)

    def add(self, namespace: str, name: str, config: bytes, kind: str = "dockerconfigjson") -> None:
        self.held[namespace, name] = {
            "type": f"kubernetes.io/{kind}",
            "data": {f".{kind}": base64.b64encode(config).decode()},
        }

    async def get(self, namespace: str, name: str) -> Mapping[str, Any]:
        self.read.append((namespace, name))
        if (namespace, name) in self.forbidden:
            raise KubeForbiddenError(f"not permitted to get secrets {namespace}/{name}")
        try:
            return self.held[namespace, name]
        except KeyError:
            raise NotFoundError(f"secrets {namespace}/{name} does not exist") from None


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server(Protocol):
    """A server on loopback, and the CA of its certificate."""

    port: int
    tls: CertificateFiles


class Resolving:
    """A resolver, what it may reach, and what it counted."""

    def __init__(
        self,
        *servers: Server,
        rules: tuple[Rule, ...] = (),
        granted: tuple[str, ...] = (),
        bounds: Bounds | None = None,
        proxies: Proxies = DIRECT,
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        known = {rule.host for rule in rules}
        trusting = tuple(
            Rule(host=host, ca=server.tls.ca.read_text())
            for server in servers
            for host in (f"127.0.0.1:{server.port}", f"localhost:{server.port}")
            if host not in known
        )
        self.secrets = Secrets()
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.settings = RegistrySettings(
            rules=(*rules, *trusting),
            networks=settings.pop("networks", LOOPBACK),
            pull_secrets=frozenset(_pair(text) for text in granted),
            bounds=bounds or PATIENT,
            **settings,
        )
        self.resolver = ImageResolver(
            self.settings,
            RegistryMetrics(self.registry),
            read_secret=self.secrets.get,
            proxies=proxies,
            environment=environment or {},
            clock=self.clock,
            platform=AMD64,
        )

    async def __aenter__(self) -> Resolving:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.resolver.close()

    async def __call__(
        self, image: str, *secrets: str, namespace: str = "shop", platform: Platform | None = None
    ) -> ImageConfig:
        return await self.resolver.resolve(ImageRequest(image, namespace, secrets, platform))

    @staticmethod
    def loopback() -> tuple[Network, ...]:
        return LOOPBACK

    def counted(self, outcome: str) -> float:
        name = "cloudtaser_operator_registry_lookups_total"
        return self.registry.get_sample_value(name, {"outcome": outcome}) or 0.0

    def requests(self, status: int = 200) -> float:
        """Requests to registries that were answered so."""
        name = "cloudtaser_operator_registry_requests_total"
        return self.registry.get_sample_value(name, {"status": str(status)}) or 0.0


def _pair(text: str) -> tuple[str, str]:
    namespace, _, name = text.partition("/")
    return namespace, name
