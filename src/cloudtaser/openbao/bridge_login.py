"""Bridge logins: let a bridge get its tokens itself, by AppRole or by a TLS certificate.

Used by `cloudtaser-cli source bridge-login`, in place of `bridge-token`. The tokens that such a login gives
carry the same policies, are periodic of one hour and bound to addresses where they are given.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509

from cloudtaser.errors import UsageError
from cloudtaser.openbao.bridge_token import ensure_bridge_policies, networks
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import open_layout
from cloudtaser.openbao.layout import Layout, bridge_policy_name, check_bridge_id
from cloudtaser.openbao.roles import PERIOD_SECONDS
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import check_fingerprint

APPROLE: Final = "approle"
CERT: Final = "cert"


@dataclass(frozen=True, slots=True)
class BridgeLogin:
    """A role to log in under, at `auth/<mount>` of `namespace`. For AppRole with its id and a new secret id
    (empty in a dry run)."""

    bridge_id: str
    namespace: str
    mount: str
    role: str
    role_id: str
    secret_id: Secret
    policies: tuple[str, ...]
    cidrs: tuple[str, ...]
    actions: tuple[Action, ...]


async def make_bridge_login(
    client: OpenBao,
    bridge_id: str,
    *,
    certificate_pem: str = "",
    cidrs: Sequence[str] = (),
    clusters: Sequence[str] = (),
    dry_run: bool = False,
    layout: Layout | None = None,
) -> BridgeLogin:
    """A login for one bridge: by `certificate_pem`, exactly that one or what an authority of it signs, where
    given, else by AppRole. Secret ids made for it earlier go on working."""
    check_bridge_id(bridge_id)
    for fingerprint in clusters:
        check_fingerprint(fingerprint)
    bound = networks(cidrs)
    if certificate_pem:
        _check_certificate(certificate_pem)
    detected, _ = await open_layout(client)
    layout = layout or detected
    steps = Steps(client, dry_run)
    where, role = layout.system_namespace, bridge_policy_name(bridge_id)
    names = await ensure_bridge_policies(steps, layout, bridge_id, clusters)
    settings: dict[str, Any] = {
        "token_policies": names,
        "token_period": PERIOD_SECONDS,
        "token_no_default_policy": True,
        "token_bound_cidrs": bound,
    }
    role_id, secret_id = "", ""
    if certificate_pem:
        mount = CERT
        await steps.mount(where, f"auth/{mount}", "cert", "bridges log in here")
        body = settings | {"certificate": certificate_pem, "display_name": role}
        await steps.ensure(where, f"auth/{mount}/certs/{role}", body, f"how bridge {bridge_id} logs in")
    else:
        mount = APPROLE
        await steps.mount(where, f"auth/{mount}", "approle", "bridges log in here")
        # here OpenBao wants a single host with its length
        sources = [str(ipaddress.ip_network(network)) for network in bound]
        body = settings | {"bind_secret_id": True, "secret_id_bound_cidrs": sources}
        path = f"auth/{mount}/role/{role}"
        await steps.ensure(where, path, body, f"how bridge {bridge_id} logs in")
        found = await steps.find(where, f"{path}/role-id")
        role_id = str((found or {}).get("role_id", ""))
        made = await steps.do("POST", where, f"{path}/secret-id", "make a secret id", {})
        secret_id = str((made.get("data") or {}).get("secret_id", ""))
    return BridgeLogin(
        bridge_id=bridge_id,
        namespace=where,
        mount=mount,
        role=role,
        role_id=role_id,
        secret_id=Secret(secret_id),
        policies=tuple(names),
        cidrs=tuple(bound),
        actions=tuple(steps.actions),
    )


def _check_certificate(pem: str) -> None:
    try:
        x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise UsageError(
            "that is no certificate", on="--certificate", fix="give a file with one in PEM"
        ) from None
