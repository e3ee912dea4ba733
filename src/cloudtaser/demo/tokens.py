"""Bound ServiceAccount tokens, as a Kubernetes API server signs them.

Used by the stand-in API server (`apiserver`) and by tests that need a token which a real cluster would not
give out (expired, of another cluster, without a pod).
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import RSAKey

ALGORITHM = "RS256"


@dataclass(frozen=True, slots=True)
class PodReference:
    """The pod that a token is bound to."""

    name: str
    uid: str


class SigningKey:
    """One ServiceAccount signing key; `kid` as Kubernetes makes it: base64url(SHA-256(SPKI DER))."""

    def __init__(self) -> None:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        spki = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.kid = base64.urlsafe_b64encode(hashlib.sha256(spki).digest()).rstrip(b"=").decode()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._key = RSAKey.import_key(pem, {"kid": self.kid, "alg": ALGORITHM, "use": "sig"})

    def public_jwk(self) -> dict[str, Any]:
        """The key's entry in `/openid/v1/jwks`."""
        return dict(self._key.as_dict(private=False))

    def sign(self, claims: dict[str, Any], *, header: dict[str, Any] | None = None) -> str:
        """A compact JWS of `claims`."""
        protected = {"alg": ALGORITHM, "kid": self.kid} | (header or {})
        return jwt.encode(protected, claims, self._key, algorithms=[str(protected["alg"])])


def service_account_claims(
    *,
    issuer: str,
    namespace: str,
    service_account: str,
    service_account_uid: str,
    audiences: Sequence[str],
    issued_at: int,
    seconds: int,
    pod: PodReference | None = None,
) -> dict[str, Any]:
    """Claims of a bound token in the form of Kubernetes 1.30 (times in whole seconds since the epoch)."""
    bound: dict[str, Any] = {
        "namespace": namespace,
        "serviceaccount": {"name": service_account, "uid": service_account_uid},
    }
    if pod is not None:
        bound["pod"] = {"name": pod.name, "uid": pod.uid}
    return {
        "aud": list(audiences),
        "exp": issued_at + seconds,
        "iat": issued_at,
        "nbf": issued_at,
        "iss": issuer,
        "jti": str(uuid.uuid4()),
        "kubernetes.io": bound,
        "sub": f"system:serviceaccount:{namespace}:{service_account}",
    }
