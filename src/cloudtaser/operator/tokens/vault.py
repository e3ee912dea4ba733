"""Vault: what the operator asks of the bridge and, through it, of OpenBao.

Used by `credentials` (certificates), `minting` and `keeping`. All of it goes by the operator's own TLS to the
bridge, under the pod CA, through the broker that cannot read it. The operator shows its ServiceAccount token
for a login of its own (role `cloudtaser-operator`, which may make and take back pods' tokens and nothing
else), holds the token that it gets in memory only, and logs in anew when that is refused.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.errors import (
    CloudtaserError,
    NotAuthorisedError,
    ProtocolError,
    RefusedError,
    UnavailableError,
)
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tls import pod_client
from cloudtaser.openbao.layout import OPERATOR_ROLE, POD_TOKEN_ROLE, pod_policy_name
from cloudtaser.operator.certificates import der, load_certificate
from cloudtaser.operator.tokens.http import Answer, Calls
from cloudtaser.operator.tokens.ports import Identity, Pipe, PodRef
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import pod_ca_label
from cloudtaser.wire.names import BRIDGE_NAME, OPERATOR_CERTIFICATES_PATH
from cloudtaser.wire.strict_json import dump_object, parse_object

CALL_SECONDS: Final = 15.0
RENEW_OWN_AT: Final = 2 / 3
FAILED_FOR: Final = 1.0
_MAX_ANSWER: Final = 64 * 1024


class NoGrantError(RefusedError):
    """Nothing was granted to this namespace and ServiceAccount: the line names the command that would."""


class TokenGoneError(RefusedError):
    """OpenBao knows no token of that accessor (any more)."""


@dataclass(frozen=True, slots=True)
class Minted:
    """A pod's token as it was made. `ttl` in seconds."""

    token: Secret
    accessor: str
    ttl: int


@dataclass(frozen=True, slots=True)
class Certified:
    """The operator's two certificates, PEM, and the pod CA that signed them."""

    server: str
    seal: str
    pod_ca: str


