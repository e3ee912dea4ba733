"""Minting: for which policies the operator may have a pod's token made.

Used by `calls` for requests at the token role of pods. The role lets any name that begins like a grant's
through, and OpenBao makes a token for a policy that does not exist with a mere warning: so what is asked for
is narrowed here to what an administrator granted, as it is recorded. Pure.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.openbao.layout import POD_POLICY_PREFIX, POD_TOKEN_ROLE

PATH: Final = f"auth/token/create/{POD_TOKEN_ROLE}"
_MOST: Final = 16


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
