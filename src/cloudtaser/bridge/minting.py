"""Minting: for which policies the operator may have a pod's token made, and whose such a token is.

Used by `calls` for requests at the token role of pods, by `response` for what OpenBao says of a token. The
role lets any name that begins like a grant's through, and OpenBao makes a token for a policy that does not
exist with a mere warning: so what is asked for is narrowed here to what an administrator granted, as it is
recorded. Pure.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.tokens import PodIdentity
from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.layout import POD_POLICY_PREFIX, POD_TOKEN_ROLE
from cloudtaser.wire.strict_json import parse_object

PATH: Final = f"auth/token/create/{POD_TOKEN_ROLE}"
_CREATED: Final = "auth/token/create/"
_META: Final = ("namespace", "serviceaccount", "pod", "pod_uid")
_MOST: Final = 16
_MAX_ANSWER: Final = 64 * 1024


def narrow(
    fields: dict[str, Any], granted: Container[str], fingerprint: str, prefix: str = POD_POLICY_PREFIX
) -> dict[str, Any]:
    """The same with those policies alone whose role is among the `granted`; `prefix` is how the names of this
    cluster's grants begin. RequestRefused when that leaves none, with the command that would grant something;
    404, which OpenBao itself does not answer here."""
    asked = fields.get("policies")
    if not isinstance(asked, list) or not 0 < len(asked) <= _MOST:
        raise RequestRefused(400, f"a pod's token is made for up to {_MOST} policies", "body_field")
    if not all(isinstance(name, str) and name.startswith(prefix) for name in asked):
        raise RequestRefused(400, f"a pod's policies begin with {POD_POLICY_PREFIX}", "body_field")
    recorded = [name for name in asked if name.removeprefix(prefix) in granted]
    if not recorded:
        namespace, _, account = asked[0].removeprefix(prefix).partition("_")
        whose = f"--namespace {namespace[:80]}" + (f" --serviceaccount {account[:80]}" if account else "")
        raise RequestRefused(
            404,
            f"nothing is granted to namespace {namespace[:80]}, ServiceAccount {account[:80] or 'any'}; run "
            f"`cloudtaser-cli source allow {fingerprint} {whose} --path PATH`",
            "no_grant",
        )
    return {**fields, "policies": recorded}


def holder(lookup: bytes, now: float) -> PodIdentity | None:
    """Whom a token was minted for, by OpenBao's answer to its look at itself, which every unsealed wrapper
    takes; None for a token of a login, whose holder said who it is."""
    try:
        data = parse_object(lookup, what="a token's data", limit=_MAX_ANSWER).get("data")
    except ProtocolError:
        return None
    data = data if isinstance(data, dict) else {}
    meta = data.get("meta")
    if not str(data.get("path")).startswith(_CREATED) or not isinstance(meta, dict):
        return None
    namespace, account, pod, uid = (str(meta.get(name) or "") for name in _META)
    if not (namespace and account and pod and uid):
        return None
    ttl = data.get("ttl")
    ends = now + float(ttl if isinstance(ttl, int) else 0)
    return PodIdentity(namespace, account, pod, uid, f"system:serviceaccount:{namespace}:{account}", ends, "")
