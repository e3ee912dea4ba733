"""The manager's configuration: what the kubelet mounts, a settings file read strictly, and few flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloudtaser.errors import ConfigError, UsageError
from cloudtaser.net.dial import Address
from cloudtaser.operator.config import read_broker
from cloudtaser.operator.manager_config import read_manager
from cloudtaser.operator.settings import Listen
from cloudtaser.operator.settings_file import read_settings
from tests.charts import NAMESPACE, beacon, only, render
from tests.unit.operator.parties import FINGERPRINT

IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
NAMED = ["--namespace", "cloudtaser-system"]


def test_in_a_pod_nothing_has_to_be_said() -> None:
    config = read_manager(NAMED, IN_A_POD)
    assert config.apiserver == "https://10.96.0.1:443"
    assert config.apiserver_token_file == "/var/run/secrets/kubernetes.io/serviceaccount/token"
    assert config.apiserver_ca == "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    assert (config.sockets, config.broker_uid) == ("/run/cloudtaser", 65533)
    assert config.webhook_listen == Listen("", 9443)
    assert config.id


def test_an_api_server_with_an_address_of_ipv6_is_one_too() -> None:
    config = read_manager(NAMED, IN_A_POD | {"KUBERNETES_SERVICE_HOST": "fd00::1"})
    assert config.apiserver == "https://[fd00::1]:443"


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (NAMED, {}, "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT do not name an API server"),
        ([], IN_A_POD, "cannot read our namespace"),
        ([*NAMED, "--lease-seconds", "1"], IN_A_POD, "1 s is no time for a lease"),
        ([*NAMED, "--lease-seconds", "x"], IN_A_POD, "'x' is not a number"),
        ([*NAMED, "--broker-uid", "-1"], IN_A_POD, "'-1' is not a number"),
        ([*NAMED, "--bridge-pin", "x"], IN_A_POD, "is not a bridge pin"),
        ([*NAMED, "--webhook-lifetime", "5"], IN_A_POD, "5 s is no life for a certificate"),
        ([*NAMED, "--standalone"], IN_A_POD, "--standalone"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: list[str], environment: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_manager(arguments, environment)


def test_without_a_broker_there_are_no_sockets() -> None:
    assert read_manager(NAMED, IN_A_POD | {"CLOUDTASER_OPERATOR_SOCKETS": "off"}).sockets is None


def test_a_broker_knows_where_the_api_server_is_and_no_more_of_it() -> None:
    config = read_broker(["--beacon-address", "b.example:443"], IN_A_POD)
    assert config.apiserver == Address("10.96.0.1", 443)
    assert config.carrier.apiserver_token_file == ""
    assert config.carrier.fingerprint == ""
    assert config.carrier.beacons == (Address("b.example", 443),)
    assert config.manager_uid == 65532
    with pytest.raises(UsageError, match="--beacon-address is missing"):
        read_broker([], IN_A_POD)
    with pytest.raises(UsageError, match="apiserver-token-file"):
        read_broker(["--apiserver-token-file", "/x"], IN_A_POD)


def settings_file(directory: Path, **fields: object) -> str:
    path = directory / "settings.json"
    path.write_text(json.dumps({"wrapper_image": "w:1"} | fields))
    return str(path)


def test_what_the_chart_writes_is_what_the_manager_reads(tmp_path: Path) -> None:
    values = beacon(webhook={"allowedAddresses": ["https://bao.example"], "allowSkipVerify": True})
    values |= {"wrapper": {"rotation": "sighup", "resources": {"limits": {"cpu": "1"}}}}
    data = only(render(values), "ConfigMap", "cloudtaser-operator")["data"]
    path = tmp_path / "settings.json"
    path.write_text(data["settings.json"])
    settings = read_settings(str(path), FINGERPRINT, NAMESPACE)
    assert settings.fingerprint == FINGERPRINT
    assert settings.namespace == NAMESPACE
    assert settings.wrapper_image == "ghcr.io/cloudtaser/wrapper:0.1.0"
    assert settings.vault_address == "broker://cloudtaser-broker.cloudtaser-system.svc:8443"
    assert settings.allowed_addresses == ("https://bao.example",)
    assert settings.allow_skip_verify
    assert settings.rotation == "sighup"
    assert settings.delivery == "env"  # not said: the program's own default
    assert settings.wrapper_resources == {"limits": {"cpu": "1"}}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"wraper_image": "w:1"}, "there is no setting 'wraper_image'"),
        ({"fingerprint": "x"}, "there is no setting 'fingerprint'"),
        ({"allowed_addresses": "https://a"}, "a setting cannot be used"),
        ({"failure_policy": "Maybe"}, "a setting cannot be used"),
        ({"allow_skip_verify": "yes"}, "a setting cannot be used"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, fields: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_settings(settings_file(tmp_path, **fields), FINGERPRINT, NAMESPACE)


def test_a_settings_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the settings: no such file"):
        read_settings(str(tmp_path / "none"), FINGERPRINT, NAMESPACE)
    broken = tmp_path / "broken"
    broken.write_text("{")
    with pytest.raises(Exception, match="is not strict JSON"):
        read_settings(str(broken), FINGERPRINT, NAMESPACE)
