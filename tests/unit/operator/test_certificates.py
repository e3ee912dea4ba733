"""A certificate counts only under the pinned CA, in time, for its role, its cluster and its one name."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable

import pytest
from cryptography import x509

from cloudtaser.errors import ProtocolError
from cloudtaser.operator.certificates import (
    BrokerKey,
    check_info_hash,
    check_leaf,
    check_own,
    check_pin,
    check_signature,
    der,
    load_bundle,
    load_ca,
    load_certificate,
    spki_der,
)
from cloudtaser.wire.hashes import spki_pin
from cloudtaser.wire.names import bridge_uri, broker_uri, operator_uri
from tests.unit.operator.parties import CLIENT, FINGERPRINT, OTHER_FINGERPRINT, SERVER, Authority, Leaf, now

CA = Authority()


def check_bridge(leaf: Leaf) -> str:
    party = check_leaf(leaf.certificate, CA.certificate, fingerprint=FINGERPRINT, role="bridge", now=now())
    return party.instance


def test_a_bridge_under_the_pinned_ca_is_named() -> None:
    assert check_bridge(CA.bridge("b7")) == "b7"


def test_a_broker_under_the_pinned_ca_is_named() -> None:
    leaf = CA.broker("k3").certificate
    assert (
        check_leaf(leaf, CA.certificate, fingerprint=FINGERPRINT, role="broker", now=now()).instance == "k3"
    )


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Authority().bridge(), "not signed by the pinned tunnel CA"),
        (lambda: Authority("other").bridge(), "not signed by the pinned tunnel CA"),
        (lambda: CA.bridge(fingerprint=OTHER_FINGERPRINT), "names another party"),
        (lambda: CA.issue([broker_uri(FINGERPRINT, "b1")], CLIENT), "names another party"),
        (lambda: CA.issue([operator_uri(FINGERPRINT)], CLIENT), "names another party"),
        (lambda: CA.broker(), "not made for that role"),
        (lambda: CA.issue([bridge_uri(FINGERPRINT, "b1")], SERVER), "not made for that role"),
        (lambda: CA.issue([bridge_uri(FINGERPRINT, "b1")], CLIENT, is_ca=True), "not made for that role"),
        (
            lambda: CA.issue([bridge_uri(FINGERPRINT, "a"), bridge_uri(FINGERPRINT, "b")], CLIENT),
            "exactly one name",
        ),
        (lambda: CA.issue([bridge_uri(FINGERPRINT, "a")], CLIENT, dns=("b.example",)), "exactly one name"),
        (lambda: CA.issue([], CLIENT, dns=("bridge.example",)), "exactly one name"),
        (lambda: CA.issue(["https://bridge.example/"], CLIENT), "does not name a party"),
        (lambda: CA.issue([bridge_uri(FINGERPRINT, "a")], CLIENT, start=dt.timedelta(hours=-25)), "expired"),
        (lambda: CA.issue([bridge_uri(FINGERPRINT, "a")], CLIENT, start=dt.timedelta(hours=1)), "clocks"),
    ],
)
def test_any_other_certificate_is_refused(make: Callable[[], Leaf], why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        check_bridge(make())


def test_two_clocks_may_differ_by_a_few_seconds() -> None:
    check_bridge(CA.issue([bridge_uri(FINGERPRINT, "a")], CLIENT, start=dt.timedelta(seconds=45)))


def test_only_one_ca_certificate_in_time_is_a_ca() -> None:
    assert load_ca(CA.pem, "it", now()) == CA.certificate
    for text, why in [
        ("", "not a PEM certificate"),
        (CA.pem + CA.pem, "2 certificates"),
        (CA.bridge().pem, "not a CA"),
        (Authority(is_ca=False).pem, "not a CA"),
        (Authority(lifetime=dt.timedelta(days=-1)).pem, "expired"),
    ]:
        with pytest.raises(ProtocolError, match=why):
            load_ca(text, "it", now())
    assert len(load_bundle(CA.pem + CA.pem, "it")) == 2


def test_a_key_signs_and_its_csr_carries_it_and_no_name() -> None:
    key = BrokerKey.generate()
    csr = x509.load_pem_x509_csr(key.csr_pem.encode())
    assert csr.is_signature_valid
    assert spki_der(csr) == key.spki
    assert list(csr.subject) == []
    assert list(csr.extensions) == []
    own = CA.broker(public=key.private.public_key()).certificate
    check_own(own, key)
    check_signature(own, key.sign(b"message"), b"message")
    with pytest.raises(ProtocolError, match="not for our key"):
        check_own(CA.broker().certificate, key)
    assert "***" in repr(key.pem())


def test_a_signature_over_another_handshake_is_refused() -> None:
    bridge = CA.bridge()
    check_signature(bridge.certificate, bridge.sign(b"one"), b"one")
    for signature in (bridge.sign(b"two"), CA.bridge().sign(b"one"), b"", b"\x30\x00"):
        with pytest.raises(ProtocolError, match="not valid"):
            check_signature(bridge.certificate, signature, b"one")


def test_pin_and_info_hash_are_those_of_the_ca() -> None:
    pin = "spki-sha256:" + hashlib.sha256(spki_der(CA.certificate)).hexdigest()
    check_pin(CA.certificate, "")
    check_pin(CA.certificate, pin)
    with pytest.raises(ProtocolError, match="not the pinned one"):
        check_pin(Authority().certificate, pin)
    former = Authority("former")
    check_pin(CA.certificate, spki_pin(spki_der(former.certificate)), [former.certificate])
    with pytest.raises(ProtocolError, match="not the pinned one"):
        check_pin(CA.certificate, spki_pin(spki_der(Authority().certificate)), [former.certificate])
    check_info_hash(CA.certificate, hashlib.sha256(der(CA.certificate)).hexdigest())
    with pytest.raises(ProtocolError, match="info hash"):
        check_info_hash(CA.certificate, "0" * 64)


def test_text_that_is_no_certificate_is_named() -> None:
    with pytest.raises(ProtocolError, match="the bridge's certificate is not a PEM certificate"):
        load_certificate(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "the bridge's certificate"
        )
