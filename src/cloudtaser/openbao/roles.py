"""Roles: how a space's logins and tokens are bound, as settings for OpenBao.

Pure. Used by `registration` and `grants`. Durations are in seconds. Tokens are periodic (renewed by whoever
holds them, dead an hour after he stops) and come without OpenBao's `default` policy.
"""

from __future__ import annotations

from typing import Any, Final

from cloudtaser.openbao.layout import Space
from cloudtaser.wire.names import OPERATOR_SUBJECT, operator_audience, pod_audience

PERIOD_SECONDS: Final = 3600
_LEEWAY_SECONDS: Final = 30
_NAMESPACE_CLAIM: Final = "/kubernetes.io/namespace"
_SERVICE_ACCOUNT_CLAIM: Final = "/kubernetes.io/serviceaccount/name"


def default_role(space: Space, fp8: str) -> dict[str, Any]:
    """Any pod of the cluster."""
    return _pod_role(fp8, [space.default_policy], {})


def granted_role(space: Space, fp8: str, namespace: str, service_account: str) -> dict[str, Any]:
    """The pods of one namespace and ServiceAccount ("" for any): what they were granted, what the namespace
    was granted, and what every pod may."""
    own, any_of = space.pod_policy(namespace, service_account), space.pod_policy(namespace, "")
    names = {own, any_of, space.default_policy}
    bound = {_NAMESPACE_CLAIM: namespace}
    if service_account:
        bound[_SERVICE_ACCOUNT_CLAIM] = service_account
    return _pod_role(fp8, sorted(names), bound)


def operator_role(space: Space, fp8: str) -> dict[str, Any]:
    """The cluster's operator, by its own token."""
    return _role(operator_audience(fp8), [space.operator_policy]) | {
        "bound_subject": OPERATOR_SUBJECT,
        "bound_claims": {},
        "claim_mappings": {},
    }


def pod_token_role(space: Space) -> dict[str, Any]:
    """Under which the operator makes tokens for sealed pods."""
    return {
        "orphan": True,
        "renewable": True,
        "token_period": PERIOD_SECONDS,
        "token_no_default_policy": True,
        "allowed_policies_glob": [f"{space.pod_policies}*"],
    }


def bridge_token_role(policies: list[str], cidrs: list[str]) -> dict[str, Any]:
    """Under which one bridge's token is made: an orphan, from those addresses only."""
    return {
        "orphan": True,
        "renewable": True,
        "token_period": PERIOD_SECONDS,
        "token_no_default_policy": True,
        "allowed_policies": policies,
        "token_bound_cidrs": cidrs,
    }


def _pod_role(fp8: str, policies: list[str], bound_claims: dict[str, str]) -> dict[str, Any]:
    return _role(pod_audience(fp8), policies) | {
        "bound_subject": "",
        "bound_claims": bound_claims,
        # the names under which the default policy's template finds them
        "claim_mappings": {_NAMESPACE_CLAIM: "namespace", _SERVICE_ACCOUNT_CLAIM: "serviceaccount"},
    }


def _role(audience: str, policies: list[str]) -> dict[str, Any]:
    return {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": [audience],
        "bound_claims_type": "string",
        "clock_skew_leeway": _LEEWAY_SECONDS,
        "expiration_leeway": _LEEWAY_SECONDS,
        "not_before_leeway": _LEEWAY_SECONDS,
        "token_policies": policies,
        "token_period": PERIOD_SECONDS,
        "token_no_default_policy": True,
    }
