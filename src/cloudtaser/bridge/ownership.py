"""Ownership: whose a token, an accessor or a wrapped answer is, on a server without namespaces.

Used by `turn` and `identification`. In the root nothing of them shows a cluster, so OpenBao is asked where
they were issued, with no more rights than the caller has. What was learnt of a token is kept in `holders`; of
the rest nothing is kept, so a bridge that was restarted knows as much.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Final

from cloudtaser.bridge import answers, mounted
from cloudtaser.bridge.health import fetch, parse
from cloudtaser.bridge.holders import Holder
from cloudtaser.bridge.login import token_hash
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.errors import ProtocolError, UnavailableError
from cloudtaser.wire.strict_json import dump_object

if TYPE_CHECKING:
    from cloudtaser.bridge.cluster import Cluster
    from cloudtaser.bridge.session import Services
    from cloudtaser.bridge.verdict import Allowed
    from cloudtaser.openbao.layout import Space

_LOOKUP_SELF: Final = b"/v1/auth/token/lookup-self"
_LOOKUP_ACCESSOR: Final = b"/v1/auth/token/lookup-accessor"
_LOOKUP_WRAPPED: Final = b"/v1/sys/wrapping/lookup"
_WRAPPING: Final = "sys/wrapping/"
_REFUSALS: Final = frozenset({400, 403, 404, 405})


async def check_token(cluster: Cluster, services: Services, space: Space, token: str) -> None:
    """See that `token` was issued to the space, and remember it. RequestRefused otherwise."""
    found = await _ask(services, _LOOKUP_SELF, token)
    if not mounted.own_origin(space, found.get("path"), found.get("meta")):
        raise _foreign("token")
    services.holders.note(token_hash(token), Holder(cluster.fingerprint, None))


async def check_request(
    cluster: Cluster,
    services: Services,
    space: Space,
    allowed: Allowed,
    fields: dict[str, Any],
    *,
    known: bool,
) -> None:
    """See that the caller's token and whatever its body names are the space's; `known` says that the token
    was seen before. RequestRefused otherwise."""
    named, caller = str(fields.get("token") or ""), allowed.token
    wraps = allowed.path.startswith(_WRAPPING)
    if wraps:
        wrapped = named or caller
        found = await _ask(services, _LOOKUP_WRAPPED, body={"token": wrapped}, what="wrapping token")
        if not mounted.own_origin(space, found.get("creation_path")):
            raise _foreign("wrapping token")
        if _same(wrapped, caller):
            return  # to look at it as a token would use it up
    if caller and not known:
        await check_token(cluster, services, space, caller)
    if named and not wraps and not _same(named, caller):
        raise _foreign("token")
    if "accessor" in fields:
        body = {"accessor": fields["accessor"]}
        found = await _ask(services, _LOOKUP_ACCESSOR, caller, body=body, what="accessor")
        if not mounted.own_origin(space, found.get("path"), found.get("meta")):
            raise _foreign("accessor")


async def _ask(
    services: Services,
    target: bytes,
    token: str = "",
    *,
    body: dict[str, Any] | None = None,
    what: str = "token",
) -> dict[str, Any]:
    """What OpenBao says of it. RequestRefused where it knows none, or not to this caller."""
    headers = ((b"x-vault-token", token.encode()),) if token else ()
    status, content = await fetch(
        services.upstream, target, headers, body=dump_object(body) if body is not None else None
    )
    if status in _REFUSALS:
        raise _foreign(what)
    if status != 200:
        raise UnavailableError(answers.unavailable(content))
    data = parse((status, content)).get("data")
    if not isinstance(data, dict):
        raise ProtocolError("OpenBao's answer to a lookup holds no data")
    return data


def _foreign(what: str) -> RequestRefused:
    return RequestRefused(
        403,
        f"permission denied: the {what} is not valid in this cluster's space",
        f"foreign_{what.replace(' ', '_')}",
    )


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
