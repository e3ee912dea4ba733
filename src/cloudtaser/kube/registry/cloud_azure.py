"""Azure: credentials for ACR by Workload Identity.

Used by `clouds`. The ServiceAccount's token becomes one of Microsoft Entra for registries, and that, at each
registry, an identity token for it. (Microsoft identity platform, client credentials with a certificate or
federated credential; ACR, "exchange".)
"""

from __future__ import annotations

import re
from typing import Final

from cloudtaser.kube.registry.cloud import CloudServices, Grant, text_of
from cloudtaser.kube.registry.credentials import Credential
from cloudtaser.secret import Secret

_REGISTRY: Final = re.compile(r"[a-z0-9]{5,50}(?:-[a-z0-9]+)?\.azurecr\.(?:io|us|cn)", re.ASCII)
_AUTHORITY: Final = "https://login.microsoftonline.com/"
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SCOPE: Final = "https://containerregistry.azure.net/.default"
_LIFE: Final = 3 * 3600.0
"""Seconds of an identity token of ACR."""


class Azure:
    """Azure Container Registry."""

    def __init__(self, services: CloudServices) -> None:
        self._services = services

    def place(self, host: str) -> str | None:
        """The registry."""
        return host if _REGISTRY.fullmatch(host) else None

    async def grant(self, place: str) -> Grant:
        """An identity token for that one registry."""
        services = self._services
        tenant = services.variable("AZURE_TENANT_ID")
        authority = (
            services.variable("AZURE_AUTHORITY_HOST") if services.has("AZURE_AUTHORITY_HOST") else _AUTHORITY
        )
        form = {
            "grant_type": "client_credentials",
            "client_id": services.variable("AZURE_CLIENT_ID"),
            "client_assertion_type": _ASSERTION,
            "client_assertion": services.token("AZURE_FEDERATED_TOKEN_FILE").reveal_text(),
            "scope": _SCOPE,
        }
        url = f"{authority.rstrip('/')}/{tenant}/oauth2/v2.0/token"
        access = text_of(await services.ask("POST", url, {}, form=form), "access_token")
        form = {"grant_type": "access_token", "service": place, "tenant": tenant, "access_token": access}
        answer = await services.ask("POST", f"https://{place}/oauth2/exchange", {}, form=form)
        token = Secret(text_of(answer, "refresh_token"))
        return Grant(Credential("the operator's workload identity", "", identity_token=token), _LIFE)
