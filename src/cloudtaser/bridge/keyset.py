"""What may be done with a set of signing keys: keep the public part, compare two sets, write them as PEM.

Used by `bootstrap`, which records the first set of a cluster, and by `keys`, which reads later ones. Pure; to
check a token against a set is for `tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, RSAKey

from cloudtaser.bridge.tokens import KeySet, PublicKey
from cloudtaser.errors import ProtocolError

Jwks = dict[str, Any]

_KINDS: Final[Mapping[str, type[RSAKey] | type[ECKey]]] = {"RSA": RSAKey, "EC": ECKey}
_PUBLIC: Final = ("kty", "kid", "alg", "use", "n", "e", "crv", "x", "y")


def normalise(document: Mapping[str, Any]) -> Jwks:
    """The usable keys of a JWKS document, public members only, in the order of their `kid`.

    ProtocolError when the document is none, or holds no key that could verify a ServiceAccount token.
    """
    kids = KeySet.from_jwks(document).kids
    if not kids:
        raise ProtocolError("the key set holds no key that can sign a ServiceAccount token", on="JWKS")
    entries = [entry for entry in document["keys"] if isinstance(entry, dict) and entry.get("kid") in kids]
    public = [{name: entry[name] for name in _PUBLIC if name in entry} for entry in entries]
    return {"keys": sorted(public, key=lambda entry: str(entry["kid"]))}


def fingerprints(jwks: Mapping[str, Any]) -> frozenset[str]:
    """Each usable key as its `kid` and RFC 7638 thumbprint: the same name alone is not the same key."""
    return frozenset(f"{kid}:{key.thumbprint()}" for kid, key in _keys(jwks).items())


def pems(jwks: Mapping[str, Any]) -> list[str]:
    """The usable keys as PEM (SubjectPublicKeyInfo), as OpenBao's `jwt_validation_pubkeys` takes them."""
    return sorted(key.as_pem(private=False).decode("ascii") for key in _keys(jwks).values())


def nobodys_pem() -> str:
    """A public key whose private part is forgotten at once: no token verifies under it."""
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both hold exactly the same keys under the same names."""
    return fingerprints(one) == fingerprints(other)


def continues(recorded: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `new` still holds a recorded key, as an ordinary rotation does (spec/wire.md, "Keys of the
    cluster"). A set without one must be confirmed by a person."""
    return bool(fingerprints(recorded) & fingerprints(new))


def _keys(jwks: Mapping[str, Any]) -> dict[str, PublicKey]:
    return {entry["kid"]: _KINDS[entry["kty"]].import_key(entry) for entry in normalise(jwks)["keys"]}
