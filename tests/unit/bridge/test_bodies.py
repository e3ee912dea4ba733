"""Bodies that name tokens, accessors and leases: only those of the pinned space go on."""

from __future__ import annotations

import json

import pytest

from cloudtaser.bridge.bodies import MAX_INSPECTED, rewrite
from cloudtaser.bridge.refusal import RequestRefused

OWN = "s.0123456789abcdefghijklmn.idAAAA"
FOREIGN = "s.0123456789abcdefghijklmn.idBBBB"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("sys/wrapping/unwrap", {"token": OWN}),
        ("sys/wrapping/lookup", {"token": OWN}),
        ("auth/token/revoke-accessor", {"accessor": "MFdxt48DWtwEuJ9A4RpG2Z7W.idAAAA"}),
        ("auth/token/renew-self", {"increment": "1h", "token": OWN}),
        ("sys/leases/renew", {"lease_id": "database/creds/r/dwJV.idAAAA", "increment": 60}),
        ("sys/leases/lookup", {"lease_id": "database/creds/r/dwJV.idAAAA"}),
        ("sys/capabilities-self", {"paths": ["secret/data/x"]}),
        ("auth/token/create/cloudtaser-pod", {"policies": ["ct-pod_a_b"], "meta": {"pod": "uid"}}),
    ],
)
def test_a_body_of_the_own_space_goes_on_written_anew(path: str, body: dict[str, object]) -> None:
    assert json.loads(rewrite(path, json.dumps(body, indent=3).encode(), "idAAAA")) == body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("sys/wrapping/unwrap", {"token": FOREIGN}),
        ("sys/wrapping/lookup", {"token": FOREIGN}),
        ("sys/wrapping/unwrap", {"token": "eyJh.eyJi.c2ln"}),
        ("sys/wrapping/unwrap", {"token": "root"}),
        ("auth/token/revoke-accessor", {"accessor": "MFdxt48DWtwEuJ9A4RpG2Z7W.idBBBB"}),
        ("auth/token/renew-self", {"token": FOREIGN}),
        ("auth/token/revoke-self", {"token": FOREIGN}),
        ("sys/leases/renew", {"lease_id": "database/creds/r/dwJV.idBBBB"}),
        ("sys/leases/lookup", {"lease_id": "x.idAAAA/creds/r/dwJV"}),
    ],
)
def test_an_identifier_of_another_space_is_refused_and_not_repeated(path: str, body: dict[str, str]) -> None:
    with pytest.raises(RequestRefused) as refused:
        rewrite(path, json.dumps(body).encode(), "idAAAA")
    assert refused.value.status == 403
    assert next(iter(body.values())) not in refused.value.diagnostic()


@pytest.mark.parametrize(
    "body",
    [
        b'{"token":"s.x.idAAAA","token":"s.x.idBBBB"}',
        b'{"token":"s.x.idAAAA"}{"token":"s.x.idBBBB"}',
        b'{"token":["s.x.idAAAA"]}',
        b'{"Token":"s.x.idBBBB"}',
        b'{"token":"s.x.idAAAA","namespace":"cloudtaser/bbbbbbbb"}',
        b'{"to\\u006ben":7}',
        b"token=s.x.idBBBB",
        b"[]",
        b"\xff",
        b'{"token":"' + b"a" * MAX_INSPECTED + b'"}',
    ],
)
def test_a_body_that_is_not_one_strict_object_of_known_fields_is_refused(body: bytes) -> None:
    with pytest.raises(RequestRefused) as refused:
        rewrite("sys/wrapping/unwrap", body, "idAAAA")
    assert refused.value.status == 400


def test_no_token_can_be_made_under_a_chosen_id() -> None:
    with pytest.raises(RequestRefused):
        rewrite("auth/token/create/cloudtaser-pod", b'{"id":"s.chosen"}', "idAAAA")


def test_an_empty_body_and_an_empty_token_mean_the_callers_own() -> None:
    assert rewrite("auth/token/renew-self", b"", "idAAAA") == b"{}"
    assert rewrite("sys/wrapping/unwrap", b'{"token":""}', "idAAAA") == b"{}"


def test_an_identifier_waits_until_the_space_is_known() -> None:
    with pytest.raises(RequestRefused) as refused:
        rewrite("sys/wrapping/unwrap", json.dumps({"token": OWN}).encode(), None)
    assert refused.value.status == 503
