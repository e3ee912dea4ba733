"""What one secret path makes of OpenBao's answers, and how several become values."""

from __future__ import annotations

import json

import pytest

from cloudtaser.wrapper.client import Answer, quote
from cloudtaser.wrapper.composing import compose
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.envmap import SecretPath, parse_map, parse_paths
from cloudtaser.wrapper.errors import ConfigError, ProtocolError
from cloudtaser.wrapper.http1 import Response
from cloudtaser.wrapper.lease import Lease
from cloudtaser.wrapper.secrets import CHANGED, FORBIDDEN, GONE, Secret, lease_renewal


def answer(document: object, status: int = 200) -> Answer:
    response = Response()
    response.status = status
    response.body.append(json.dumps(document).encode())
    return Answer(response)


def kv2(version: int, **fields: object) -> Answer:
    return answer({"data": {"data": fields, "metadata": {"version": version}}})


def metadata(version: int, *, deletion_time: str = "", destroyed: bool = False) -> Answer:
    state = {"deletion_time": deletion_time, "destroyed": destroyed}
    return answer({"data": {"current_version": version, "versions": {str(version): state}}})


def values_of(secret: Secret) -> dict[str, bytes]:
    return {name: bytes(span.view()) for name, span in secret.fields.items()}


@pytest.fixture
def secret() -> Secret:
    known = Secret(SecretPath("secret/data/app"))
    assert known.take(kv2(3, password="x"), 0) == ""
    return known


def test_a_versioned_secret_is_watched_by_its_metadata(secret: Secret) -> None:
    assert values_of(secret) == {"password": b"x"}
    assert secret.is_versioned
    assert secret.watch_path() == "secret/metadata/app"
    assert secret.look(metadata(3)) == ""
    assert secret.look(metadata(4)) == CHANGED
    assert secret.look(metadata(2)) == CHANGED


@pytest.mark.parametrize(
    "found",
    [
        metadata(4, deletion_time="2026-01-01T00:00:00Z"),
        metadata(4, destroyed=True),
        answer({}, 404),
        answer({}),
    ],
)
def test_a_deleted_secret_is_gone_and_not_changed(secret: Secret, found: Answer) -> None:
    assert secret.look(found) == GONE


def test_where_the_metadata_are_forbidden_the_secret_itself_is_looked_at(secret: Secret) -> None:
    assert secret.look(answer({}, 403)) == ""
    assert secret.watch_path() == "secret/data/app"
    assert secret.look(kv2(3)) == ""
    assert secret.look(kv2(4)) == CHANGED
    assert secret.look(answer({}, 403)) == FORBIDDEN


def test_a_pinned_secret_is_not_watched() -> None:
    pinned = Secret(SecretPath("secret/data/app", 2))
    assert pinned.read_call() == (b"GET", "secret/data/app?version=2", None)
    assert pinned.take(kv2(2, a="b"), 0) == ""
    assert not pinned.is_versioned
    with pytest.raises(ConfigError):
        pinned.take(answer({"data": {"a": "b"}}), 0)


def test_an_unversioned_secret_with_such_fields_is_not_mistaken() -> None:
    plain = Secret(SecretPath("kv1/app"))
    plain.take(answer({"data": {"data": {"a": 1}, "metadata": {"version": 1}}}), 0)
    assert plain.version is None
    assert values_of(plain) == {"data": b'{"a": 1}', "metadata": b'{"version": 1}'}


def test_only_a_lease_id_makes_a_lease() -> None:
    dynamic = Secret(SecretPath("database/creds/app"))
    dynamic.take(
        answer({"lease_id": "database/creds/app/1", "lease_duration": 90, "renewable": True, "data": {}}), 10
    )
    assert dynamic.lease is not None
    assert dynamic.lease.due == 70
    assert json.loads(bytes(lease_renewal(dynamic.lease).view())) == {"lease_id": "database/creds/app/1"}
    static = Secret(SecretPath("kv1/app"))
    static.take(answer({"lease_id": "", "lease_duration": 2764800, "renewable": False, "data": {}}), 10)
    assert static.lease is None


def test_a_lease_identifier_cannot_break_out_of_its_request() -> None:
    with pytest.raises(ProtocolError):
        lease_renewal(Lease('a","increment":"9', 1, True, 0))


