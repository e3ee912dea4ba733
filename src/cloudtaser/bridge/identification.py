"""Identification: who a stream speaks for, where that takes a question to somebody else.

Used by `calls` for logins, for the operator's hand-over of the reviewer's token, and for a token that was
issued before this bridge knew its space. The checks themselves are in `tokens` and `login`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cloudtaser.bridge import login, ownership
from cloudtaser.bridge.health import fetch, parse
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.token_forms import token_suffix
from cloudtaser.bridge.tokens import MAX_TOKEN, PodIdentity, Reason, TokenRefused, verify
from cloudtaser.errors import ProtocolError
from cloudtaser.secret import Secret
from cloudtaser.wire.names import operator_audience
from cloudtaser.wire.strict_json import parse_object

if TYPE_CHECKING:
    from cloudtaser.bridge.cluster import Cluster
    from cloudtaser.bridge.session import Services

_LOOKUP: Final = b"/v1/auth/token/lookup-self"


async def with_fresh_keys(
    cluster: Cluster, services: Services, check: Callable[[], PodIdentity]
) -> PodIdentity:
    """What `check` finds; an unknown key is looked for once in the cluster's key set as it is now."""
    try:
        return check()
    except TokenRefused as refused:
        if refused.reason is not Reason.UNKNOWN_KEY:
            raise
    await services.refetch_keys(cluster)
    return check()


async def identify(
    cluster: Cluster, services: Services, request: login.LoginRequest, *, on_operator_stream: bool
) -> PodIdentity:
    """Who logs in."""

    def check() -> PodIdentity:
        return login.identify(
            request,
            fp8=cluster.fp8,
            keys=cluster.keys,
            issuer=cluster.issuer,
            operator=cluster.operator_subject,
            on_operator_stream=on_operator_stream,
            now=services.now(),
        )

    return await with_fresh_keys(cluster, services, check)


async def operator(cluster: Cluster, services: Services, jwt: str) -> PodIdentity:
    """The cluster's operator, by its own token. TokenRefused unless the caller is the recorded one."""

    def check() -> PodIdentity:
        identity = verify(
            jwt,
            keys=cluster.keys,
            issuer=cluster.issuer,
            audience=operator_audience(cluster.fp8),
            now=services.now(),
            require_pod=False,
        )
        if identity.subject != cluster.operator_subject:
            raise TokenRefused(Reason.WRONG_SUBJECT)
        return identity

    return await with_fresh_keys(cluster, services, check)


async def reviewer(cluster: Cluster, services: Services, body: bytes, jwt: str) -> tuple[PodIdentity, Secret]:
    """The operator, by its own token, and the reviewer's token that it hands over. TokenRefused unless the
    caller is the recorded operator; RequestRefused unless the body is `{"token": …}`."""
    identity = await operator(cluster, services, jwt)
    try:
        fields = parse_object(body, what="the body", limit=login.MAX_LOGIN)
    except ProtocolError as error:
        raise RequestRefused(400, error.what, "body_form") from None
    token = fields.get("token")
    if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN or len(fields) > 1:
        raise RequestRefused(400, "the body holds no token", "body_form")
    return identity, Secret(token)


async def prove(cluster: Cluster, services: Services, token: str) -> None:
    """See that `token` is of the cluster's space, and learn the space's id from it if nothing has shown it
    yet. RequestRefused otherwise. OpenBao answers `lookup-self` in any namespace, naming the token's."""
    space = cluster.mounted
    if space is not None:
        await ownership.check_token(cluster, services, space, token)
        return
    if cluster.namespace_id is None:
        headers = ((b"x-vault-namespace", cluster.namespace.encode()), (b"x-vault-token", token.encode()))
        answer = await fetch(services.upstream, _LOOKUP, headers)
        data = parse(answer).get("data") if answer[0] == 200 else None
        home = data.get("namespace_path") if isinstance(data, dict) else None
        if home == f"{cluster.namespace.strip('/')}/" and cluster.namespace_id is None:
            cluster.namespace_id = token_suffix(token) or None
    if cluster.namespace_id is None or cluster.namespace_id != token_suffix(token):
        raise RequestRefused(
            403, "permission denied: the token is not valid in this cluster's space", "foreign_token"
        )
