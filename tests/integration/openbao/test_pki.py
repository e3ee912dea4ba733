"""Certificates from a real OpenBao: whatever a CSR asks, a leaf says what signer and role agree on."""

from __future__ import annotations

import datetime
import ipaddress
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.errors import OpenBaoError
from cloudtaser.openbao.pki import BRIDGE_POD_NAMES, PkiRole, new_key, sign
from cloudtaser.openbao.records import Records
from cloudtaser.wire.names import OPERATOR_NAME, bridge_uri, broker_uri, operator_uri, successor_uri
from tests.integration.openbao.support import RegisteredCluster

EVIL = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x0c\x04evil")
DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
USAGE = {
    PkiRole.BRIDGE: ExtendedKeyUsageOID.CLIENT_AUTH,
    PkiRole.BROKER: ExtendedKeyUsageOID.SERVER_AUTH,
    PkiRole.BRIDGE_POD: ExtendedKeyUsageOID.SERVER_AUTH,
    PkiRole.OPERATOR_POD: ExtendedKeyUsageOID.SERVER_AUTH,
    PkiRole.OPERATOR_SEAL: DOCUMENT_SIGNING,
    PkiRole.SUCCESSOR: DOCUMENT_SIGNING,
}


def evil_csr(fingerprint: str) -> tuple[str, bytes]:
    """A CSR that asks for everything it should not get, and its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = [
        x509.DNSName("evil.example"),
        x509.DNSName("bridge.cloudtaser.internal"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        x509.RFC822Name("evil@example.com"),
        x509.UniformResourceIdentifier(operator_uri(fingerprint)),
        x509.UniformResourceIdentifier(bridge_uri(fingerprint, "evil")),
        x509.UniformResourceIdentifier(broker_uri(fingerprint, "evil")),
    ]
    subject = [
        x509.NameAttribute(NameOID.COMMON_NAME, "bridge.cloudtaser.internal"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Evil"),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "system:masters"),
    ]
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name(subject))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=3), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), critical=False)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True
        )
        .add_extension(EVIL, critical=False)
        .sign(key, hashes.SHA256())
    )
    return csr.public_bytes(serialization.Encoding.PEM).decode(), spki(key.public_key())


def spki(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, form)
    return encoded


def asked_of(role: PkiRole, fingerprint: str) -> dict[str, tuple[str, ...]]:
    match role:
        case PkiRole.BRIDGE:
            return {"uris": (bridge_uri(fingerprint, "one"),)}
        case PkiRole.BROKER:
            return {"uris": (broker_uri(fingerprint, "one"),)}
        case PkiRole.BRIDGE_POD:
            return {"names": BRIDGE_POD_NAMES}
        case PkiRole.OPERATOR_POD:
            return {"names": (OPERATOR_NAME,)}
        case PkiRole.OPERATOR_SEAL:
            return {"uris": (operator_uri(fingerprint),)}
        case PkiRole.SUCCESSOR:
            return {"uris": (successor_uri(fingerprint, b"der"),)}


@pytest.mark.parametrize("role", list(PkiRole))
async def test_an_evil_csr_yields_a_leaf_with_its_key_and_nothing_else_of_it(
    root: OpenBao, cluster: RegisteredCluster, role: PkiRole
) -> None:
    csr, public_key = evil_csr(cluster.fingerprint)
    asked = asked_of(role, cluster.fingerprint)
    issued = await sign(
        root, cluster.space, role, csr, uris=asked.get("uris", ()), names=asked.get("names", ())
    )
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
    assert spki(leaf.public_key()) == public_key
    assert leaf.subject == x509.Name([])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    wanted: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in asked.get("uris", ())]
    wanted += [x509.DNSName(name) for name in asked.get("names", ())]
    assert list(names) == wanted
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [USAGE[role]]
    keys = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert keys.digital_signature
    assert not keys.key_cert_sign
    assert not keys.crl_sign
    present = {extension.oid for extension in leaf.extensions}
    assert EVIL.oid not in present
    assert ExtensionOID.BASIC_CONSTRAINTS not in present
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= datetime.timedelta(hours=24, minutes=2)
    assert issued.not_after == int(leaf.not_valid_after_utc.timestamp())
    assert int(issued.serial.replace(":", ""), 16) == leaf.serial_number
    assert issued.chain_pem == b""
    recorded = await Records(root, cluster.layout).registered(cluster.fingerprint)
    assert recorded is not None
    of_tunnel = (PkiRole.BRIDGE, PkiRole.BROKER, PkiRole.SUCCESSOR)
    authority = recorded.tunnel_ca if role in of_tunnel else recorded.pod_ca
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))


@pytest.mark.parametrize(
    ("role", "names", "uris"),
    [
        (PkiRole.BRIDGE, (), ("broker",)),
        (PkiRole.BRIDGE, (), ("operator",)),
        (PkiRole.BRIDGE, (), ("bridge", "broker")),
        (PkiRole.BRIDGE, ("bridge.cloudtaser.internal",), ("bridge",)),
        (PkiRole.BROKER, (), ("bridge",)),
        (PkiRole.BROKER, (), ("foreign",)),
        (PkiRole.BRIDGE_POD, ("evil.example",), ()),
        (PkiRole.BRIDGE_POD, ("operator.cloudtaser.internal",), ()),
        (PkiRole.BRIDGE_POD, ("*.cloudtaser.internal",), ()),
        (PkiRole.BRIDGE_POD, ("x.bridge.cloudtaser.internal",), ()),
        (PkiRole.BRIDGE_POD, ("localhost",), ()),
        (PkiRole.BRIDGE_POD, ("10.0.0.1",), ()),
        (PkiRole.BRIDGE_POD, BRIDGE_POD_NAMES, ("operator",)),
        (PkiRole.OPERATOR_POD, ("bridge.cloudtaser.internal",), ()),
        (PkiRole.OPERATOR_SEAL, (), ("bridge",)),
        (PkiRole.OPERATOR_SEAL, ("operator.cloudtaser.internal",), ("operator",)),
        (PkiRole.SUCCESSOR, (), ("bridge",)),
        (PkiRole.SUCCESSOR, (), ("broker",)),
        (PkiRole.SUCCESSOR, (), ("operator",)),
        (PkiRole.SUCCESSOR, ("bridge.cloudtaser.internal",), ()),
    ],
)
async def test_a_role_signs_no_name_but_its_own(
    root: OpenBao, cluster: RegisteredCluster, role: PkiRole, names: tuple[str, ...], uris: tuple[str, ...]
) -> None:
    spelled = {
        "bridge": bridge_uri(cluster.fingerprint, "one"),
        "broker": broker_uri(cluster.fingerprint, "one"),
        "operator": operator_uri(cluster.fingerprint),
        "foreign": broker_uri("99999999-9999-4999-8999-999999999999", "one"),
    }
    with pytest.raises(OpenBaoError, match=r"not allowed|not valid"):
        await sign(root, cluster.space, role, new_key()[1], names=names, uris=[spelled[uri] for uri in uris])


@pytest.mark.parametrize(
    "more",
    [
        {"not_after": "2030-01-01T00:00:00Z"},
        {"not_before": "2020-01-01T00:00:00Z"},
        {"common_name": "evil.example"},
        {"ip_sans": "10.0.0.1"},
        {"other_sans": "1.3.6.1.4.1.311.20.2.3;utf8:evil"},
        {"serial_number": "666"},
    ],
)
async def test_a_signer_cannot_ask_for_more_than_names(
    root: OpenBao, cluster: RegisteredCluster, more: dict[str, str]
) -> None:
    body = {"csr": new_key()[1], "uri_sans": bridge_uri(cluster.fingerprint, "one")} | more
    path = f"{cluster.space.pki_tunnel}/sign/bridge"
    with pytest.raises(OpenBaoError) as refused:
        await root.request("POST", path, namespace=cluster.space.namespace, body=body)
    assert refused.value.status == 400


async def test_a_csr_that_names_its_own_serial_is_refused(root: OpenBao, cluster: RegisteredCluster) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, "666")])
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    text = csr.public_bytes(serialization.Encoding.PEM)
    with pytest.raises(OpenBaoError, match="not allowed"):
        await sign(root, cluster.space, PkiRole.BRIDGE, text, uris=[bridge_uri(cluster.fingerprint, "one")])


async def test_a_longer_life_than_a_day_is_not_to_be_had(root: OpenBao, cluster: RegisteredCluster) -> None:
    uris = [bridge_uri(cluster.fingerprint, "one")]
    issued = await sign(root, cluster.space, PkiRole.BRIDGE, new_key()[1], uris=uris, ttl="8760h")
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
    now = datetime.datetime.now(datetime.UTC)
    assert leaf.not_valid_after_utc < now + datetime.timedelta(hours=24, minutes=1)


async def test_an_rsa_key_is_not_signed(root: OpenBao, cluster: RegisteredCluster) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    text = csr.public_bytes(serialization.Encoding.PEM)
    with pytest.raises(OpenBaoError):
        await sign(root, cluster.space, PkiRole.BRIDGE, text, uris=[bridge_uri(cluster.fingerprint, "one")])


async def test_authorities_are_p256_roots_of_ten_years_that_sign_leaves_only(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    recorded = await Records(root, cluster.layout).registered(cluster.fingerprint)
    assert recorded is not None
    assert recorded.tunnel_ca != recorded.pod_ca
    for pem in (recorded.tunnel_ca, recorded.pod_ca):
        authority = x509.load_pem_x509_certificate(pem.encode())
        authority.verify_directly_issued_by(authority)
        key = authority.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert isinstance(authority.signature_hash_algorithm, hashes.SHA256)
        constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
        life = authority.not_valid_after_utc - authority.not_valid_before_utc
        assert datetime.timedelta(days=3649) < life < datetime.timedelta(days=3652)
