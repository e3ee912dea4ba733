"""Logins: open with the cluster's recorded signing keys, or closed with a key that nobody holds.

Used by `suspension`, `reset` and `moving`. The registration says which of the two; whoever changes it brings
OpenBao in step and looks at the registration again afterwards. So of two administrators who suspend and
resume at once the one whose word is recorded last has the last word in OpenBao too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.client import Json
from cloudtaser.openbao.jwks import signing_keys
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.records import Records, Registered
from cloudtaser.openbao.steps import Steps

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""What a cluster may sign with."""
_KEYS: Final = "jwt_validation_pubkeys"
_TIMES: Final = 8  # administrators who change their minds at once


async def settle(steps: Steps, records: Records, space: Space, recorded: Registered) -> str | None:
    """Have OpenBao's logins as the registration says, as it is now: the key that they are closed with, or
    None when they are open."""
    for _ in range(_TIMES):
        closed_with = None
        if recorded.suspended:
            closed_with = await close(steps, space)
        else:
            await reopen(steps, records, space, recorded.fingerprint)
        now = await records.registered(recorded.fingerprint)
        if steps.dry_run or now is None or now.suspended == recorded.suspended:
            return closed_with
        recorded = now
    raise CloudtaserError(
        "the cluster is being suspended and resumed over and over",
        on=recorded.fingerprint,
        fix="run it again",
    )


async def close(steps: Steps, space: Space) -> str:
    """Have OpenBao accept no login, by a key (PEM) whose private part is forgotten here and now. What is
    there is not looked at: nobody vouches for a key that is found."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    why = "accept no login: nobody holds this key"
    await steps.do("POST", space.namespace, space.login_config, why, {_KEYS: [pem]})
    return pem


async def still_closed(steps: Steps, space: Space, closed_with: str) -> bool:
    """Whether nobody has touched the logins since `close`: a bridge that had not seen the record yet may have
    let the cluster's keys in again for a moment, and somebody may have logged in with them."""
    current = await steps.find(space.namespace, space.login_config) or {}
    return steps.dry_run or _public(current.get(_KEYS) or ()) == _public([closed_with])


async def reopen(steps: Steps, records: Records, space: Space, fingerprint: str) -> None:
    """Have OpenBao check logins with the recorded keys; before the first initialisation there are none."""
    wanted = await login_settings(records, fingerprint)
    if wanted is None:
        return
    why = "accept logins signed with the cluster's own keys"
    await steps.ensure(space.namespace, space.login_config, wanted, why, holds=holds)


async def login_settings(records: Records, fingerprint: str) -> Json | None:
    """What OpenBao is to check logins with; None before the first initialisation."""
    initialized = await records.initialized(fingerprint)
    if initialized is None:
        return None
    keys, _ = await records.keys(fingerprint)
    jwks = keys.jwks if keys is not None else initialized.keys
    return {
        _KEYS: [key.pem for key in signing_keys(jwks)],
        "bound_issuer": initialized.issuer,
        "jwt_supported_algs": list(ALGORITHMS),
    }


def holds(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether OpenBao checks logins as `wanted`: with the same keys, however they are written."""
    same = _public(current.get(_KEYS) or ()) == _public(wanted[_KEYS])
    rest = ("bound_issuer", "jwt_supported_algs")
    return same and all((current.get(name) or []) == (wanted[name] or []) for name in rest)


def _public(pems: Sequence[str]) -> frozenset[bytes]:
    found = set()
    for pem in pems:
        try:
            key = load_pem_public_key(pem.encode())
        except ValueError:
            found.add(pem.encode())
        else:
            found.add(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return frozenset(found)
