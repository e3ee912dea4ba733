"""What a user sees when OpenBao says no: one line with what failed, on what, what to do (spec/openbao.md)."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloudtaser.demo.certificates import CertificateFiles
from cloudtaser.demo.openbao import DevServer, OpenBaoServer
from tests.integration.wrapper_vault import Vault, error_of


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    directory = tmp_path_factory.mktemp("vault")
    with DevServer(directory / "bao") as server:
        assert isinstance(server, DevServer)
        vault = Vault(server, directory)
        vault.put("secret/data/app", value="x")
        vault.put("secret/data/deleted", value="x")
        vault.api("DELETE", "secret/data/deleted")
        vault.put("secret/data/listable", value="x")
        vault.api("POST", "kv1/plain", {"value": "x"})
        vault.api("POST", "sys/mounts/pki", {"type": "pki"})
        own = {
            "secret/data/*": ["read"],
            "secret/app": ["read"],
            "secret/data/forbidden": ["deny"],
            "secret/data/listable": ["list"],
            "kv1/*": ["read"],
            "pki/issue/*": ["read"],
        }
        policy = {"path": {path: {"capabilities": may} for path, may in own.items()}}
        vault.api("POST", "sys/policies/acl/narrow", {"policy": json.dumps(policy)})
        vault.role("narrow", token_policies=["narrow"])
        yield vault


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        (
            "secret/data/forbidden",
            77,
            ["secret/data/forbidden", "capability read is missing", "narrow", "capabilities"],
        ),
        (
            "secret/data/listable",
            77,
            ["there is only list", 'path "secret/data/listable" { capabilities = ["read"] }'],
        ),
        ("pki/issue/web?common_name=app", 77, ["capability update is missing", "there is only read"]),
        ("nomount/data/app", 77, ["nomount/data/app", "capability read is missing"]),
        ("secret/app", 78, ["secret/app", "secret/ is a KV version 2 mount", "ask for secret/data/app"]),
        ("kv1/data/plain", 78, ["kv1/ is a KV version 1 mount", "ask for kv1/plain"]),
        ("secret/data/missing", 78, ["secret/data/missing", "nothing is there"]),
        ("secret/data/deleted", 78, ["secret/data/deleted", "deleted"]),
        ("secret/data/app#9", 78, ["no version 9"]),
        ("pki/issue/web", 78, ["unsupported operation", "written, with parameters: pki/issue/web?"]),
    ],
)
def test_a_path_that_cannot_be_read_says_why_and_what_to_do(
    vault: Vault, path: str, code: int, said: list[str]
) -> None:
    line = error_of(vault.settings(path, VAULT_AUTH_ROLE="narrow"), code)
    for words in said:
        assert words in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"nbf": 7200, "iat": 7200, "exp": 9000}, ["not yet valid", "clocks", "NTP"]),
        ({"iat": 7200}, ["issued in the future", "clocks"]),
        ({"nbf": -7200, "iat": -7200, "exp": -6000}, ["expired", "clocks", "token file"]),
    ],
)
def test_a_login_that_the_clocks_spoil_says_so(vault: Vault, claims: dict[str, int], said: list[str]) -> None:
    now = int(time.time())
    token = vault.token_file("skewed", **{name: now + offset for name, offset in claims.items()})
    line = error_of(vault.settings("secret/data/app", VAULT_JWT_FILE=str(token)), 77)
    for words in ("auth/jwt, role default", *said):
        assert words in line


def test_a_token_that_does_not_count_any_more_says_so(vault: Vault) -> None:
    token = vault.api("POST", "auth/token/create", {"policies": ["narrow"]})["auth"]["client_token"]
    vault.api("POST", "auth/token/revoke", {"token": token})
    line = error_of(vault.settings("secret/data/app", VAULT_AUTH_METHOD="token", VAULT_TOKEN=token), 77)
    assert "VAULT_TOKEN" in line
    assert "revoked" in line
    assert token not in line


def test_a_sealed_server_is_named_as_sealed(tmp_path: Path) -> None:
    with DevServer(tmp_path / "bao") as server:
        assert isinstance(server, DevServer)
        vault = Vault(server, tmp_path)
        vault.api("PUT", "sys/seal")
        line = error_of(vault.settings("secret/data/app", CLOUDTASER_STARTUP_TIMEOUT="0.3"), 75)
        assert "not ready" in line
        assert "sealed" in line
        assert "CLOUDTASER_STARTUP_TIMEOUT" in line


def authority(directory: Path, *, ends_in: float, leaf_ends_in: float) -> tuple[Path, Path, Path]:
    """A CA with a server certificate for 127.0.0.1: CA, certificate and key as files. Times in hours."""
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])

    def build(public: ec.EllipticCurvePublicKey, hours: float) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=100))
            .not_valid_after(now + datetime.timedelta(hours=hours))
        )

    key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = build(key.public_key(), ends_in).subject_name(name)
    ca = ca.add_extension(x509.BasicConstraints(True, 0), critical=True)
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = build(leaf_key.public_key(), leaf_ends_in).subject_name(x509.Name([]))
    leaf = leaf.add_extension(host, critical=True)
    pem = serialization.Encoding.PEM
    files = directory / "ca.pem", directory / "leaf.pem", directory / "leaf.key"
    files[0].write_bytes(ca.sign(key, hashes.SHA256()).public_bytes(pem))
    files[1].write_bytes(leaf.sign(key, hashes.SHA256()).public_bytes(pem))
    files[2].write_bytes(
        leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@pytest.mark.parametrize(
    ("ends_in", "leaf_ends_in", "said"),
    [
        (-2, 10, ["certificate has expired", "authority in VAULT_CACERT itself ended at"]),
        (10, -2, ["certificate has expired", "renew the server's certificate"]),
    ],
    ids=["authority", "certificate"],
)
def test_a_certificate_past_its_end_says_whose_it_is(
    secured: OpenBaoServer, tmp_path: Path, ends_in: float, leaf_ends_in: float, said: list[str]
) -> None:
    show(secured, *authority(tmp_path, ends_in=ends_in, leaf_ends_in=leaf_ends_in))
    settings = SECURED | {"VAULT_ADDR": secured.address, "VAULT_CACERT": str(tmp_path / "ca.pem")}
    line = error_of(settings, 75)
    for words in (*said, secured.address.removeprefix("https://")):
        assert words in line


def test_another_authority_and_another_name_are_told_apart(secured: OpenBaoServer, tmp_path: Path) -> None:
    show(secured, *authority(tmp_path, ends_in=10, leaf_ends_in=10))
    settings = SECURED | {"VAULT_ADDR": secured.address, "VAULT_CACERT": str(tmp_path / "ca.pem")}
    named = settings | {"VAULT_ADDR": secured.address.replace("127.0.0.1", "localhost")}
    assert "the address is not one" in error_of(named, 75)
    other = tmp_path / "other"
    other.mkdir()
    stranger = settings | {"VAULT_CACERT": str(authority(other, ends_in=10, leaf_ends_in=10)[0])}
    assert "VAULT_CACERT does not hold the authority" in error_of(stranger, 75)


SECURED = {
    "VAULT_AUTH_METHOD": "token",
    "VAULT_TOKEN": "s.any",
    "CLOUDTASER_SECRET_PATHS": "kv/data/app",
    "CLOUDTASER_STARTUP_TIMEOUT": "0.1",
}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBaoServer]:
    with OpenBaoServer(tmp_path_factory.mktemp("secured")) as server:
        assert isinstance(server, OpenBaoServer)
        yield server


def show(server: OpenBaoServer, _: Path, certificate: Path, key: Path) -> None:
    """Let the running server show another certificate."""
    files = CertificateFiles.named(server.directory, "openbao")
    files.key.write_bytes(key.read_bytes())
    files.certificate.write_bytes(certificate.read_bytes())
    assert server.pid is not None
    os.kill(server.pid, signal.SIGHUP)
    wanted = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    deadline = time.monotonic() + 30
    while ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", server.port))) != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.05)
