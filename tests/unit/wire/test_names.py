"""Names: the URIs of parties are read in exactly one way, and audiences bind what they must."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.wire import names

FP = "3f1c8a52-7c7e-4e0b-9d5e-0c6f2b7a1d34"
INSTANCES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)


@given(INSTANCES)
def test_what_is_written_is_read_back(instance: str) -> None:
    assert names.parse_uri(names.bridge_uri(FP, instance)) == names.PartyName(FP, "bridge", instance)
    assert names.parse_uri(names.broker_uri(FP, instance)) == names.PartyName(FP, "broker", instance)
    assert names.parse_uri(names.operator_uri(FP)) == names.PartyName(FP, "operator", "")


def test_the_uris_are_those_of_the_specification() -> None:
    assert names.bridge_uri(FP, "b1") == f"cloudtaser://{FP}/bridge/b1"
    assert names.broker_uri(FP, "b1") == f"cloudtaser://{FP}/broker/b1"
    assert names.operator_uri(FP) == f"cloudtaser://{FP}/operator"


def test_an_endorsement_names_a_tunnel_ca_and_is_no_party() -> None:
    uri = names.successor_uri(FP, b"der")
    assert uri == f"cloudtaser://{FP}/successor/{hashlib.sha256(b'der').hexdigest()}"
    assert names.parse_successor(uri, FP) == hashlib.sha256(b"der").digest()
    with pytest.raises(ProtocolError):
        names.parse_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        f"cloudtaser://{FP}/successor/",
        f"cloudtaser://{FP}/successor/" + "a" * 63,
        f"cloudtaser://{FP}/successor/" + "a" * 65,
        f"cloudtaser://{FP}/successor/" + "A" * 64,
        f"cloudtaser://{FP}/successor/" + "a" * 64 + "\n",
        f"cloudtaser://{FP}/bridge/" + "a" * 64,
        f"cloudtaser://{FP[:-1]}5/successor/" + "a" * 64,
        "a" * 64,
    ],
)
def test_what_is_no_endorsement_of_this_cluster_is_refused(uri: str) -> None:
    with pytest.raises(ProtocolError):
        names.parse_successor(uri, FP)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        f"spiffe://{FP}/bridge/x",
        f"CLOUDTASER://{FP}/bridge/x",
        f"cloudtaser://{FP.upper()}/bridge/x",
        f"cloudtaser://{FP}",
        f"cloudtaser://{FP}/",
        f"cloudtaser://{FP}/operator/",
        f"cloudtaser://{FP}/operator/x",
        f"cloudtaser://{FP}/bridge",
        f"cloudtaser://{FP}/bridge/",
        f"cloudtaser://{FP}/bridge//x",
        f"cloudtaser://{FP}/bridge/x/",
        f"cloudtaser://{FP}/bridge/../broker",
        f"cloudtaser://{FP}/bridge/x?y",
        f"cloudtaser://{FP}/bridge/x#y",
        f"cloudtaser://{FP}/bridge/x%2f",
        f"cloudtaser://{FP}/bridge/x\n",
        f"cloudtaser://{FP}/Bridge/x",
        f"cloudtaser://{FP}:1/bridge/x",
        f"cloudtaser://u@{FP}/bridge/x",
        f"cloudtaser://{FP}/bridge/" + "x" * 129,
    ],
)
def test_a_uri_that_could_be_read_otherwise_is_refused(uri: str) -> None:
    with pytest.raises(ProtocolError):
        names.parse_uri(uri)


@given(st.text())
def test_any_text_gives_a_party_or_a_typed_error(text: str) -> None:
    try:
        names.parse_uri("cloudtaser://" + text)
    except ProtocolError:
        pass


@pytest.mark.parametrize("instance", ["", ".", "-x", "a/b", "a b", "ä", "a\n", "x" * 129])
def test_an_instance_that_would_bend_the_uri_is_refused(instance: str) -> None:
    with pytest.raises(ProtocolError):
        names.bridge_uri(FP, instance)


def test_the_audiences_are_distinct_and_per_cluster() -> None:
    makers = (names.pod_audience, names.operator_audience, names.admin_audience, names.unseal_audience)
    audiences = {make(fp8) for make in makers for fp8 in ("3f1c8a52", "aaaaaaaa")}
    assert len(audiences) == 8
    assert names.pod_audience("3f1c8a52") == "cloudtaser:3f1c8a52"


def test_a_return_audience_fits_one_handshake_and_one_key() -> None:
    h, spki = b"h" * 32, b"key"
    expected = hashlib.sha256(h + hashlib.sha256(spki).digest()).hexdigest()
    assert names.return_audience("3f1c8a52", h, spki) == f"cloudtaser-return:3f1c8a52:{expected}"
    assert names.return_audience("3f1c8a52", b"i" * 32, spki) != names.return_audience("3f1c8a52", h, spki)
    assert names.return_audience("3f1c8a52", h, b"yek") != names.return_audience("3f1c8a52", h, spki)
