"""Tokens: who a Kubernetes ServiceAccount token speaks for, and whether it may be believed.

Used by `login` and `session` for pods and the operator, by `bootstrap` for a channel-bound token, by `keys`
to read a cluster's key set. Pure: key set and time are passed in. The algorithm is taken from the recorded
key's kind, never from the token alone, so `none` and the HMAC family have no key they could be checked with.
A refusal carries a reason; it never carries the token or a claim that the token makes.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from cloudtaser.errors import ProtocolError, RefusedError
from cloudtaser.wire.strict_json import parse_object

MAX_TOKEN: Final = 8192
"""Bytes of a whole token; the API server's own are about 1 KiB."""
MAX_KEYS: Final = 64
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
MAX_RSA_EXPONENT: Final = 2**32
"""With larger ones each verification takes milliseconds of all clusters' time."""
DEFAULT_LEEWAY: Final = 30.0

_MAX_HEADER: Final = 512
_SEGMENTS: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_DNS_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_UID: Final = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512"})
_CURVE_ALGORITHMS: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

PublicKey = RSAKey | ECKey


class Reason(enum.StrEnum):
    """Why a token is refused; the word that stands in the audit line."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_ISSUER = "wrong_issuer"
    WRONG_SUBJECT = "wrong_subject"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_KEY = "unknown_key"
    ALGORITHM = "algorithm"
    MALFORMED = "malformed"
    MISSING_CLAIM = "missing_claim"
    LONG_LIVED = "long_lived"


_EXPLAINED: Final = {
    Reason.EXPIRED: ("the token has expired", "read the projected token file again; compare the clocks"),
    Reason.NOT_YET_VALID: (
        "the token is not valid yet",
        "compare the clock of this host with that of the cluster",
    ),
    Reason.WRONG_AUDIENCE: (
        "the token is for another audience",
        "project it with this cluster's audience",
    ),
    Reason.WRONG_ISSUER: ("the token was issued by another cluster", "compare issuer and fingerprint"),
    Reason.WRONG_SUBJECT: ("the token belongs to another ServiceAccount", ""),
    Reason.BAD_SIGNATURE: ("the token's signature does not verify under the recorded key", ""),
    Reason.UNKNOWN_KEY: (
        "the token is signed with a key that is not recorded for this cluster",
        "after a change of the cluster's signing keys run `cloudtaser-cli source accept-keys`",
    ),
    Reason.ALGORITHM: ("the token's algorithm is not one of its recorded key", ""),
    Reason.MALFORMED: ("the token is not a signed ServiceAccount token", ""),
    Reason.MISSING_CLAIM: ("the token lacks a claim", "use a bound (projected) ServiceAccount token"),
    Reason.LONG_LIVED: ("the token lives longer than it may here", "have one made for ten minutes"),
}


class TokenRefused(RefusedError):
    """A token that is not believed, and why. `detail` names a claim, never its value."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        what, fix = _EXPLAINED[reason]
        super().__init__(f"{what}: {detail}" if detail else what, fix=fix)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """Whom a verified token speaks for. Pod fields are empty where no pod was required."""

    namespace: str
    serviceaccount: str
    pod_name: str
    pod_uid: str
    subject: str
    expires_at: float
    audience: str
    serviceaccount_uid: str = ""
    """Empty where the token does not say it."""


