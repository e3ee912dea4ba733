"""Contexts trust what they should and nothing else; certificates say who a party is, once."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cloudtaser.errors import ConfigError, ProtocolError
from cloudtaser.net import tls
from cloudtaser.secret import Secret
from tests.unit.net import parties
from tests.unit.net.parties import FINGERPRINT, OTHER_FINGERPRINT


def certificate(uris: Sequence[str] = (), names: Sequence[str] = ()) -> x509.Certificate:
    identity = parties.tunnel_ca().issue(uris=uris, names=names)
    return x509.load_pem_x509_certificate(identity.certificate_pem)


def test_a_party_is_read_from_its_one_uri() -> None:
    party = tls.require_party(certificate([f"cloudtaser://{FINGERPRINT}/broker/r1"]), FINGERPRINT, "broker")
    assert (party.fingerprint, party.role, party.instance) == (FINGERPRINT, "broker", "r1")


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [f"cloudtaser://{FINGERPRINT}/bridge/b1"],
        [f"cloudtaser://{OTHER_FINGERPRINT}/broker/r1"],
        [f"cloudtaser://{FINGERPRINT}/broker/r1", f"cloudtaser://{FINGERPRINT}/broker/r2"],
        [f"cloudtaser://{FINGERPRINT}/broker/r1", f"cloudtaser://{OTHER_FINGERPRINT}/broker/r1"],
        [f"https://{FINGERPRINT}/broker/r1"],
        [f"cloudtaser://{FINGERPRINT}/broker/../bridge"],
    ],
)
def test_any_other_party_is_refused(uris: list[str]) -> None:
    with pytest.raises(ProtocolError):
        tls.require_party(certificate(uris, ["broker.example"]), FINGERPRINT, "broker")


def test_a_key_never_lies_in_a_file() -> None:
    paths: list[str] = []

    class Watched(ssl.SSLContext):
        def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
            paths.append(os.readlink(certfile))
            super().load_cert_chain(certfile, keyfile, password)

    tls.load_identity(Watched(ssl.PROTOCOL_TLS_SERVER), parties.bridge())
    assert len(paths) == 1
    assert paths[0].startswith("/memfd:")


def test_a_key_of_another_certificate_is_an_error_without_the_key() -> None:
    wrong = tls.Identity(parties.bridge().certificate_pem, parties.broker().key)
    with pytest.raises(ConfigError) as caught:
        tls.pod_server(wrong)
    assert caught.value.diagnostic() == "a certificate and its key cannot be used: key values mismatch"


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"\xff"])
def test_what_is_no_certificate_is_an_error_of_one_line(pem: bytes) -> None:
    with pytest.raises(ConfigError):
        tls.tunnel_client(parties.bridge(), [pem])
    with pytest.raises(ConfigError):
        tls.load_identity(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls.Identity(pem, Secret(pem)))
    with pytest.raises(ConfigError):
        tls.tunnel_client(parties.bridge(), [])


def test_every_leg_of_ours_is_tls_1_3_without_tickets() -> None:
    ca = parties.tunnel_ca().pem
    contexts = [
        tls.tunnel_client(parties.bridge(), [ca]),
        tls.tunnel_server(parties.broker(), [ca]),
        tls.pod_server(parties.bridge()),
        tls.pod_client(ca),
    ]
    for context in contexts:
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.options & ssl.OP_NO_TICKET
    assert [contexts[1].num_tickets, contexts[2].num_tickets] == [0, 0]
    assert contexts[0].verify_mode == contexts[1].verify_mode == ssl.CERT_REQUIRED
    assert contexts[3].check_hostname


def test_a_tunnel_trusts_exactly_the_given_cas() -> None:
    context = tls.tunnel_server(parties.broker(), [parties.tunnel_ca().pem, parties.authority("next").pem])
    assert len(context.get_ca_certs()) == 2


def test_the_beacons_certificate_is_checked_unless_told_otherwise(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(parties.tunnel_ca().pem)
    context = tls.beacon_client(str(ca_file), False)
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    assert tls.beacon_client(None, False).verify_mode == ssl.CERT_REQUIRED
    assert tls.beacon_client(None, True).verify_mode == ssl.CERT_NONE
    with pytest.raises(ConfigError, match="no such file"):
        tls.beacon_client(str(tmp_path / "absent"), False)
    with pytest.raises(ConfigError, match=r"absent"):
        tls.beacon_server(str(tmp_path / "absent"), str(ca_file))
