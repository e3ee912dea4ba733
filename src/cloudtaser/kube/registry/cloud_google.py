"""Google: credentials for Artifact Registry and Container Registry by the metadata server.

Used by `clouds`. One access token serves every registry that the operator's ServiceAccount (Workload Identity
Federation for GKE), or else the node, may read.
"""

from __future__ import annotations

import re
from typing import Final

from cloudtaser.kube.registry.cloud import CloudServices, Grant, seconds_of, text_of
from cloudtaser.kube.registry.credentials import Credential
from cloudtaser.kube.registry.rules import Rule
from cloudtaser.net.addresses import parse_network
from cloudtaser.secret import Secret

_HOST: Final = "metadata.google.internal"
METADATA: Final = (
    Rule(
        _HOST,
        plain_http=True,
        networks=tuple(parse_network(text, source="") for text in ("169.254.169.254/32", "fd20:ce::254/128")),
    ),
)
_URL: Final = f"http://{_HOST}/computeMetadata/v1/instance/service-accounts/default/token"
_REGISTRY: Final = re.compile(r"(?:[a-z0-9-]+\.)?gcr\.io|[a-z0-9-]+-docker\.pkg\.dev", re.ASCII)
_USER: Final = "oauth2accesstoken"


class Google:
    """Artifact Registry and Container Registry."""

    def __init__(self, services: CloudServices) -> None:
        self._services = services

    def place(self, host: str) -> str | None:
        """One for all."""
        return "google" if _REGISTRY.fullmatch(host) else None

    async def grant(self, place: str) -> Grant:
        """The access token of now."""
        answer = await self._services.ask("GET", _URL, {"Metadata-Flavor": "Google"})
        token = Secret(text_of(answer, "access_token"))
        return Grant(
            Credential("the operator's service account", _USER, token), seconds_of(answer, "expires_in", 0)
        )