class Vault:
    """One operator's dealings with the bridge. Each method raises CloudtaserError; UnavailableError where
    trying again can help."""

    def __init__(
        self, pipe: Pipe, identity: Identity, *, clock: Callable[[], float], connections: int = 4
    ) -> None:
        """`clock`: any steady one, in seconds."""
        self._pipe = pipe
        self._identity = identity
        self._clock = clock
        self._calls = Calls(self._connect, connections=connections)
        self._login = asyncio.Lock()
        self._token: Secret | None = None
        self._renew_at = 0.0
        self._ends_at = 0.0
        self._failed: tuple[float, CloudtaserError] | None = None

    async def certify(self, server_csr: str, seal_csr: str) -> Certified:
        """Have both requests' keys certified, as operator of this cluster."""
        own = await self._identity.operator_token()
        body = {"server": server_csr, "seal": seal_csr}
        answer = await self._send("POST", OPERATOR_CERTIFICATES_PATH, body, b"Bearer " + own.reveal())
        if answer.status != 200:
            raise _error(answer, "the operator's certificates were not signed")
        fields = _object(answer)
        texts = [fields.get(name) for name in ("server", "seal", "pod_ca")]
        if not all(isinstance(text, str) and text for text in texts):
            raise ProtocolError("the bridge's answer holds no certificates")
        return Certified(*map(str, texts))

    async def mint(self, pod: PodRef, service_account: str, container: str) -> Minted:
        """A token that may read what was granted to the pod's namespace and ServiceAccount.

        NoGrantError where nothing was. What is asked for, the bridge narrows to what is recorded.
        """
        body = {
            "policies": [
                pod_policy_name(pod.namespace, service_account),
                pod_policy_name(pod.namespace, ""),
            ],
            "meta": {
                "pod_uid": pod.uid,
                "pod": pod.name,
                "namespace": pod.namespace,
                "serviceaccount": service_account,
                "container": container,
            },
            "display_name": "sealed-pod",
        }
        answer = await self._ask(f"auth/token/create/{POD_TOKEN_ROLE}", body)
        if answer.status == 404:
            raise NoGrantError(_said(answer) or "nothing is granted to it")
        if answer.status != 200:
            raise _error(answer, "no token was made for the pod")
        auth = _object(answer).get("auth")
        auth = auth if isinstance(auth, dict) else {}
        token, accessor, ttl = auth.get("client_token"), auth.get("accessor"), auth.get("lease_duration")
        if not isinstance(token, str) or not isinstance(accessor, str) or not isinstance(ttl, int):
            raise ProtocolError("OpenBao's answer holds no token")
        return Minted(Secret(token), accessor, ttl)

    async def renew(self, accessor: str) -> int:
        """Let the token live for another period, whose seconds are returned. TokenGoneError where there is
        none."""
        answer = await self._ask("auth/token/renew-accessor", {"accessor": accessor})
        if _is_gone(answer):
            raise TokenGoneError("OpenBao knows no such token")
        if answer.status != 200:
            raise _error(answer, "a pod's token was not renewed")
        auth = _object(answer).get("auth")
        ttl = auth.get("lease_duration") if isinstance(auth, dict) else None
        return ttl if isinstance(ttl, int) and ttl > 0 else 0

    async def revoke(self, accessor: str) -> None:
        """End the token and every lease that it has. One that is gone already is no error."""
        answer = await self._ask("auth/token/revoke-accessor", {"accessor": accessor})
        if answer.status not in (200, 204) and not _is_gone(answer):
            raise _error(answer, "a pod's token was not revoked")

    async def close(self) -> None:
        """Give the operator's own token back, if that takes but a moment."""
        token, self._token = self._token, None
        if token is not None:
            try:
                async with asyncio.timeout(2.0):
                    await self._send("POST", "/v1/auth/token/revoke-self", {}, token=token)
            except (CloudtaserError, TimeoutError):
                pass  # it ends by itself within its period
        self._calls.close()

    # --- the operator's own token

    async def _ask(self, path: str, body: dict[str, Any]) -> Answer:
        """A call under the operator's token; once more with a new one where it is refused."""
        token = await self._own_token()
        answer = await self._send("POST", f"/v1/{path}", body, token=token)
        if answer.status in (401, 403):
            token = await self._own_token(instead_of=token)
            answer = await self._send("POST", f"/v1/{path}", body, token=token)
        return answer

    async def _own_token(self, instead_of: Secret | None = None) -> Secret:
        async with self._login:
            now, token = self._clock(), self._token
            if token is None or token == instead_of or now >= self._ends_at:
                return await self._log_in_once(now)
            if now >= self._renew_at:
                return await self._renew_own(token, now)
            return token

    async def _log_in_once(self, now: float) -> Secret:
        """Who waited while a login failed hears of that, and does not try the same at once."""
        if self._failed is not None and now < self._failed[0]:
            error = self._failed[1]
            raise type(error)(error.what, on=error.on, fix=error.fix)
        try:
            return await self._log_in(now)
        except CloudtaserError as error:
            self._failed = self._clock() + FAILED_FOR, error
            raise

    async def _log_in(self, now: float) -> Secret:
        self._token = None
        own = await self._identity.operator_token()
        body = {"role": OPERATOR_ROLE, "jwt": own.reveal_text()}
        answer = await self._send("POST", "/v1/auth/jwt/login", body)
        if answer.status != 200:
            raise _error(answer, "the operator's login was refused")
        auth = _object(answer).get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(auth, dict) or not isinstance(token, str):
            raise ProtocolError("the login's answer holds no token")
        self._token = Secret(token)
        self._lives(auth.get("lease_duration"), now)
        return self._token

    async def _renew_own(self, token: Secret, now: float) -> Secret:
        answer = await self._send("POST", "/v1/auth/token/renew-self", {}, token=token)
        if answer.status in (400, 401, 403):
            return await self._log_in(now)
        if answer.status != 200:
            self._renew_at = now + 10.0  # it still holds for a third of its life
            return token
        auth = _object(answer).get("auth")
        self._lives(auth.get("lease_duration") if isinstance(auth, dict) else None, now)
        return token

    def _lives(self, seconds: object, now: float) -> None:
        life = float(seconds) if isinstance(seconds, int) and seconds > 0 else 3600.0
        self._renew_at, self._ends_at = now + life * RENEW_OWN_AT, now + life

    # --- one call

    async def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any],
        authorization: bytes = b"",
        *,
        token: Secret | None = None,
    ) -> Answer:
        headers = [(b"host", BRIDGE_NAME.encode()), (b"content-type", b"application/json")]
        if authorization:
            headers.append((b"authorization", authorization))
        if token is not None:
            headers.append((b"x-vault-token", token.reveal()))
        content = dump_object(body)
        return await self._calls.call(method.encode(), path.encode(), headers, content, timeout=CALL_SECONDS)

    async def _connect(self, protocol: asyncio.Protocol) -> None:
        if self._identity.pod_ca is None:
            await self._identity.refresh_pod_ca()
        pod_ca = self._identity.pod_ca
        if pod_ca is None:
            raise UnavailableError("the pod CA is not known yet")
        name = f"{pod_ca_label(der(load_certificate(pod_ca, 'the pod CA')))}.{BRIDGE_NAME}"
        layer = TlsLayer(pod_client(pod_ca.encode()), protocol, server_side=False, server_hostname=name)
        await self._pipe(layer)
        try:
            await layer.handshake
        except ProtocolError:
            await self._identity.refresh_pod_ca()  # another replica may have stored the next one
            raise UnavailableError("TLS to the bridge failed; the pod CA may have changed") from None


def _object(answer: Answer) -> dict[str, Any]:
    return parse_object(answer.body, what="the bridge's answer", limit=_MAX_ANSWER)


def _said(answer: Answer) -> str:
    """The first line of an error's body, without its end."""
    try:
        errors = json.loads(answer.body).get("errors")
    except (ValueError, AttributeError):
        return ""
    return str(errors[0])[:300] if isinstance(errors, list) and errors else ""


def _is_gone(answer: Answer) -> bool:
    """Whether an accessor is unknown. (OpenBao 2.7 says 403 or 400, with these words.)"""
    said = _said(answer)
    return answer.status in (400, 403, 404) and ("invalid accessor" in said or "bad token" in said)


def _error(answer: Answer, what: str) -> CloudtaserError:
    said = _said(answer) or f"status {answer.status}"
    if answer.status in (429, 500, 502, 503, 504):
        return UnavailableError(f"{what}: {said}", on="the bridge")
    kind = NotAuthorisedError if answer.status in (401, 403) else RefusedError
    return kind(f"{what}: {said}", on="the bridge")
