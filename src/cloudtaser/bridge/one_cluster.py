"""One cluster without a registry: its records where there are any, else what its space says of itself.

Used by `service` in place of `Records` when certificates are given in files. A cluster that is registered is
served by its records, like any other, and is dropped when its registration is taken back. One that never was
is served from files and from the space's login: the keys that OpenBao checks tokens with are the cluster's
(spec/bridge.md, beacon mode).
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from joserfc.jwk import ECKey, RSAKey

from cloudtaser.bridge import keyset
from cloudtaser.bridge.files import FilePairs
from cloudtaser.bridge.keys import KeyKeeper
from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.client import Json, OpenBao
from cloudtaser.openbao.errors import NotFoundError, PermissionDenied
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.records import Grants, Initialized, Keys, Records, Registered, Revoked
from cloudtaser.wire.hashes import init_room
from cloudtaser.wire.names import OPERATOR_SUBJECT

LONG_AGO: Final = "1970-01-01T00:00:00Z"


class OneCluster(Records):
    """The records of the cluster that the files name; `given` while there are none."""

    def __init__(self, client: OpenBao, layout: Layout, files: FilePairs) -> None:
        super().__init__(client, layout)
        self._files = files
        self._seen_registered = False
        self._given: Registered | None = None
        self._issuer = ""
        self._keys: Keys | None = None
        self._version = 0

    async def clusters(self) -> list[str]:
        """The one; nothing is listed."""
        return [self._files.fingerprint]

    async def registered_version(self, fingerprint: str) -> tuple[Registered | None, int]:
        """The registration; without one what takes its place; None when it was taken back."""
        try:
            recorded, version = await super().registered_version(fingerprint)
        except PermissionDenied:
            if self._seen_registered:
                raise
            recorded, version = None, 0  # the token is for a bridge without a registry
        if recorded is not None:
            self._seen_registered, self._given = True, None
            self._check(recorded)
            return recorded, version
        self._given = None if self._seen_registered else await self._from_space(fingerprint)
        return self._given, 0

    async def initialized(self, fingerprint: str) -> Initialized | None:
        """Without a registration as if long ago: nobody initialises such a cluster."""
        if self._given is None:
            return await super().initialized(fingerprint)
        return Initialized(LONG_AGO, "", {"keys": []}, self._issuer, "", OPERATOR_SUBJECT, "")

    async def keys(self, fingerprint: str) -> tuple[Keys | None, int]:
        """The keys of the space's login."""
        return await super().keys(fingerprint) if self._given is None else (self._keys, self._version)

    async def revoked_version(self, fingerprint: str) -> tuple[Revoked, int]:
        """None are revoked where the token is for a bridge without a registry."""
        try:
            return await super().revoked_version(fingerprint)
        except PermissionDenied:
            if self._given is None:
                raise
            return Revoked(), 0

    async def grants_version(self, fingerprint: str) -> tuple[Grants, int]:
        """Likewise: the default role is left."""
        try:
            return await super().grants_version(fingerprint)
        except PermissionDenied:
            if self._given is None:
                raise
            return Grants(), 0

    def _check(self, recorded: Registered) -> None:
        """ProtocolError when the files are of a CA that the registration does not know."""
        former = recorded.former_tunnel_ca
        known = [recorded.tunnel_ca, *([former.pem] if former is not None else [])]
        ours = self._files.pairs.tunnel_ca_der
        if not recorded.suspended and all(_der(pem) != ours for pem in known):
            raise ProtocolError(
                "the files are of another tunnel CA than the registration",
                on="--tls-ca",
                fix="write them anew with `source pairs` and start the bridge with the hash that it prints",
            )

    async def _from_space(self, fingerprint: str) -> Registered | None:
        space = self._layout.space(fingerprint)
        login = await self._client.find(space.login_config, namespace=space.namespace)
        if login is None:
            if self._given is not None:
                return None  # it was taken away
            raise ProtocolError(
                "the cluster has neither a registration nor a login",
                on=f"{space.namespace}/{space.login_config}".lstrip("/"),
                fix=f"run `cloudtaser-cli source register --fingerprint {fingerprint} --pregenerate`",
            )
        self._take(login, space)
        pairs = self._files.pairs
        return Registered(
            fingerprint=fingerprint,
            created_at="",
            created_by="",
            expires_at=LONG_AGO,
            init_room=init_room(fingerprint).hex(),
            info_hash=hashlib.sha256(pairs.tunnel_ca_der).hexdigest(),
            tunnel_ca=pairs.tunnel_ca,
            pod_ca=await self._pod_ca(space),
            space=space.name,
            namespace=space.namespace,
            operator_subject=OPERATOR_SUBJECT,
        )

    def _take(self, login: Json, space: Space) -> None:
        """Issuer and keys of the login. ProtocolError when it has none, as with keys that OpenBao fetches."""
        pems = login.get("jwt_validation_pubkeys") or []
        self._issuer = str(login.get("bound_issuer") or "")
        if not pems or not self._issuer:
            raise ProtocolError(
                "the login has no keys and issuer of the cluster",
                on=f"{space.namespace}/{space.login_config}".lstrip("/"),
                fix="set jwt_validation_pubkeys and bound_issuer there, or register the cluster",
            )
        jwks = keyset.normalise({"keys": [jwk_of(str(pem)) for pem in pems]})
        if self._keys is None or not keyset.same(self._keys.jwks, jwks):
            self._keys = Keys(jwks, LONG_AGO, "")
            self._version += 1

    async def _pod_ca(self, space: Space) -> str:
        """The CA of the pods' certificate: in OpenBao, or behind the certificate in its file."""
        leaf, *behind = self._files.pairs.pod_certificates
        path = f"{space.pki_pod}/cert/ca"
        try:
            found = await self._client.find(path, namespace=space.namespace)
            pem = str((found or {}).get("certificate", ""))
            candidates = [x509.load_pem_x509_certificate(pem.encode())] if pem else []
        except (PermissionDenied, NotFoundError, ValueError):
            candidates = []
        for ca in (*candidates, *behind):
            try:
                leaf.verify_directly_issued_by(ca)
            except Exception:  # noqa: BLE001, S112  # whatever a stranger put there: it is not that CA
                continue
            return ca.public_bytes(Encoding.PEM).decode()
        raise ProtocolError(
            "the pod CA of the pods' certificate is not known",
            on="--pod-cert",
            fix="put it behind the certificate in that file, or register the cluster",
        )


class GivenKeys(KeyKeeper):
    """Keys that OpenBao's login holds already: nothing is written there, and no API server is asked."""

    async def _install(self) -> None:
        self._installed = self._recorded

    def _start_reading(self) -> None:
        return


def jwk_of(pem: str) -> dict[str, Any]:
    """A public key (PEM) as a JWK, under the name that Kubernetes gives it: base64url of the SHA-256 of its
    SubjectPublicKeyInfo. ProtocolError when it is no RSA or EC key."""
    try:
        key = load_pem_public_key(pem.encode("ascii"))
    except ValueError:
        raise ProtocolError("a key of the login cannot be read") from None
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    kid = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    text = pem.encode("ascii")
    if isinstance(key, rsa.RSAPublicKey):
        return {**RSAKey.import_key(text).as_dict(private=False), "kid": kid}
    if isinstance(key, ec.EllipticCurvePublicKey):
        return {**ECKey.import_key(text).as_dict(private=False), "kid": kid}
    raise ProtocolError("a key of the login is neither RSA nor EC")


def _der(pem: str) -> bytes:
    try:
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    except ValueError:
        return b""