def test_a_lease_identifier_is_bounded() -> None:
    with pytest.raises(ProtocolError, match="more than"):
        lease_renewal(Lease("a" * 5000, 1, True, 0))


@pytest.mark.parametrize(
    ("status", "trouble"), [(403, FORBIDDEN), (401, FORBIDDEN), (404, GONE), (400, GONE)]
)
def test_what_cannot_be_read_is_named(status: int, trouble: str) -> None:
    assert Secret(SecretPath("secret/data/app")).take(answer({"errors": ["no"]}, status), 0) == trouble


def test_an_answer_without_data_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Secret(SecretPath("secret/data/app")).take(answer({"data": []}), 0)


def test_a_value_no_environment_can_carry_is_an_error_only_if_it_was_asked_for() -> None:
    config = Config()
    config.paths = parse_paths("secret/data/app")
    secret = Secret(config.paths[0])
    secret.take(kv2(1, bad="a\0b", good="x"), 0)
    config.groups = parse_map("", 1)
    values, warnings = compose(config, [secret])
    assert list(values.spans) == ["GOOD"]
    assert "NUL" in warnings[0]
    config.groups = parse_map("bad=BAD", 1)
    with pytest.raises(ConfigError, match="NUL"):
        compose(config, [secret])


def test_an_error_line_is_one_line_and_bounded() -> None:
    message = answer({"errors": ["one\n  two\x07", "x" * 1000]}, 400).message()
    assert message.startswith("one two?; xxx")
    assert len(message) <= 400
    assert answer("not an object", 400).problem() == "status 400"


def test_a_path_is_percent_encoded_but_for_its_query() -> None:
    assert quote("secret/data/a b/ü#c?version=2") == b"secret/data/a%20b/%C3%BC%23c?version=2"


def certificate(expiration: int, not_before: int = 0) -> Answer:
    """What the PKI engine answers, without a lease."""
    fields: dict[str, object] = {"certificate": "PEM", "serial_number": "01", "expiration": expiration}
    if not_before:
        fields["not_before"] = not_before
    return answer({"lease_id": "", "lease_duration": 0, "renewable": False, "data": fields})


@pytest.mark.parametrize(
    ("expiration", "not_before", "due"),
    [
        (10_900, 0, 600),  # nothing else is known
        (10_900, 9_970, 600),  # the server dates back half a minute
        (19_000, 18_100, 600),  # the server's clock is ahead: a certificate lives 900 s, whatever ours says
        (1_900, 1_000, 300),  # it is behind: to be on the safe side, half of that
    ],
)
def test_a_certificate_without_a_lease_is_due_at_two_thirds_of_its_life(
    expiration: int, not_before: int, due: float
) -> None:
    secret = Secret(SecretPath("pki/issue/web", None, (("common_name", "app"),)))
    assert secret.take(certificate(expiration, not_before), 0, 10_000.0) == ""
    assert secret.lease is not None
    assert secret.lease.due == due
    assert not secret.lease.renewable
    assert not secret.has_lease
    method, path, body = secret.read_call()
    assert (method, path) == (b"POST", "pki/issue/web")
    assert body is not None
    assert json.loads(bytes(body.view())) == {"common_name": "app"}


def test_a_static_roles_password_is_due_when_the_server_changes_it() -> None:
    fields = {
        "username": "u",
        "password": "p",
        "ttl": 100,
        "rotation_period": 3600,
        "last_vault_rotation": "x",
    }
    secret = Secret(SecretPath("database/static-creds/legacy"))
    secret.take(answer({"lease_id": "", "lease_duration": 0, "data": fields}), 1000)
    assert secret.lease is not None
    assert secret.lease.due == 1101


def test_fields_of_a_kv_secret_are_no_expiry() -> None:
    fields = {"certificate": "PEM", "serial_number": "01", "expiration": 10, "last_vault_rotation": "x"}
    first = Secret(SecretPath("kv/app"))
    first.take(answer({"lease_id": "", "lease_duration": 2764800, "data": fields}), 0)
    second = Secret(SecretPath("secret/data/app"))
    second.take(kv2(1, **fields), 0)
    assert first.lease is None
    assert second.lease is None
