"""Auth: what to show a registry that asks who we are.

Used by `client`. A password goes to the registry's own host, or to a token server on that host or on one
listed for it (`rules`), over TLS and never along a redirect; a token server elsewhere is asked without one.
What was granted is kept until it ends, per endpoint, repository and credential.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode

from cloudtaser.errors import ProtocolError
from cloudtaser.kube.registry.challenge import Challenge, parse_challenges, repository_of
from cloudtaser.kube.registry.credentials import Credential
from cloudtaser.kube.registry.errors import ImageForbiddenError, ImageUnusableError, RegistryUnavailableError
from cloudtaser.kube.registry.rules import Endpoint, Rules
from cloudtaser.kube.registry.transport import Transport
from cloudtaser.secret import Secret
from cloudtaser.wire.strict_json import parse_object

CLIENT: Final = "cloudtaser"
MAX_ANSWER: Final = 256 * 1024
MAX_TOKEN: Final = 64 * 1024
MAX_GRANTS: Final = 4096
LEAST_SECONDS: Final = 60.0
"""What a token lives when its server says nothing, and at least (distribution's token specification)."""
MOST_SECONDS: Final = 3600.0
_MARGIN: Final = 10.0
_BASIC_SECONDS: Final = 300.0
_LONGEST_PARAMETER: Final = 1024

Key = tuple[str, str, bytes]


class Authority:
    """Everything that registries have granted so far."""

    def __init__(self, rules: Rules, transport: Transport, *, clock: Callable[[], float]) -> None:
        """`clock`: seconds, steady."""
        self._rules = rules
        self._transport = transport
        self._clock = clock
        self._granted: OrderedDict[Key, tuple[Secret, float]] = OrderedDict()

    def known(self, endpoint: Endpoint, credential: Credential | None) -> Secret | None:
        """The value of Authorization that worked last, while it is good."""
        key = _key(endpoint, credential)
        header, ends = self._granted.get(key, (None, 0.0))
        if header is None or self._clock() >= ends:
            self._granted.pop(key, None)
            return None
        self._granted.move_to_end(key)
        return header

    def forget(self, endpoint: Endpoint, credential: Credential | None) -> None:
        """It did not work."""
        self._granted.pop(_key(endpoint, credential), None)

    async def answer(
        self, endpoint: Endpoint, credential: Credential | None, challenges: tuple[str, ...]
    ) -> Secret:
        """The value of Authorization that a registry's challenge asks for. ImageForbiddenError when there is
        none that may be given."""
        offered = parse_challenges(challenges)
        by_scheme = {challenge.scheme: challenge for challenge in reversed(offered)}
        if "bearer" in by_scheme:
            header, seconds = await self._bearer(endpoint, credential, by_scheme["bearer"])
        elif "basic" in by_scheme:
            header, seconds = self._basic(endpoint, credential), _BASIC_SECONDS
        else:
            asked = ", ".join(by_scheme) or "nothing that we know"
            raise ImageForbiddenError(f"the registry wants {asked[:80]} for authentication", on=endpoint.host)
        self._granted[_key(endpoint, credential)] = header, self._clock() + seconds
        while len(self._granted) > MAX_GRANTS:
            self._granted.popitem(last=False)
        return header

    def _basic(self, endpoint: Endpoint, credential: Credential | None) -> Secret:
        if credential is None or credential.password is None:
            raise ImageForbiddenError("the registry wants user and password", on=endpoint.host)
        _only_over_tls(endpoint)
        return _basic(credential.username, credential.password)

    async def _bearer(
        self, endpoint: Endpoint, credential: Credential | None, challenge: Challenge
    ) -> tuple[Secret, float]:
        if credential is not None:
            _only_over_tls(endpoint)
            if credential.registry_token is not None:
                return _header(b"Bearer ", credential.registry_token.reveal()), _BASIC_SECONDS
        realm = challenge.parameters.get("realm", "")
        service = challenge.parameters.get("service", "")[:_LONGEST_PARAMETER]
        repository = repository_of(challenge.parameters.get("scope", "")) or endpoint.repository
        scope = f"repository:{repository}:pull"
        url, host, _ = self._transport.checked(realm)
        headers: dict[str, str] = {"Accept": "application/json"}
        query = {"scope": scope} | ({"service": service} if service else {})
        form: dict[str, str] | None = None
        if credential is not None:
            if url.scheme != "https" or not self._rules.trusts(endpoint.host, host):
                raise ImageForbiddenError(
                    f"its token server {host} is not listed to be given credentials",
                    on=endpoint.host,
                    fix="add it to the registry's realms under operator.registry, if it is the right one",
                )
            if credential.identity_token is not None:
                form = {
                    "grant_type": "refresh_token",
                    "client_id": CLIENT,
                    "refresh_token": credential.identity_token.reveal_text(),
                    **query,
                }
            elif credential.password is not None:
                headers["Authorization"] = _basic(credential.username, credential.password).reveal_text()
                query["account"] = credential.username
        target = str(url if form is not None else url.update_query(query))
        answer = await self._transport.send(
            "POST" if form is not None else "GET", target, headers, limit=MAX_ANSWER, follow=False, form=form
        )
        if answer.status == 429 or answer.status >= 500:
            raise RegistryUnavailableError(
                f"the token server {host} answers {answer.status}", on=endpoint.host, fix="try again later"
            )
        if answer.status != 200:
            who = f"refuses {credential.source}" if credential is not None else "gives no token to anybody"
            raise ImageForbiddenError(f"its token server {who} ({answer.status})", on=endpoint.host)
        return _token(answer.body, host)


def _token(body: bytes, host: str) -> tuple[Secret, float]:
    try:
        fields = parse_object(body, what="the token server's answer", limit=MAX_ANSWER)
    except ProtocolError as error:
        raise ImageUnusableError(error.what, on=host) from None
    token = fields.get("token") or fields.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise ImageUnusableError("the token server's answer holds no token", on=host)
    if len(token) > MAX_TOKEN:
        raise ImageUnusableError("the token server's token is too long", on=host)
    seconds = fields.get("expires_in")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        seconds = LEAST_SECONDS
    lives = min(max(float(seconds), LEAST_SECONDS), MOST_SECONDS)
    return _header(b"Bearer ", token.encode()), lives - _MARGIN


def _basic(username: str, password: Secret) -> Secret:
    return _header(b"Basic ", base64.b64encode(username.encode() + b":" + password.reveal()))


def _header(scheme: bytes, value: bytes) -> Secret:
    if not value.isascii() or any(byte <= 32 or byte == 127 for byte in value):
        raise ImageForbiddenError("a registry token holds what no header may hold")
    return Secret(scheme + value)


def _only_over_tls(endpoint: Endpoint) -> None:
    if not endpoint.secure:
        raise ImageForbiddenError(
            "the registry wants credentials, which are not sent over plain http",
            on=endpoint.host,
            fix="serve it with TLS",
        )


def _key(endpoint: Endpoint, credential: Credential | None) -> Key:
    return endpoint.base, endpoint.repository, credential.identity if credential is not None else b""


def query_of(mirrored: str) -> str:
    """What a mirror is told: whose images are wanted, as containerd says it."""
    return f"?{urlencode({'ns': mirrored})}" if mirrored else ""
