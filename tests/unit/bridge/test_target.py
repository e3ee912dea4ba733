"""A request's path and query: one reading each, and written anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.bridge.target import (
    as_listing,
    read_path,
    read_query,
    shown,
    without_trailing_slash,
    write_target,
)


def refusal(read: Callable[..., object], *given: object) -> RequestRefused:
    with pytest.raises(RequestRefused) as error:
        read(*given)
    return error.value


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (b"/v1/secret/../sys/mounts", "path_segments"),
        (b"/v1/secret/./x", "path_segments"),
        (b"/v1//sys/mounts", "path_segments"),
        (b"/v1/secret//x", "path_segments"),
        (b"/v1/", "path_segments"),
        (b"/v1//", "path_segments"),
        (b"/v1/secret/%2e%2e/sys/mounts", "path_segments"),
        (b"/v1/secret/%2E%2E%2Fsys/mounts", "path_segments"),
        (b"/v1/secret/.%2e/x", "path_segments"),
        (b"/v1/secret%2F%2Fx", "path_segments"),
        (b"/v1/secret/%252e%252e/sys", "path_characters"),
        (b"/v1/secret/%00", "path_characters"),
        (b"/v1/secret/a%0ab", "path_characters"),
        (b"/v1/secret/a%7Fb", "path_characters"),
        (b"/v1/secret/a%c2%85b", "path_characters"),
        (b"/v1/secret/a%5c..%5cb", "path_characters"),
        (b"/v1/secret/a%3Bb", "path_characters"),
        (b"/v1/secret/a%3Flist=true", "path_characters"),
        (b"/v1/secret/a%23b", "path_characters"),
        (b"/v1/secret/%ff%fe", "path_not_utf8"),
        (b"/v1/secret/%c0%ae%c0%ae/x", "path_not_utf8"),
        (b"/v1/secret/a;b", "path_bytes"),
        (b"/v1/secret/a#b", "path_bytes"),
        (b"/v1/secret/a\\b", "path_bytes"),
        (b"/v1/secret/\xc3\xa9", "path_bytes"),
        (b"/v1/secret/%zz", "path_bytes"),
        (b"/v1/secret/%2", "path_bytes"),
        (b"/v1/secret/a b", "path_bytes"),
        (b"/v2/secret/x", "not_v1"),
        (b"/ui/", "not_v1"),
        (b"v1/secret/x", "not_v1"),
        (b"http://openbao/v1/secret/x", "not_v1"),
        (b"*", "not_v1"),
        (b"", "not_v1"),
        (b"/V1/secret/x", "not_v1"),
    ],
)
def test_a_path_that_could_be_read_in_two_ways_is_refused(target: bytes, reason: str) -> None:
    assert refusal(read_path, target).reason == reason


def test_a_slash_at_the_end_is_left_to_whoever_asks_for_a_directory() -> None:
    assert read_path(b"/v1/secret/metadata/") == "secret/metadata/"
    assert without_trailing_slash("secret/metadata/", b"LIST") == "secret/metadata"
    assert without_trailing_slash("secret/metadata/", b"SCAN") == "secret/metadata"
    assert refusal(without_trailing_slash, "secret/data/x/", b"GET").reason == "path_segments"


def test_list_and_scan_queries_are_the_methods_in_other_words() -> None:
    assert as_listing(b"GET", {"list": "true"}) == b"LIST"
    assert as_listing(b"LIST", {"list": "true"}) == b"LIST"
    assert as_listing(b"GET", {"list": "false"}) == b"GET"
    assert as_listing(b"POST", {"x": "1"}) == b"POST"
    queries = {"scan": "1", "after": "a/b", "limit": "5"}
    assert as_listing(b"GET", queries) == b"SCAN"
    assert queries == {"after": "a/b", "limit": "5"}
    for method, query in (
        (b"GET", b"list=true&scan=true"),
        (b"GET", b"list=yes"),
        (b"GET", b"list="),
        (b"GET", b"list=TRUE"),
        (b"POST", b"list=true"),
        (b"SCAN", b"list=true"),
    ):
        assert refusal(as_listing, method, read_query(query)).reason == "query_listing"
    assert refusal(read_query, b"list=true&list=false").status == 400


def test_queries_are_written_anew_and_only_plain_ones() -> None:
    for query, written in (
        (b"version=3", b"/v1/kv/x?version=3"),
        (b"", b"/v1/kv/x"),
        (b"a=b+c&&d=e%26f", b"/v1/kv/x?a=b%20c&d=e%26f"),
    ):
        assert write_target("kv/x", read_query(query)) == written
    for query in (b"help=1", b"namespace=cloudtaser/bbbbbbbb", b"Namespace=x", b"%6eamespace=x"):
        assert refusal(read_query, query).reason == "query_refused"
    for query in (b"a=1;b=2", b"a=\xff", b"a=%zz", b"a=#"):
        assert refusal(read_query, query).reason == "query_bytes"
    assert refusal(read_query, b"a=%0d%0a").reason == "query_characters"
    assert refusal(read_query, b"a=1&%61=2").reason == "query_duplicate"
    assert refusal(read_query, b"a=%ff").reason == "query_not_utf8"
    token = refusal(read_query, b"token=s.0123456789abcdefghijklmn.idAAAA")
    assert token.reason == "token_in_query"
    assert "0123456789" not in token.diagnostic()
    assert refusal(read_query, b"&".join(b"a%d=1" % i for i in range(40))).status == 400


def test_a_path_is_encoded_anew() -> None:
    assert write_target(read_path(b"/v1/secret/data/%C3%A9%20%41"), {}) == b"/v1/secret/data/%C3%A9%20A"


def test_a_path_in_a_message_is_printable_and_short() -> None:
    assert shown("a\x1b[31mb") == "/v1/a?[31mb"
    assert len(shown("x" * 999)) < 220


def test_a_token_in_a_path_is_not_shown() -> None:
    """Older calls of OpenBao take it there; they are refused, and the refusal is logged."""
    for token in (
        "s.0123456789abcdefghijklmn.idAAAA",
        "hvs.CAESIJ0123456789abcdef",
        "eyJhbGciOi.eyJhdWQi.c2ln",
    ):
        for path in (f"auth/token/renew/{token}", f"sys/wrapping/unwrap/{token}", f"secret/data/{token}/x"):
            assert token not in shown(path)
    assert shown("secret/data/users.configuration-of-all") == "/v1/secret/data/users.configuration-of-all"
