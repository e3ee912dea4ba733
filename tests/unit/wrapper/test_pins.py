"""The pinned pod CA changes only for one whole CA certificate, and never leaves the wrapper without a pin."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cloudtaser.wrapper.addresses import Endpoint
from cloudtaser.wrapper.client import Client
from cloudtaser.wrapper.config import Config, bridge_server_name
from cloudtaser.wrapper.connection import Trust
from cloudtaser.wrapper.errors import ProtocolError, UnavailableError
from cloudtaser.wrapper.loop import Loop
from cloudtaser.wrapper.pins import Pins
from tests.unit.operator.parties import CLIENT, Authority

OLD, NEW = Authority("old"), Authority("new")
BODY = "".join(NEW.pem.split("-----")[2].split())


def intermediate() -> str:
    """A CA with a name of its own, under NEW."""
    other = Authority("other")
    builder = x509.CertificateBuilder(
        issuer_name=NEW.subject,
        subject_name=other.subject,
        public_key=other.key.public_key(),
        serial_number=1,
        not_valid_before=other.certificate.not_valid_before_utc,
        not_valid_after=other.certificate.not_valid_after_utc,
        extensions=[x509.Extension(x509.BasicConstraints.oid, True, x509.BasicConstraints(True, 0))],
    )
    return builder.sign(NEW.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def test_a_connection_that_came_about_forgets_the_pin_before(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    async def connect(_loop: Loop, _endpoint: object, trust: Trust, _deadline: float) -> object:
        names.append(trust.server_name)
        return object()

    monkeypatch.setattr("cloudtaser.wrapper.client.connect", connect)
    settings = Config()
    settings.ca_pem = OLD.pem
    loop = Loop()
    client = Client(loop, settings, Endpoint("127.0.0.1", 1, tls=True, broker=True))
    assert client.pin(NEW.pem)
    loop.run(loop.spawn(client._connect(loop.now() + 5)))
    assert names == [bridge_server_name(NEW.pem)]
    assert not client._trust.pins.fall_back()


def test_no_exchange_outlasts_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: list[float] = []

    async def connect(_loop: Loop, _endpoint: object, _trust: Trust, deadline: float) -> object:
        deadlines.append(deadline)
        raise UnavailableError("nobody is there")

    monkeypatch.setattr("cloudtaser.wrapper.client.connect", connect)
    settings = Config()
    settings.ca_pem = OLD.pem
    loop = Loop(lambda: 100.0)
    client = Client(loop, settings, Endpoint("127.0.0.1", 1, tls=True, broker=True))
    client.deadline = 101.0
    with pytest.raises(UnavailableError):
        loop.run(loop.spawn(client.call(b"GET", "x")))
    assert deadlines == [101.0]


def test_the_next_ca_is_pinned_and_named() -> None:
    pins = Pins(OLD.pem)
    assert pins.server_name == bridge_server_name(OLD.pem)
    assert pins.adopt(NEW.pem)
    assert pins.pem == NEW.pem.strip()
    assert pins.server_name == bridge_server_name(NEW.pem)


def test_the_pinned_ca_again_changes_nothing() -> None:
    pins = Pins(OLD.pem)
    assert not pins.adopt(OLD.pem)
    assert not pins.adopt("\n" + OLD.pem.strip() + "\r\n")
    assert pins.pem == OLD.pem
    assert not pins.fall_back()


def test_of_an_injected_bundle_only_the_current_one_stays() -> None:
    pins = Pins(NEW.pem + OLD.pem)
    assert pins.adopt(NEW.pem)
    pins.confirm()
    assert pins.pem == NEW.pem.strip()


def test_until_a_connection_came_about_the_pin_before_is_kept_and_tried() -> None:
    pins = Pins(OLD.pem)
    pins.adopt(NEW.pem)
    assert pins.fall_back()
    assert pins.pem == OLD.pem
    assert pins.fall_back()
    assert pins.pem == NEW.pem.strip()
    pins.confirm()
    assert not pins.fall_back()
    assert pins.pem == NEW.pem.strip()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("nonsense", id="no PEM"),
        pytest.param(NEW.pem + OLD.pem, id="two"),
        pytest.param(
            NEW.pem + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", id="with a key"
        ),
        pytest.param("text before\n" + NEW.pem, id="text before"),
        pytest.param(NEW.pem + "text behind", id="text behind"),
        pytest.param(NEW.pem.replace("BEGIN CERTIFICATE", "BEGIN TRUSTED CERTIFICATE"), id="another label"),
        pytest.param(NEW.pem.replace("M", "*", 1), id="no base64"),
        pytest.param(
            f"-----BEGIN CERTIFICATE-----\n{BODY[:-8]}\n-----END CERTIFICATE-----", id="a part of one"
        ),
        pytest.param(
            f"-----BEGIN CERTIFICATE-----\n{BODY.rstrip('=')}AAAA\n-----END CERTIFICATE-----",
            id="more behind",
        ),
        pytest.param("-----BEGIN CERTIFICATE-----\nMAMCAQU=\n-----END CERTIFICATE-----", id="no certificate"),
        pytest.param(NEW.bridge().pem, id="a leaf"),
        pytest.param(
            NEW.issue(["cloudtaser://x/y"], CLIENT, is_ca=True, lifetime=dt.timedelta(days=1)).pem,
            id="a CA that another one signed",
        ),
        pytest.param(intermediate(), id="a named CA that another one signed"),
        pytest.param(Authority(is_ca=False).pem, id="signed by itself, but no CA"),
        pytest.param(NEW.pem.strip() + "\u00a0" * 3 + "\u00e9", id="not ASCII"),
        pytest.param(NEW.pem.replace("\n", "\n" + "\n" * 20_000, 1), id="too long"),
    ],
)
def test_anything_but_one_ca_certificate_is_refused_and_changes_nothing(text: str) -> None:
    pins = Pins(OLD.pem)
    with pytest.raises(ProtocolError, match="next pod CA"):
        pins.adopt(text)
    assert pins.pem == OLD.pem
    assert not pins.fall_back()
