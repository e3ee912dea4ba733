"""Bodies: the small requests of OpenBao that name a token, an accessor or a lease.

Used by `session` for what `gate` marks INSPECT. OpenBao unwraps a token of any namespace in any namespace, so
what such a body names must belong to the pinned space, and the body that goes on is written here, from an
allow-list of fields. Pure.
"""

from __future__ import annotations

import re
from typing import Any, Final

from cloudtaser.bridge import mounted
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.token_forms import foreign
from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.layout import POD_TOKEN_ROLE, Space
from cloudtaser.wire.strict_json import dump_object, parse_object

MAX_INSPECTED: Final = 16384

_IDENTIFIERS: Final = frozenset({"token", "accessor", "lease_id"})
_IDENTIFIER_FORM: Final = re.compile(r"[A-Za-z0-9._/-]{1,4608}", re.ASCII)
_FIELDS: Final[dict[str, frozenset[str]]] = {
    "auth/token/renew-self": frozenset({"increment", "token"}),
    "auth/token/revoke-self": frozenset({"token"}),
    f"auth/token/create/{POD_TOKEN_ROLE}": frozenset(
        {
            "policies",
            "meta",
            "ttl",
            "explicit_max_ttl",
            "period",
            "display_name",
            "num_uses",
            "renewable",
            "type",
            "no_default_policy",
            "no_parent",
        }
    ),
    "auth/token/renew-accessor": frozenset({"accessor"}),
    "auth/token/revoke-accessor": frozenset({"accessor"}),
    "sys/wrapping/unwrap": frozenset({"token"}),
    "sys/wrapping/lookup": frozenset({"token"}),
    "sys/leases/renew": frozenset({"lease_id", "increment"}),
    "sys/leases/lookup": frozenset({"lease_id"}),
    "sys/capabilities-self": frozenset({"path", "paths", "token"}),
}


def rewrite(path: str, body: bytes, namespace_id: str | None, space: Space | None = None) -> bytes:
    """The body to send to `path` instead of `body`. RequestRefused when it is no strict JSON object, holds a
    field that is not let through, or names a token, accessor or lease of another space. `space` is given on a
    server without namespaces, where only a lease shows whose it is; tokens and accessors are then for the
    caller to look up."""
    return dump_object(read(path, body, namespace_id, space))


def read(path: str, body: bytes, namespace_id: str | None, space: Space | None = None) -> dict[str, Any]:
    """What `rewrite` writes, as fields."""
    if not body.strip():
        return {}
    try:
        fields = parse_object(body, what="the body", limit=MAX_INSPECTED)
    except ProtocolError as error:
        raise RequestRefused(400, error.what, "body_form") from None
    allowed = _FIELDS[path]
    written: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in allowed:
            raise RequestRefused(400, f"/v1/{path} takes no field {name[:64]!r} here", "body_field")
        if name in _IDENTIFIERS:
            if value in (None, ""):
                continue
            _check_identifier(name, value, namespace_id, mounted_in_root=space is not None)
        written[name] = value
    return written if space is None else mounted.body(space, path, written)


def _check_identifier(
    name: str, value: object, namespace_id: str | None, *, mounted_in_root: bool = False
) -> None:
    if not isinstance(value, str) or not _IDENTIFIER_FORM.fullmatch(value):
        raise RequestRefused(400, f"the field {name!r} holds no {name}", "body_field")
    if namespace_id is None:
        raise RequestRefused(
            503, "this bridge has not seen a login of the cluster yet; try again", "space_unknown"
        )
    if not mounted_in_root and foreign(value, namespace_id):
        what = f"permission denied: the {name} belongs to another space"
        raise RequestRefused(403, what, f"foreign_{name}")
