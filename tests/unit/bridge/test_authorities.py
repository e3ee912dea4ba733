"""Authorities: what a registration is served under, and which change of it is a rotation."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cloudtaser.bridge.authorities import Authority, authorities_of, continues
from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.records import Former, Registered
from tests.unit.operator.parties import FINGERPRINT
from tests.unit.operator.parties import Authority as Ca

OLD, NEW, NEWER, POD, NEXT_POD, LAST_POD = (Ca(f"CA {number}").pem for number in range(6))
BEFORE = Registered(FINGERPRINT, "", "", "", "", "", OLD, POD, "0ad50c05", "cloudtaser/0ad50c05", "subject")
ROTATING = replace(
    BEFORE,
    tunnel_ca=NEW,
    pod_ca=NEXT_POD,
    former_tunnel_ca=Former(OLD, "issuer-1", "2026-01-02T00:00:00Z"),
    former_pod_cas=(Former(POD, "issuer-2", "2026-01-02T00:00:00Z"),),
)
AFTER = replace(ROTATING, former_tunnel_ca=None, former_pod_cas=())


def test_without_a_rotation_there_is_one_of_each_signed_for_by_default() -> None:
    found = authorities_of(BEFORE)
    assert [(one.pem, one.issuer) for one in (*found.tunnel, *found.pod)] == [(OLD, ""), (POD, "")]


def test_during_one_the_current_comes_first_and_a_former_names_its_issuer() -> None:
    found = authorities_of(ROTATING)
    assert [(one.pem, one.issuer) for one in found.tunnel] == [(NEW, ""), (OLD, "issuer-1")]
    assert [(one.pem, one.issuer) for one in found.pod] == [(NEXT_POD, ""), (POD, "issuer-2")]


def test_of_several_former_ones_the_oldest_comes_last_however_they_are_written() -> None:
    old, new = Former(POD, "1", "2026-01-02T00:00:00Z"), Former(NEXT_POD, "2", "2026-02-02T00:00:00Z")
    for former in ((old, new), (new, old)):
        found = authorities_of(replace(AFTER, pod_ca=LAST_POD, former_pod_cas=former))
        assert [one.pem for one in found.pod] == [LAST_POD, NEXT_POD, POD]


def test_a_ca_that_is_named_twice_is_served_once() -> None:
    found = authorities_of(replace(AFTER, former_pod_cas=(Former(f"\n{NEXT_POD}\n", "1", "2026"),)))
    assert [one.issuer for one in found.pod] == [""]


def test_a_ca_is_named_as_the_specification_says() -> None:
    der = Ca("CA").certificate.public_bytes(Encoding.DER)
    authority = Authority("", der)
    assert authority.id == hashlib.sha256(der).hexdigest()[:12]
    assert authority.label == hashlib.sha256(der).hexdigest()[:8]


@pytest.mark.parametrize(
    "record", [replace(BEFORE, tunnel_ca="none"), replace(ROTATING, former_tunnel_ca=Former("none", "", ""))]
)
def test_a_record_without_its_ca_is_refused_in_one_line(record: Registered) -> None:
    with pytest.raises(ProtocolError, match="no readable CA"):
        authorities_of(record)


def test_a_rotation_goes_on_with_what_was_there_from_its_beginning_to_its_end() -> None:
    assert continues(BEFORE, BEFORE)
    assert continues(BEFORE, ROTATING)
    assert continues(ROTATING, ROTATING)
    assert continues(ROTATING, AFTER)


@pytest.mark.parametrize(
    "other",
    [
        AFTER,  # a rotation of which we saw nothing
        replace(BEFORE, tunnel_ca=NEWER),
        replace(BEFORE, pod_ca=LAST_POD),
        replace(ROTATING, former_pod_cas=()),
        replace(ROTATING, former_tunnel_ca=Former(NEWER, "issuer-1", "")),
    ],
)
def test_any_other_ca_is_another_cluster(other: Registered) -> None:
    assert not continues(BEFORE, other)
