"""Amazon: credentials for ECR by IAM roles for service accounts, or by EKS Pod Identity.

Used by `clouds`. One grant serves every registry of a region that the role may read. (IAM User Guide,
"Signature Version 4"; ECR API Reference, GetAuthorizationToken.)
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from cloudtaser.errors import UnavailableError
from cloudtaser.kube.registry.cloud import CloudServices, Grant, text_of
from cloudtaser.kube.registry.credentials import Credential
from cloudtaser.kube.registry.rules import Rule
from cloudtaser.net.addresses import parse_network
from cloudtaser.secret import Secret

METADATA: Final = tuple(
    Rule(host, plain_http=True, networks=(parse_network(network, source=""),))
    for host, network in (
        ("169.254.170.23", "169.254.170.23/32"),
        ("[fd00:ec2::23]", "fd00:ec2::23/128"),
    )
)
"""EKS Pod Identity's agent on the node."""
_REGISTRY: Final = re.compile(
    r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.([a-z]{2}(?:-[a-z]+)+-[0-9])\.(amazonaws\.com(?:\.cn)?)", re.ASCII
)
_LIFE: Final = 12 * 3600.0
"""Seconds of an ECR password (GetAuthorizationToken)."""
_TARGET: Final = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Keys:
    """Temporary keys of a role."""

    access: str
    secret: Secret
    session: Secret | None = None


class Amazon:
    """ECR."""

    def __init__(self, services: CloudServices, now: Callable[[], dt.datetime] | None = None) -> None:
        self._services = services
        self._now = now or (lambda: dt.datetime.now(dt.UTC))

    def place(self, host: str) -> str | None:
        """The region and its domain."""
        match = _REGISTRY.fullmatch(host)
        return f"{match[1]}.{match[2]}" if match else None

    async def grant(self, place: str) -> Grant:
        """An ECR password for the role of the operator's ServiceAccount."""
        region = place.partition(".")[0]
        keys = await self._keys(place)
        url = f"https://api.ecr.{place}/"
        headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": _TARGET}
        signed = sign("POST", url, headers, b"{}", keys, region, "ecr", self._now())
        answer = await self._services.ask("POST", url, signed, data=b"{}")
        listed = answer.get("authorizationData")
        first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
        try:
            plain = base64.b64decode(text_of(first, "authorizationToken"), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            plain = ""
        username, colon, password = plain.partition(":")
        if not colon or not password:
            raise UnavailableError("the cloud's answer holds no password", on=url)
        expires = first.get("expiresAt")
        life = expires - self._now().timestamp() if isinstance(expires, int | float) else _LIFE
        credential = Credential("the operator's role", username, Secret(password))
        return Grant(credential, min(max(life, 0.0), _LIFE))

    async def _keys(self, place: str) -> Keys:
        services = self._services
        if services.has("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
            token = services.token("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
            url = services.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")
            found = await services.ask("GET", url, {"Authorization": token.reveal_text()})
            session = text_of(found, "Token")
        else:
            token = services.token("AWS_WEB_IDENTITY_TOKEN_FILE")
            form = {
                "Action": "AssumeRoleWithWebIdentity",
                "Version": "2011-06-15",
                "RoleArn": services.variable("AWS_ROLE_ARN"),
                "RoleSessionName": "cloudtaser-operator",
                "WebIdentityToken": token.reveal_text(),
            }
            answer = await services.ask(
                "POST", f"https://sts.{place}/", {"Accept": "application/json"}, form=form
            )
            result = answer.get("AssumeRoleWithWebIdentityResponse", {}).get(
                "AssumeRoleWithWebIdentityResult"
            )
            found = result.get("Credentials", {}) if isinstance(result, dict) else {}
            session = text_of(found, "SessionToken")
        return Keys(text_of(found, "AccessKeyId"), Secret(text_of(found, "SecretAccessKey")), Secret(session))


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    keys: Keys,
    region: str,
    service: str,
    now: dt.datetime,
) -> dict[str, str]:
    """The headers, with those that prove `keys` (Signature Version 4). `url` is a host and a plain path."""
    parts = urlsplit(url)
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    signed = {name.lower(): value.strip() for name, value in headers.items()}
    signed |= {"host": parts.netloc, "x-amz-date": moment}
    if keys.session is not None:
        signed["x-amz-security-token"] = keys.session.reveal_text()
    names = ";".join(sorted(signed))
    request = "\n".join(
        (
            method,
            parts.path or "/",
            "",
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    text = "\n".join((_ALGORITHM, moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = b"AWS4" + keys.secret.reveal()
    for part in (moment[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    proof = f"{_ALGORITHM} Credential={keys.access}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**signed, "authorization": proof}
