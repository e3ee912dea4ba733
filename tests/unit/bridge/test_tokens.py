"""Which ServiceAccount tokens are believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from cloudtaser.bridge.tokens import MAX_KEYS, MAX_TOKEN, KeySet, Reason, TokenRefused, verify
from cloudtaser.demo.tokens import PodReference, SigningKey, service_account_claims
from cloudtaser.errors import ProtocolError

NOW = 1_800_000_000
ISSUER = "https://kubernetes.default.svc"
AUDIENCE = "cloudtaser:0ad50c05"
KEY = SigningKey()
OTHER = SigningKey()
KEYS = KeySet.from_jwks({"keys": [KEY.public_jwk()]})


def claims(**changes: Any) -> dict[str, Any]:
    made = service_account_claims(
        issuer=ISSUER,
        namespace="shop",
        service_account="web",
        service_account_uid="sa-uid",
        audiences=[AUDIENCE],
        issued_at=NOW,
        seconds=600,
        pod=PodReference("web-7d4b9", "0f0f0f0f-0000-4000-8000-000000000001"),
    )
    made.update(changes)
    return {name: value for name, value in made.items() if value is not ...}


def reason(token: str, **settings: Any) -> Reason:
    arguments: dict[str, Any] = {"keys": KEYS, "issuer": ISSUER, "audience": AUDIENCE, "now": NOW} | settings
    with pytest.raises(TokenRefused) as refused:
        verify(token, **arguments)
    assert len(token) < 20 or token not in refused.value.diagnostic()
    return refused.value.reason


def segment(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_bound_pod_token_is_believed() -> None:
    identity = verify(KEY.sign(claims()), keys=KEYS, issuer=ISSUER, audience=AUDIENCE, now=NOW)
    assert (identity.namespace, identity.serviceaccount) == ("shop", "web")
    assert (identity.pod_name, identity.pod_uid) == ("web-7d4b9", "0f0f0f0f-0000-4000-8000-000000000001")
    assert identity.subject == "system:serviceaccount:shop:web"
    assert identity.expires_at == NOW + 600
    assert identity.audience == AUDIENCE


def test_an_audience_written_as_text_is_the_same_audience() -> None:
    verify(KEY.sign(claims(aud=AUDIENCE)), keys=KEYS, issuer=ISSUER, audience=AUDIENCE, now=NOW)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"aud": ["cloudtaser:ffffffff"]}, Reason.WRONG_AUDIENCE),
        ({"aud": [AUDIENCE, "https://kubernetes.default.svc"]}, Reason.WRONG_AUDIENCE),
        ({"aud": [AUDIENCE + "x"]}, Reason.WRONG_AUDIENCE),
        ({"aud": []}, Reason.WRONG_AUDIENCE),
        ({"aud": ...}, Reason.WRONG_AUDIENCE),
        ({"iss": "https://evil"}, Reason.WRONG_ISSUER),
        ({"iss": ISSUER + "/"}, Reason.WRONG_ISSUER),
        ({"iss": ...}, Reason.WRONG_ISSUER),
        ({"exp": NOW - 30}, Reason.EXPIRED),
        ({"exp": ...}, Reason.MISSING_CLAIM),
        ({"exp": "9999999999"}, Reason.MALFORMED),
        ({"exp": True}, Reason.MALFORMED),
        ({"exp": 1e300}, Reason.MALFORMED),
        ({"nbf": NOW + 31}, Reason.NOT_YET_VALID),
        ({"iat": NOW + 31}, Reason.NOT_YET_VALID),
        ({"nbf": []}, Reason.MALFORMED),
        ({"sub": "system:serviceaccount:shop:admin"}, Reason.WRONG_SUBJECT),
        ({"sub": ...}, Reason.WRONG_SUBJECT),
        ({"kubernetes.io": ...}, Reason.MISSING_CLAIM),
        ({"kubernetes.io": "x"}, Reason.MISSING_CLAIM),
        ({"kubernetes.io": {"namespace": "shop"}}, Reason.MISSING_CLAIM),
        ({"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web"}}}, Reason.MISSING_CLAIM),
        (
            {"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web"}, "pod": {"name": "p"}}},
            Reason.MISSING_CLAIM,
        ),
        (
            {"kubernetes.io": {"namespace": "shop_x", "serviceaccount": {"name": "web"}, "pod": {}}},
            Reason.MISSING_CLAIM,
        ),
        (
            {"kubernetes.io": {"namespace": "../x", "serviceaccount": {"name": "web"}, "pod": {}}},
            Reason.MISSING_CLAIM,
        ),
    ],
)
def test_a_wrong_or_missing_claim_is_refused_by_its_name(changes: dict[str, Any], expected: Reason) -> None:
    assert reason(KEY.sign(claims(**changes))) is expected


def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    def at(now: float, token: str) -> None:
        verify(token, keys=KEYS, issuer=ISSUER, audience=AUDIENCE, now=now)

    token = KEY.sign(claims())
    at(NOW - 30, token)
    at(NOW + 600 + 29.9, token)
    assert reason(token, now=NOW - 30.5) is Reason.NOT_YET_VALID
    assert reason(token, now=NOW + 630) is Reason.EXPIRED


def test_no_issuer_and_no_audience_match_nothing() -> None:
    assert reason(KEY.sign(claims(iss="")), issuer="") is Reason.WRONG_ISSUER
    assert reason(KEY.sign(claims(aud=[""])), audience="") is Reason.WRONG_AUDIENCE


def test_the_pod_is_optional_for_the_operator_only_when_asked_for() -> None:
    bound = {"namespace": "cloudtaser-system", "serviceaccount": {"name": "cloudtaser-operator"}}
    token = KEY.sign(
        claims(sub="system:serviceaccount:cloudtaser-system:cloudtaser-operator", **{"kubernetes.io": bound})
    )
    identity = verify(token, keys=KEYS, issuer=ISSUER, audience=AUDIENCE, now=NOW, require_pod=False)
    assert (identity.pod_name, identity.serviceaccount) == ("", "cloudtaser-operator")
    assert reason(token) is Reason.MISSING_CLAIM


def test_another_clusters_key_is_unknown_even_under_the_right_kid() -> None:
    assert reason(OTHER.sign(claims())) is Reason.UNKNOWN_KEY
    assert reason(OTHER.sign(claims(), header={"kid": KEY.kid})) is Reason.BAD_SIGNATURE
    assert reason(KEY.sign(claims()), keys=KeySet()) is Reason.UNKNOWN_KEY


def test_a_key_in_the_tokens_own_header_counts_for_nothing() -> None:
    forged = OTHER.sign(claims(), header={"kid": KEY.kid, "jku": "https://evil", "jwk": {"kty": "RSA"}})
    assert reason(forged) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "HS256", "HS384", "hs512"])
def test_none_and_shared_secrets_are_no_algorithms(alg: str) -> None:
    head = segment({"alg": alg, "kid": KEY.kid})
    body = segment(claims())
    public = RSAKey.import_key(KEY.public_jwk()).raw_value
    assert isinstance(public, rsa.RSAPublicKey)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    mac = segment(hmac.digest(pem, f"{head}.{body}".encode(), hashlib.sha256))
    assert reason(f"{head}.{body}.{mac}") is Reason.ALGORITHM
    assert reason(f"{head}.{body}.") is Reason.MALFORMED


@pytest.mark.parametrize("alg", ["RS384", "PS256", "ES256", "XX", ""])
def test_an_algorithm_that_the_recorded_key_does_not_declare_is_refused(alg: str) -> None:
    token = KEY.sign(claims())
    forged = segment({"alg": alg, "kid": KEY.kid}) + token[token.index(".") :]
    assert reason(forged) is Reason.ALGORITHM


def test_elliptic_curve_keys_do_their_own_curve_only() -> None:
    key = ECKey.generate_key("P-256", {"kid": "ec"})
    keys = KeySet.from_jwks({"keys": [key.as_dict(private=False)]})
    token = jws.serialize_compact({"alg": "ES256", "kid": "ec"}, json.dumps(claims()), key)
    assert verify(token, keys=keys, issuer=ISSUER, audience=AUDIENCE, now=NOW).namespace == "shop"
    forged = segment({"alg": "ES384", "kid": "ec"}) + token[token.index(".") :]
    assert reason(forged, keys=keys) is Reason.ALGORITHM


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "RS256"},
        {"kid": KEY.kid},
        {"alg": "RS256", "kid": 1},
        {"alg": ["RS256"], "kid": KEY.kid},
        {"alg": "RS256", "kid": KEY.kid, "crit": ["b64"], "b64": False},
        {"alg": "RS256", "kid": KEY.kid, "b64": True},
        [],
    ],
)
def test_a_header_without_algorithm_or_key_or_with_extensions_is_malformed(header: object) -> None:
    token = KEY.sign(claims())
    assert reason(segment(header) + token[token.index(".") :]) is Reason.MALFORMED


def test_changed_claims_and_cut_signatures_do_not_verify() -> None:
    head, _, signature = KEY.sign(claims()).split(".")
    assert (
        reason(f"{head}.{segment(claims(sub='system:serviceaccount:shop:admin'))}.{signature}")
        is Reason.BAD_SIGNATURE
    )
    body = KEY.sign(claims()).split(".")[1]
    assert reason(f"{head}.{body}.{signature[:-8]}") is Reason.BAD_SIGNATURE


@pytest.mark.parametrize(
    "token", ["", "a", "a.b", "a.b.c.d", "..", "a.b.c=", " a.b.c", "a.b.c\n", "ä.b.c", "a+.b.c"]
)
def test_what_is_no_token_is_malformed(token: str) -> None:
    assert reason(token) is Reason.MALFORMED


def test_a_token_beyond_the_bound_is_not_even_read() -> None:
    assert reason(KEY.sign(claims(padding="x" * MAX_TOKEN))) is Reason.MALFORMED


def test_claims_that_two_parsers_could_read_differently_are_malformed() -> None:
    key = RSAKey.generate_key(2048, {"kid": "twice"})
    keys = KeySet.from_jwks({"keys": [key.as_dict(private=False)]})
    double = json.dumps(claims())[:-1] + ',"sub":"system:serviceaccount:shop:admin"}'
    assert (
        reason(jws.serialize_compact({"alg": "RS256", "kid": "twice"}, double, key), keys=keys)
        is Reason.MALFORMED
    )


@given(st.text(max_size=200))
def test_no_text_makes_verification_fail_in_another_way(text: str) -> None:
    with pytest.raises(TokenRefused):
        verify(text, keys=KEYS, issuer=ISSUER, audience=AUDIENCE, now=NOW)


def test_unusable_keys_are_left_out() -> None:
    good = KEY.public_jwk()
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key().public_numbers().n
    document = {
        "keys": [
            good,
            {"kty": "oct", "kid": "oct", "k": "c2VjcmV0"},
            {**good, "kid": "enc", "use": "enc"},
            {**good, "kid": "hs", "alg": "HS256"},
            {name: value for name, value in good.items() if name != "kid"},
            {"kty": "RSA", "kid": "short", "n": segment(short.to_bytes(128, "big")), "e": "AQAB"},
            {"kty": "RSA", "kid": "long", "n": segment(b"\xc3" * 1536), "e": "AQAB"},
            {**good, "kid": "slow", "e": segment(b"\xc3" * 16)},
            {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
            {"kty": "EC", "kid": "curve", "crv": "secp256k1", "x": "AA", "y": "AA"},
            "text",
        ]
    }
    assert KeySet.from_jwks(document).kids == {KEY.kid}


@pytest.mark.parametrize(
    "document",
    [{}, {"keys": {}}, {"keys": [KEY.public_jwk(), KEY.public_jwk()]}, {"keys": [{}] * (MAX_KEYS + 1)}],
)
def test_a_document_that_is_no_key_set_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        KeySet.from_jwks(document)
