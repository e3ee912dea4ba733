"""Logins: what a pod may send, what OpenBao gets, what is kept of the answer."""

from __future__ import annotations

import json

import pytest

from cloudtaser.bridge.login import build, identify, parse, read_answer, role_for, token_hash
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.tokens import KeySet, PodIdentity, Reason, TokenRefused
from cloudtaser.demo.tokens import PodReference, SigningKey, service_account_claims
from cloudtaser.wire.names import OPERATOR_SUBJECT

NOW = 1_800_000_000
KEY = SigningKey()
KEYS = KeySet.from_jwks({"keys": [KEY.public_jwk()]})
WEB = PodIdentity("shop", "web", "p", "u", "system:serviceaccount:shop:web", NOW, "a")


def signed(namespace: str, serviceaccount: str, audience: str, pod: PodReference | None) -> str:
    return KEY.sign(
        service_account_claims(
            issuer="https://k",
            namespace=namespace,
            service_account=serviceaccount,
            service_account_uid="u",
            audiences=[audience],
            issued_at=NOW,
            seconds=600,
            pod=pod,
        )
    )


def who(role: str, jwt: str, *, on_operator_stream: bool) -> PodIdentity:
    return identify(
        parse(json.dumps({"role": role, "jwt": jwt}).encode()),
        fp8="0ad50c05",
        keys=KEYS,
        issuer="https://k",
        operator=OPERATOR_SUBJECT,
        on_operator_stream=on_operator_stream,
        now=NOW,
    )


@pytest.mark.parametrize(
    ("body", "role"),
    [
        (b'{"jwt":"a.b.c"}', "default"),
        (b'{"role":"","jwt":"a.b.c"}', "default"),
        (b'{"role":null,"jwt":"a.b.c"}', "default"),
        (b' {"role":"shop_web","jwt":"a.b.c"}\n', "shop_web"),
    ],
)
def test_a_login_is_role_and_jwt(body: bytes, role: str) -> None:
    request = parse(body)
    assert (request.role, request.jwt) == (role, "a.b.c")
    assert "a.b.c" not in repr(request)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"jwt":""}',
        b'{"jwt":7}',
        b'{"jwt":"a.b.c","jwt":"d.e.f"}',
        b'{"jwt":"a.b.c","role":"a","role":"b"}',
        b'{"jwt":"a.b.c"} {}',
        b'{"jwt":"a.b.c","namespace":"cloudtaser/bbbbbbbb"}',
        b'{"jwt":"a.b.c","role":"../x"}',
        b'{"jwt":"a.b.c","role":["x"]}',
        b'{"JWT":"a.b.c"}',
        b"jwt=a.b.c",
        b'{"jwt":"' + b"a" * 9000 + b'"}',
        b'{"jwt":"a.b.c"' + b" " * 17000 + b"}",
        b'{"jwt":"\xff"}',
        b'{"jwt":"a.b.c","role":NaN}',
    ],
)
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(RequestRefused) as refused:
        parse(body)
    assert refused.value.status == 400
    assert "a.b.c" not in refused.value.diagnostic()


def test_the_default_role_becomes_the_most_specific_one_granted() -> None:
    assert role_for("default", WEB, {"shop_web", "shop_"}) == "shop_web"
    assert role_for("default", WEB, {"shop_", "other_web"}) == "shop_"
    assert role_for("default", WEB, {"other_web"}) == "default"
    assert role_for("shop_", WEB, {"shop_web"}) == "shop_"


def test_the_body_that_goes_on_holds_role_and_jwt_only() -> None:
    assert json.loads(build("shop_web", "a.b.c")) == {"role": "shop_web", "jwt": "a.b.c"}


def test_a_pod_is_who_its_token_says() -> None:
    jwt = signed("shop", "web", "cloudtaser:0ad50c05", PodReference("web-1", "uid-1"))
    for stream in (True, False):
        assert who("default", jwt, on_operator_stream=stream).pod_uid == "uid-1"


def test_the_operators_role_is_for_the_operator_on_its_own_stream() -> None:
    jwt = signed("cloudtaser-system", "cloudtaser-operator", "cloudtaser-operator:0ad50c05", None)
    assert who("cloudtaser-operator", jwt, on_operator_stream=True).subject == OPERATOR_SUBJECT
    with pytest.raises(RequestRefused):
        who("cloudtaser-operator", jwt, on_operator_stream=False)
    with pytest.raises(TokenRefused) as refused:
        who("default", jwt, on_operator_stream=True)
    assert refused.value.reason is Reason.WRONG_AUDIENCE
    other = signed("cloudtaser-system", "default", "cloudtaser-operator:0ad50c05", None)
    with pytest.raises(TokenRefused) as refused:
        who("cloudtaser-operator", other, on_operator_stream=True)
    assert refused.value.reason is Reason.WRONG_SUBJECT


def test_of_an_answer_only_a_hash_the_space_and_the_time_are_kept() -> None:
    token = "s.0123456789abcdefghijklmn.idAAAA"
    issued = read_answer(json.dumps({"auth": {"client_token": token, "lease_duration": 3600}}).encode())
    assert issued is not None
    assert issued.token_hash == token_hash(token)
    assert (issued.namespace_id, issued.lease_seconds) == ("idAAAA", 3600)
    assert token not in repr(issued)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"auth":null}', b'{"auth":{}}', b'{"auth":{"client_token":""}}', b'{"wrap_info":{}}'],
)
def test_an_answer_without_a_token_teaches_nothing(body: bytes) -> None:
    assert read_answer(body) is None