class KeySet:
    """A cluster's public signing keys by `kid`. Immutable; a changed set is a new object."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Mapping[str, tuple[PublicKey, frozenset[str]]] | None = None) -> None:
        self._keys = dict(keys or {})

    @classmethod
    def from_jwks(cls, document: Mapping[str, Any]) -> KeySet:
        """Keys of a JWKS document. Entries that cannot sign a ServiceAccount token are left out (symmetric,
        for encryption, without `kid`, too short). ProtocolError when the document is none, is longer than
        MAX_KEYS, or names one `kid` twice."""
        entries = document.get("keys")
        if not isinstance(entries, list):
            raise ProtocolError("the key set holds no list of keys", on="JWKS")
        if len(entries) > MAX_KEYS:
            raise ProtocolError(f"the key set holds more than {MAX_KEYS} keys", on="JWKS")
        keys: dict[str, tuple[PublicKey, frozenset[str]]] = {}
        for entry in entries:
            kid = entry.get("kid") if isinstance(entry, dict) else None
            if not isinstance(kid, str) or not 0 < len(kid) <= 256:
                continue
            if kid in keys:
                raise ProtocolError("the key set names one key twice", on="JWKS")
            usable = _public_key(entry)
            if usable is not None:
                keys[kid] = usable
        return cls(keys)

    @property
    def kids(self) -> frozenset[str]:
        """Names of the usable keys."""
        return frozenset(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, kid: str, alg: str) -> PublicKey:
        """The key named `kid`. TokenRefused when there is none (UNKNOWN_KEY) or it does not do `alg`."""
        found = self._keys.get(kid)
        if found is None:
            raise TokenRefused(Reason.UNKNOWN_KEY)
        key, algorithms = found
        if alg not in algorithms:
            raise TokenRefused(Reason.ALGORITHM)
        return key


def verify(
    token: str,
    *,
    keys: KeySet,
    issuer: str,
    audience: str,
    now: float,
    leeway: float = DEFAULT_LEEWAY,
    require_pod: bool = True,
    max_lifetime: float | None = None,
) -> PodIdentity:
    """Whom `token` speaks for. TokenRefused unless signature, issuer, audience (exactly this one), time
    (seconds since the epoch, `leeway` either way), subject and the bound claims of Kubernetes all hold, and
    it was made for `max_lifetime` seconds at most, where that is given."""
    claims = _verified_claims(token, keys)
    if not issuer or claims.get("iss") != issuer:
        raise TokenRefused(Reason.WRONG_ISSUER)
    if claims.get("aud") not in (audience, [audience]) or not audience:
        raise TokenRefused(Reason.WRONG_AUDIENCE)
    expires_at = _check_times(claims, now, leeway)
    if max_lifetime is not None and expires_at - _time(claims, "iat", required=True) > max_lifetime:
        raise TokenRefused(Reason.LONG_LIVED)
    namespace, serviceaccount, account_uid, pod_name, pod_uid = _bound_claims(claims, require_pod)
    subject = f"system:serviceaccount:{namespace}:{serviceaccount}"
    if claims.get("sub") != subject:
        raise TokenRefused(Reason.WRONG_SUBJECT)
    return PodIdentity(
        namespace, serviceaccount, pod_name, pod_uid, subject, expires_at, audience, account_uid
    )


def _public_key(entry: dict[str, Any]) -> tuple[PublicKey, frozenset[str]] | None:
    if entry.get("use", "sig") != "sig":
        return None
    public: dict[str, Any] = {
        name: entry[name] for name in ("kty", "n", "e", "crv", "x", "y", "kid") if name in entry
    }
    try:
        key, algorithms = _by_kind(public)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    declared = entry.get("alg")
    if declared is not None:
        algorithms &= {declared} if isinstance(declared, str) else set()
    return (key, frozenset(algorithms)) if algorithms else None


def _by_kind(public: dict[str, Any]) -> tuple[PublicKey, set[str]]:
    match public.get("kty"):
        case "RSA":
            if len(str(public["n"])) * 6 < MIN_RSA_BITS:
                raise ValueError("RSA key too short")
            rsa_key = RSAKey.import_key(public)
            number = rsa_key.public_key
            if not isinstance(number, rsa.RSAPublicKey) or number.key_size < MIN_RSA_BITS:
                raise ValueError("RSA key too short")
            if number.key_size > MAX_RSA_BITS or number.public_numbers().e > MAX_RSA_EXPONENT:
                raise ValueError("RSA key too large")
            return rsa_key, set(_RSA_ALGORITHMS)
        case "EC":
            ec_key = ECKey.import_key(public)
            point = ec_key.public_key
            if not isinstance(point, ec.EllipticCurvePublicKey):
                raise ValueError("not an EC key")
            return ec_key, {_CURVE_ALGORITHMS[point.curve.name]}
        case _:
            raise ValueError("not an asymmetric signing key")


def _verified_claims(token: str, keys: KeySet) -> dict[str, Any]:
    if len(token) > MAX_TOKEN or not _SEGMENTS.fullmatch(token):
        raise TokenRefused(Reason.MALFORMED)
    header = _json_segment(token.partition(".")[0], _MAX_HEADER)
    alg, kid = header.get("alg"), header.get("kid")
    if not isinstance(alg, str):
        raise TokenRefused(Reason.MALFORMED, "no `alg`")
    if alg.lower() == "none" or alg.upper().startswith("HS"):
        raise TokenRefused(Reason.ALGORITHM)
    if not isinstance(kid, str):
        raise TokenRefused(Reason.MALFORMED, "no `kid`")
    if "crit" in header or header.get("b64") is not None:
        raise TokenRefused(Reason.MALFORMED, "a critical header")
    key = keys.find(kid, alg)
    registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
    try:
        verified = jws.deserialize_compact(token, key, algorithms=[alg], registry=registry)
    except (JoseError, ValueError, TypeError):
        raise TokenRefused(Reason.BAD_SIGNATURE) from None
    try:
        return parse_object(verified.payload, what="a token's claims", limit=MAX_TOKEN)
    except ProtocolError:
        raise TokenRefused(Reason.MALFORMED) from None


def _json_segment(segment: str, limit: int) -> dict[str, Any]:
    try:
        data = base64.b64decode(segment + "=" * (-len(segment) % 4), b"-_", validate=True)
        return parse_object(data, what="a token's header", limit=limit)
    except (binascii.Error, ProtocolError):
        raise TokenRefused(Reason.MALFORMED) from None


def _check_times(claims: dict[str, Any], now: float, leeway: float) -> float:
    expires_at = _time(claims, "exp", required=True)
    if now >= expires_at + leeway:
        raise TokenRefused(Reason.EXPIRED)
    for name in ("nbf", "iat"):
        if _time(claims, name, required=False) > now + leeway:
            raise TokenRefused(Reason.NOT_YET_VALID)
    return expires_at


def _time(claims: dict[str, Any], name: str, *, required: bool) -> float:
    value = claims.get(name)
    if value is None:
        if required:
            raise TokenRefused(Reason.MISSING_CLAIM, f"`{name}`")
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        raise TokenRefused(Reason.MALFORMED, f"`{name}`")
    return float(value)


def _bound_claims(claims: dict[str, Any], require_pod: bool) -> tuple[str, str, str, str, str]:
    bound = claims.get("kubernetes.io")
    if not isinstance(bound, dict):
        raise TokenRefused(Reason.MISSING_CLAIM, "`kubernetes.io`")
    namespace = _matching(bound, "namespace", _DNS_NAME)
    account = bound.get("serviceaccount")
    if not isinstance(account, dict):
        raise TokenRefused(Reason.MISSING_CLAIM, "`serviceaccount`")
    serviceaccount = _matching(account, "name", _DNS_NAME)
    uid = account.get("uid")
    account_uid = uid if isinstance(uid, str) and _UID.fullmatch(uid) else ""
    pod = bound.get("pod")
    if pod is None and not require_pod:
        return namespace, serviceaccount, account_uid, "", ""
    if not isinstance(pod, dict):
        raise TokenRefused(Reason.MISSING_CLAIM, "`pod`")
    pod_name, pod_uid = _matching(pod, "name", _DNS_NAME), _matching(pod, "uid", _UID)
    return namespace, serviceaccount, account_uid, pod_name, pod_uid


def _matching(holder: dict[str, Any], name: str, form: re.Pattern[str]) -> str:
    value = holder.get(name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise TokenRefused(Reason.MISSING_CLAIM, f"`{name}`")
    return value
