"""What the gate lets through, and in which words."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloudtaser.bridge.admin_rules import DEFAULT, AdminRules
from cloudtaser.bridge.gate import judge
from cloudtaser.bridge.verdict import Allowed, Kind, Pin, Refused

PIN = Pin("cloudtaser/aaaaaaaa", "idAAAA")
OPERATOR = Pin("cloudtaser/aaaaaaaa", "idAAAA", operator=True)
OWN = b"s.0123456789abcdefghijklmn.idAAAA"
FOREIGN = b"s.0123456789abcdefghijklmn.idBBBB"
JWT = b"eyJh.eyJi.c2ln"

Headers = list[tuple[bytes, bytes]]


def allowed(method: bytes, target: bytes, headers: Headers | None = None, pin: Pin = PIN) -> Allowed:
    verdict = judge(method, target, headers or [], pin)
    assert isinstance(verdict, Allowed), verdict
    return verdict


def refused(method: bytes, target: bytes, headers: Headers | None = None, pin: Pin = PIN) -> Refused:
    verdict = judge(method, target, headers or [], pin)
    assert isinstance(verdict, Refused), verdict
    return verdict


@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [
        (b"GET", b"/v1/secret/data/shop/db", Kind.FORWARD),
        (b"POST", b"/v1/secret/data/shop/db", Kind.FORWARD),
        (b"PUT", b"/v1/transit/decrypt/key", Kind.FORWARD),
        (b"PATCH", b"/v1/secret/data/shop/db", Kind.FORWARD),
        (b"DELETE", b"/v1/secret/data/shop/db", Kind.FORWARD),
        (b"LIST", b"/v1/secret/metadata/shop", Kind.FORWARD),
        (b"SCAN", b"/v1/secret/metadata", Kind.FORWARD),
        (b"GET", b"/v1/database/creds/reader", Kind.FORWARD),
        (b"GET", b"/v1/secret/data/auth/sys/identity", Kind.FORWARD),
        (b"POST", b"/v1/auth/jwt/login", Kind.LOGIN),
        (b"PUT", b"/v1/auth/jwt/login", Kind.LOGIN),
        (b"GET", b"/v1/auth/token/lookup-self", Kind.FORWARD),
        (b"PUT", b"/v1/auth/token/renew-self", Kind.INSPECT),
        (b"PUT", b"/v1/auth/token/revoke-self", Kind.INSPECT),
        (b"POST", b"/v1/auth/token/create/cloudtaser-pod", Kind.INSPECT),
        (b"POST", b"/v1/auth/token/renew-accessor", Kind.INSPECT),
        (b"POST", b"/v1/auth/token/revoke-accessor", Kind.INSPECT),
        (b"PUT", b"/v1/sys/wrapping/unwrap", Kind.INSPECT),
        (b"POST", b"/v1/sys/wrapping/lookup", Kind.INSPECT),
        (b"PUT", b"/v1/sys/leases/renew", Kind.INSPECT),
        (b"PUT", b"/v1/sys/leases/lookup", Kind.INSPECT),
        (b"POST", b"/v1/sys/capabilities-self", Kind.INSPECT),
        (b"GET", b"/v1/sys/internal/ui/mounts", Kind.FORWARD),
        (b"GET", b"/v1/sys/internal/ui/mounts/secret/shop", Kind.FORWARD),
        (b"GET", b"/v1/sys/health", Kind.HEALTH),
        (b"GET", b"/v1/sys/health?standbyok=true", Kind.HEALTH),
        (b"GET", b"/v1/sys/seal-status", Kind.SEAL_STATUS),
    ],
)
def test_what_is_listed_passes_with_its_method_and_path(method: bytes, target: bytes, kind: Kind) -> None:
    verdict = allowed(method, target, [(b"x-vault-token", OWN)])
    assert verdict.kind is kind
    assert verdict.method == method
    assert verdict.target == target.partition(b"?")[0]


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/sys/mounts",
        b"/v1/sys/policies/acl/x",
        b"/v1/sys/namespaces/bbbbbbbb",
        b"/v1/sys/seal",
        b"/v1/sys/leases/revoke",
        b"/v1/sys/leases/renew/database/creds/x/id",
        b"/v1/sys/tools/random",
        b"/v1/sys/wrapping/wrap",
        b"/v1/sys/wrapping/rewrap",
        b"/v1/sys/raw/core/x",
        b"/v1/sys/storage/raft/snapshot",
        b"/v1/sys/internal/ui/namespaces",
        b"/v1/sys/internal/ui/mountsx",
        b"/v1/sys/healthx",
        b"/v1/sys",
        b"/v1/identity/entity/id/x",
        b"/v1/cubbyhole/response",
        b"/v1/pki-tunnel/sign/bridge",
        b"/v1/pki-pod/issue/bridge-pod",
        b"/v1/auth/jwt/config",
        b"/v1/auth/jwt/role/default",
        b"/v1/auth/jwt/login/x",
        b"/v1/auth/userpass/login",
        b"/v1/auth/token/create",
        b"/v1/auth/token/create-orphan",
        b"/v1/auth/token/create/other",
        b"/v1/auth/token/lookup",
        b"/v1/auth/token/lookup-accessor",
        b"/v1/auth/token/accessors",
        b"/v1/auth/login",
        b"/v1/shared/data/x",
        b"/v1/cloudtaser/secret/data/x",
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST", b"LIST", b"DELETE"])
def test_what_is_not_listed_is_refused(method: bytes, target: bytes) -> None:
    assert refused(method, target, [(b"x-vault-token", OWN)]).status in (403, 404, 405)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (b"/v1/secret/%2e%2e/sys/mounts", "path_segments"),
        (b"/v1/secret/x/", "path_segments"),
        (b"/v1//", "path_segments"),
        (b"/v1/secret/a%3Flist=true", "path_characters"),
        (b"/v1/secret/a;b", "path_bytes"),
        (b"/ui/", "not_v1"),
        (b"/v1/secret/x?namespace=b", "query_refused"),
        (b"/v1/secret/x?a=%zz", "query_bytes"),
        (b"/v1/secret/x?list=yes", "query_listing"),
        (b"/v1/sys/internal/ui/mounts?x=1", "query_refused"),
        (b"/v1/sys/internal/ui/mounts?list=true", "method"),
        (b"/v1/auth/token/accessors?list=true", "not_listed"),
        (b"/v1/secret/" + b"a" * 5000, "target_too_long"),
    ],
)
def test_a_target_that_has_no_one_reading_is_refused(target: bytes, reason: str) -> None:
    assert refused(b"GET", target).reason == reason


def test_a_listing_asked_for_in_the_query_is_judged_and_sent_as_the_method() -> None:
    verdict = allowed(b"GET", b"/v1/secret/metadata/?scan=1&after=a%2Fb")
    assert (verdict.method, verdict.target) == (b"SCAN", b"/v1/secret/metadata?after=a%2Fb")


def test_an_encoded_slash_is_judged_and_sent_as_the_slash_that_openbao_reads() -> None:
    assert refused(b"GET", b"/v1/sys%2Fmounts").reason == "not_listed"
    assert refused(b"GET", b"/v1/%73ys/mounts").reason == "not_listed"
    assert allowed(b"GET", b"/v1/secret%2Fdata%2fx").target == b"/v1/secret/data/x"


def test_the_path_is_encoded_anew() -> None:
    assert allowed(b"GET", b"/v1/secret/data/%C3%A9%20%41").target == b"/v1/secret/data/%C3%A9%20A"


def test_a_directory_may_be_written_with_its_slash_where_it_is_listed() -> None:
    assert allowed(b"LIST", b"/v1/secret/metadata/shop/").target == b"/v1/secret/metadata/shop"
    assert refused(b"LIST", b"/v1/secret/metadata//").reason == "path_segments"
    assert refused(b"LIST", b"/v1/sys/").reason == "not_listed"


@pytest.mark.parametrize(
    "method", [b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"get", b"PURGE", b"", b"GET "]
)
def test_other_methods_are_refused(method: bytes) -> None:
    verdict = refused(method, b"/v1/secret/data/x")
    assert (verdict.status, verdict.reason) == (405, "method")


@pytest.mark.parametrize(
    "target", [b"/v1/sys/wrapping/unwrap", b"/v1/auth/jwt/login", b"/v1/sys/leases/renew"]
)
@pytest.mark.parametrize("method", [b"GET", b"LIST", b"DELETE", b"PATCH"])
def test_listed_calls_take_their_own_method_only(method: bytes, target: bytes) -> None:
    assert refused(method, target).status == 405


def test_only_listed_headers_are_written_and_the_namespace_is_the_tunnels() -> None:
    sent = [
        (b"host", b"evil"),
        (b"x-vault-namespace", b"cloudtaser/bbbbbbbb"),
        (b"x-vault-namespace", b"../bbbbbbbb"),
        (b"x-vault-token", OWN),
        (b"x-vault-wrap-ttl", b"5m"),
        (b"x-vault-wrap-format", b"jwt"),
        (b"x-vault-inline-auth-path", b"auth/jwt/login"),
        (b"x-vault-no-request-forwarding", b"true"),
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"content-type", b"application/json"),
        (b"content-length", b"7"),
        (b"transfer-encoding", b"chunked"),
        (b"accept", b"application/json"),
        (b"cookie", b"a=b"),
        (b"connection", b"x-vault-namespace"),
        (b"x-correlation-id", b"4bf92f35"),
    ]
    verdict = allowed(b"GET", b"/v1/secret/data/x", sent)
    assert verdict.correlation == "4bf92f35"
    assert sorted(verdict.headers) == [
        (b"accept", b"application/json"),
        (b"content-type", b"application/json"),
        (b"x-vault-namespace", b"cloudtaser/aaaaaaaa"),
        (b"x-vault-request", b"true"),
        (b"x-vault-token", OWN),
        (b"x-vault-wrap-ttl", b"5m"),
    ]


def test_a_bearer_token_becomes_the_vault_token() -> None:
    headers = allowed(b"GET", b"/v1/secret/data/x", [(b"authorization", b"bearer " + OWN)]).headers
    assert (b"x-vault-token", OWN) in headers
    assert all(name != b"authorization" for name, _ in headers)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-vault-token", OWN), (b"x-vault-token", OWN)],
        [(b"x-vault-token", OWN), (b"authorization", b"Bearer " + OWN)],
        [(b"authorization", b"Basic abc")],
        [(b"authorization", b"Bearer " + OWN + b" x")],
        [(b"x-vault-wrap-ttl", b"5m"), (b"x-vault-wrap-ttl", b"6m")],
        [(b"x-vault-wrap-ttl", b"-1")],
        [(b"content-type", b"a\tb")],
        [(b"x-correlation-id", b"a b")],
        [(b"accept", b"\xff")],
    ],
)
def test_ambiguous_or_odd_headers_are_refused(headers: Headers) -> None:
    assert refused(b"GET", b"/v1/secret/data/x", headers).status == 400


@pytest.mark.parametrize(
    "token",
    [
        FOREIGN,
        b"s.0123456789abcdefghijklmn",
        b"root",
        b"b.AAAAAQLZ96awLtgNnN6HDW7sCAKClWaQRfhtcPIA.idBBBB",
        b"s.x.idBBBB.idAAAA",
        b"s.x.idAAAA.idBBBB",
        b"s.x.idAAAA.",
        b"s..idAAAA",
        b".idAAAA",
        b"s.x/y.idAAAA",
        b"s.x.idaaaa",
        JWT,
        b"eyJh.eyJi.idAAAA",
        b"s.\xff.idAAAA",
        b"s.x.idAAAA\r\nx: y",
    ],
)
@pytest.mark.parametrize("header", ["token", "bearer"])
def test_a_token_of_any_other_space_is_refused(token: bytes, header: str) -> None:
    given_header = (b"x-vault-token", token) if header == "token" else (b"authorization", b"Bearer " + token)
    verdict = refused(b"GET", b"/v1/secret/data/x", [given_header])
    assert verdict.status in (400, 403)
    assert token.decode("latin-1") not in verdict.message


def test_a_token_before_the_spaces_id_is_known_is_marked_unproven() -> None:
    pin = Pin("cloudtaser/aaaaaaaa", None)
    assert allowed(b"GET", b"/v1/secret/data/x", [(b"x-vault-token", OWN)], pin).unproven
    assert not allowed(b"GET", b"/v1/secret/data/x", [], pin).unproven
    assert not allowed(b"POST", b"/v1/auth/jwt/login", [(b"x-vault-token", OWN)], pin).unproven
    assert refused(b"GET", b"/v1/secret/data/x", [(b"x-vault-token", b"root")], pin).reason == "token_form"


def test_a_login_carries_no_token_on_and_its_body_is_the_bridges() -> None:
    sent = [(b"x-vault-token", FOREIGN), (b"content-type", b"application/x-www-form-urlencoded")]
    headers = allowed(b"POST", b"/v1/auth/jwt/login", sent).headers
    assert (b"content-type", b"application/json") in headers
    assert all(name != b"x-vault-token" for name, _ in headers)


def test_logins_are_let_through_at_declared_mounts_only() -> None:
    pin = Pin("n", "i", login_mounts=frozenset({"kubernetes", "team/jwt"}))
    assert allowed(b"POST", b"/v1/auth/kubernetes/login", pin=pin).kind is Kind.LOGIN
    assert allowed(b"POST", b"/v1/auth/team/jwt/login", pin=pin).kind is Kind.LOGIN
    assert refused(b"POST", b"/v1/auth/jwt/login", pin=pin).reason == "not_listed"


def test_the_reviewers_token_is_taken_on_operator_streams_alone() -> None:
    sent = [(b"authorization", b"Bearer " + JWT)]
    verdict = allowed(b"PUT", b"/v1/cloudtaser/reviewer", sent, OPERATOR)
    assert (verdict.kind, verdict.token) == (Kind.REVIEWER, JWT.decode())
    assert all(JWT not in value for _, value in verdict.headers)
    assert refused(b"PUT", b"/v1/cloudtaser/reviewer", sent).status == 404
    assert refused(b"GET", b"/v1/cloudtaser/reviewer", sent, OPERATOR).status == 404
    assert refused(b"GET", b"/v1/cloudtaser/data/system/x", sent, OPERATOR).status == 404


def test_the_operators_certificates_are_signed_on_operator_streams_alone() -> None:
    sent = [(b"authorization", b"Bearer " + JWT)]
    target = b"/v1/cloudtaser/operator-certificates"
    verdict = allowed(b"POST", target, sent, OPERATOR)
    assert (verdict.kind, verdict.token) == (Kind.OPERATOR_CERTIFICATES, JWT.decode())
    assert all(JWT not in value for _, value in verdict.headers)
    assert refused(b"POST", target, sent).status == 404
    assert refused(b"GET", target, sent, OPERATOR).status == 405


@pytest.mark.parametrize("pin", [PIN, OPERATOR])
def test_which_pod_ca_comes_next_is_told_to_whoever_asks_and_no_token_goes_anywhere(pin: Pin) -> None:
    verdict = allowed(b"GET", b"/v1/cloudtaser/pod-ca", [(b"x-vault-token", FOREIGN)], pin)
    assert (verdict.kind, verdict.token) == (Kind.POD_CA, "")
    for method, path in (
        (b"PUT", b"/v1/cloudtaser/pod-ca"),
        (b"GET", b"/v1/cloudtaser/pod-ca?x=1"),
        (b"GET", b"/v1/cloudtaser/pod-ca/x"),
        (b"LIST", b"/v1/cloudtaser"),
    ):
        assert refused(method, path, [], pin).status in (400, 404, 405)


def test_shared_is_refused_with_the_way_out() -> None:
    assert "copy the secret" in refused(b"GET", b"/v1/shared/data/x").message


def test_a_token_in_a_path_is_not_in_the_refusal() -> None:
    """Older calls of OpenBao take it there; they are refused, and the refusal is logged."""
    for token in (
        "s.0123456789abcdefghijklmn.idAAAA",
        "hvs.CAESIJ0123456789abcdef",
        "eyJhbGciOi.eyJhdWQi.c2ln",
    ):
        for path in (f"auth/token/renew/{token}", f"sys/wrapping/unwrap/{token}", f"secret/data/{token}/x"):
            verdict = judge(b"POST", f"/v1/{path}".encode(), (), PIN)
            assert isinstance(verdict, Allowed) or token not in verdict.message


TARGETS = st.one_of(
    st.binary(max_size=60).map(lambda raw: b"/v1/" + raw),
    st.lists(
        st.sampled_from(
            b"secret data sys auth .. . %2e %2f %25 %00 x ?".split(b" ")
            + b"list=true cubbyhole identity %73ys \\ \xff %c3%a9 ;".split(b" ")
            + [b""]
        ),
        max_size=8,
    ).flatmap(
        lambda parts: st.sampled_from([b"/", b"", b"%2F"]).map(lambda glue: b"/v1/" + glue.join(parts))
    ),
)
HEADER_NAMES = st.sampled_from([b"x-vault-namespace", b"x-vault-token", b"authorization", b"accept", b"host"])


@given(
    st.sampled_from([b"GET", b"LIST", b"POST", b"DELETE"]),
    TARGETS,
    st.lists(st.tuples(HEADER_NAMES, st.binary(max_size=40)), max_size=5),
)
@example(b"GET", b"/v1/secret/%2e%2e/x", [])
def test_whatever_comes_in_what_goes_out_has_one_reading(
    method: bytes, target: bytes, headers: Headers
) -> None:
    verdict = judge(method, target, headers, PIN)
    if isinstance(verdict, Refused):
        assert verdict.status >= 400
        return
    path, _, query = verdict.target.partition(b"?")
    assert path.startswith(b"/v1/")
    assert all(0x20 < byte < 0x7F for byte in verdict.target)
    decoded = unquote_to_bytes(path)
    assert decoded.decode() == "/v1/" + verdict.path
    segments = decoded[4:].split(b"/")
    assert not {b"", b".", b".."} & set(segments)
    assert not set(decoded) & set(b"%\\;?#\x00\r\n\x7f")
    if segments[0] in (b"sys", b"auth", b"identity", b"cubbyhole"):
        assert verdict.path in ("sys/health", "sys/seal-status") or verdict.kind is not Kind.FORWARD
    assert b"list" not in [pair.partition(b"=")[0] for pair in query.split(b"&")]
    names = [name for name, _ in verdict.headers]
    assert len(names) == len(set(names))
    assert dict(verdict.headers)[b"x-vault-namespace"] == b"cloudtaser/aaaaaaaa"
    assert all(b"\r" not in value and b"\n" not in value for _, value in verdict.headers)
    if token := dict(verdict.headers).get(b"x-vault-token"):
        assert token.endswith(b".idAAAA")


JWT = b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln"
ADMIN = Pin("cloudtaser/aaaaaaaa", "idAAAA", admin=DEFAULT)
BEARER = (b"authorization", b"Bearer " + JWT)


def test_a_migration_is_one_call_with_one_token_and_no_query() -> None:
    verdict = judge(b"POST", b"/migrate", [BEARER, (b"x-vault-namespace", b"root")], ADMIN)
    assert isinstance(verdict, Allowed)
    assert verdict.kind is Kind.MIGRATE
    assert verdict.token == JWT.decode()
    assert JWT not in b"".join(value for _, value in verdict.headers)
    assert (b"x-vault-namespace", b"cloudtaser/aaaaaaaa") in verdict.headers


@pytest.mark.parametrize("pin", [PIN, OPERATOR])
@pytest.mark.parametrize("target", [b"/migrate", b"/v1/migrate", b"/v1/cloudtaser/migrate"])
def test_elsewhere_there_is_no_such_call(pin: Pin, target: bytes) -> None:
    verdict = judge(b"POST", target, [BEARER], pin)
    assert isinstance(verdict, Refused)
    assert verdict.status in (403, 404)


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        (b"GET", b"/migrate", [BEARER], 405),
        (b"PUT", b"/migrate", [BEARER], 405),
        (b"DELETE", b"/migrate", [BEARER], 405),
        (b"POST", b"/migrate?list=true", [BEARER], 404),
        (b"POST", b"/migrate/", [BEARER], 404),
        (b"POST", b"/MIGRATE", [BEARER], 404),
        (b"POST", b"/%6digrate", [BEARER], 404),
        (b"POST", b"//migrate", [BEARER], 404),
        (b"POST", b"/v1/../migrate", [BEARER], 400),
        (b"POST", b"/migrate", [], 401),
        (b"POST", b"/migrate", [(b"authorization", b"Bearer ")], 400),
        (b"POST", b"/migrate", [(b"authorization", b"Basic YTpi")], 400),
        (b"POST", b"/migrate", [(b"x-vault-token", JWT)], 401),
        (b"POST", b"/migrate", [(b"x-vault-token", b"s.abcdefghijklmnopqrstuvwx.idAAAA")], 401),
        (b"POST", b"/migrate", [BEARER, (b"x-vault-token", JWT)], 400),
        (b"POST", b"/migrate", [BEARER, BEARER], 400),
    ],
)
def test_a_migration_that_could_be_read_in_another_way_is_refused(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], status: int
) -> None:
    verdict = judge(method, target, headers, ADMIN)
    assert isinstance(verdict, Refused), verdict
    assert verdict.status == status


def test_an_administrators_own_token_reads_what_no_pods_does() -> None:
    token = (b"x-vault-token", b"s.abcdefghijklmnopqrstuvwx.idAAAA")
    for target in (b"/v1/sys/mounts", b"/v1/sys/policies/acl/x", b"/v1/sys/auth"):
        assert isinstance(judge(b"GET", target, [token], ADMIN), Allowed)
        assert isinstance(judge(b"PUT", target, [token], ADMIN), Refused)
        for pin in (PIN, OPERATOR):
            assert isinstance(judge(b"GET", target, [token], pin), Refused)


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/sys/raw/x",
        b"/v1/sys/seal",
        b"/v1/sys/namespaces",
        b"/v1/sys/mountsx",
        b"/v1/sys/wrapping/wrap",
        b"/v1/identity/entity",
        b"/v1/cubbyhole/x",
        b"/v1/pki-pod/root/generate/internal",
        b"/v1/pki-tunnel/cert/ca",
        b"/v1/auth/jwt/login",
        b"/v1/auth/jwt/config",
        b"/v1/auth/token/create",
        b"/v1/cloudtaser/reviewer",
        b"/v1/shared/data/x",
    ],
)
def test_the_rest_of_openbao_is_not_behind_an_admin_stream(target: bytes) -> None:
    token = (b"x-vault-token", b"s.abcdefghijklmnopqrstuvwx.idAAAA")
    for method in (b"GET", b"PUT", b"POST", b"LIST"):
        assert isinstance(judge(method, target, [token], ADMIN), Refused)


@pytest.mark.parametrize(
    "token",
    [b"s.abcdefghijklmnopqrstuvwx", b"s.abcdefghijklmnopqrstuvwx.idBBBB", b"root", JWT, b"s.x.y.idAAAA"],
)
def test_on_an_admin_stream_too_only_the_spaces_own_tokens_pass(token: bytes) -> None:
    verdict = judge(b"GET", b"/v1/secret/data/shop/db", [(b"x-vault-token", token)], ADMIN)
    assert isinstance(verdict, Refused)
    assert verdict.status == 403


def test_pods_do_not_log_in_on_an_admin_stream_whatever_is_let_through() -> None:
    wide = Pin("cloudtaser/aaaaaaaa", "idAAAA", admin=AdminRules.parse("auth/*:write"))
    assert isinstance(judge(b"POST", b"/v1/auth/userpass/login/ann", [], wide), Allowed)
    assert isinstance(judge(b"POST", b"/v1/auth/jwt/login", [], wide), Refused)
