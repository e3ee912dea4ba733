"""Key sets (JWKS) as the records hold them: each key with its thumbprint for people, and as PEM for OpenBao.

Pure. Used by `logins` and `accepting`. What a token is checked against is the bridge's own business.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloudtaser.errors import ProtocolError

Jwks = dict[str, Any]

_CURVES: Final[Mapping[str, type[ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}
_THUMBPRINT_OF: Final = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y")}  # RFC 7638, in its order


@dataclass(frozen=True, slots=True, order=True)
class SigningKey:
    """One public key. `thumbprint` is that of RFC 7638, base64url; `pem` its SubjectPublicKeyInfo."""

    kid: str
    thumbprint: str
    kind: str
    pem: str


def signing_keys(jwks: Mapping[str, Any]) -> tuple[SigningKey, ...]:
    """The keys of a recorded set, in the order of their names; ProtocolError if it holds anything else."""
    try:
        return tuple(sorted(_key(entry) for entry in jwks["keys"]))
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise ProtocolError("a recorded key set is damaged", on="JWKS") from None


def digest(jwks: Mapping[str, Any]) -> str:
    """`sha256:` and hex digits that stand for exactly this set, names and keys, in whatever order."""
    lines = "".join(f"{key.kid} {key.thumbprint}\n" for key in signing_keys(jwks))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _key(entry: Mapping[str, Any]) -> SigningKey:
    kind = str(entry["kty"])
    members = {name: str(entry[name]) for name in _THUMBPRINT_OF[kind]}
    canonical = json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
    public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    if kind == "RSA":
        public = rsa.RSAPublicNumbers(_number(members["e"]), _number(members["n"])).public_key()
    else:
        curve = _CURVES[members["crv"]]()
        numbers = ec.EllipticCurvePublicNumbers(_number(members["x"]), _number(members["y"]), curve)
        public = numbers.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return SigningKey(str(entry["kid"]), thumbprint, kind, pem)


def _number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")
