"""Every annotation lands in exactly the variable that the wrapper reads."""

from __future__ import annotations

from typing import Any

import pytest

from cloudtaser.kube.annotations import GRAMMAR, PREFIX, TEMPLATE
from cloudtaser.operator.webhook import environment as made
from cloudtaser.operator.webhook.pods import JWT_DIRECTORY
from cloudtaser.wrapper import config as wrapper
from cloudtaser.wrapper.oversights import KNOWN, oversights
from tests.unit.operator.webhook.pods_rig import PEM, World, container, environment, mutated, pod

DIRECT = {"vault_address": "https://vault.example.com", "allow_skip_verify": True}


async def started(annotations: dict[str, str], *more: Any, **settings: Any) -> wrapper.Config:
    """The wrapper's own reading of what the webhook sets for it, without anything that it would warn of."""
    asked = {PREFIX + name: value for name, value in annotations.items()}
    subject = pod(*(more or (container(),)), annotations=asked)
    found = environment(await mutated(World(), subject, **settings))
    found = {name: "uid-1" if "fieldRef" in value else value for name, value in found.items()}
    environ = {name.encode(): value.encode() for name, value in found.items()}
    config = wrapper.load(environ)
    assert oversights(environ, config) == []
    return config


async def test_by_itself_a_pod_goes_through_the_broker_with_its_own_token() -> None:
    config = await started({})
    assert config.endpoint is not None
    assert (config.endpoint.broker, config.endpoint.host, config.endpoint.port) == (
        True,
        "cloudtaser-broker.cloudtaser-system.svc",
        8443,
    )
    assert (config.method, config.mount, config.role) == ("kubernetes", "auth/jwt", "default")
    assert config.ca_pem == PEM.strip()
    assert config.jwt_file == f"{JWT_DIRECTORY}/token"
    assert [str(path) for path in config.paths] == ["secret/data/shop/db"]
    assert (config.container, config.agent, config.rotation, config.delivery) == (
        "app",
        "auto",
        "restart",
        "env",
    )


# annotation -> (value, settings of the operator, field of the wrapper's configuration, what it must be)
LANDS: dict[str, tuple[str, dict[str, Any], str, Any]] = {
    "secret-paths": ("a/b#2", {}, "paths", "(SecretPath(a/b#2),)"),
    "env-map": ("x=@Y", {}, "groups", "((Mapping(x=@Y),),)"),
    "vault-address": (
        "https://10.0.0.1:1",
        {"allowed_addresses": ("10.0.0.0/8:1",)},
        "endpoint.host",
        "'10.0.0.1'",
    ),
    "vault-role": ("web", {}, "role", "'web'"),
    "vault-auth-method": ("token", {}, "is_sealed", "True"),
    "vault-auth-mount": ("auth/k8s", {}, "mount", "'auth/k8s'"),
    "vault-namespace": ("team", DIRECT, "namespace", "'team'"),
    "vault-skip-verify": ("true", DIRECT, "skip_verify", "True"),
    "vault-client-cert": ("/etc/c", DIRECT, "client_key", "'/etc/c/tls.key'"),
    "rotation": ("none", {}, "rotation", "'none'"),
    "delivery": ("file", {}, "delivery", "'file'"),
    "ebpf": ("required", {}, "agent", "'required'"),
    "override": ("false", {}, "override", "False"),
    "allow-loader-env": ("true", {}, "allow_loader_env", "True"),
    "template-URL": (
        "x://{{password}}$(X)",
        {},
        "templates",
        "(Template(URL, (b'x://', Field('password', None, optional=False, filters=()), b'$(X)')),)",
    ),
}
ABOUT_THE_POD = {
    "inject",
    "config",
    "containers",
    "skip-containers",
    "init-containers",
    "wrap-exec",
    "vault-audience",
}


@pytest.mark.parametrize("name", LANDS)
async def test_an_annotation_reaches_the_wrapper(name: str) -> None:
    value, settings, field, expected = LANDS[name]
    found: Any = await started({name: value}, **settings)
    for part in field.split("."):
        found = getattr(found, part)
    assert repr(found) == expected


def test_no_annotation_is_left_out_of_this_table() -> None:
    ours = {name for name in GRAMMAR if not name.startswith("s3proxy")} | {TEMPLATE + "URL"}
    assert ours == LANDS.keys() | ABOUT_THE_POD


async def test_a_sealed_wrapper_has_all_it_needs() -> None:
    config = await started({"vault-auth-method": "token"})
    assert config.is_sealed
    assert (config.pod_uid, config.listen) == ("uid-1", ("", made.FIRST_PORT))
    assert config.operator is not None
    assert (config.operator.host, config.operator.port) == ("cloudtaser-operator.cloudtaser-system.svc", 8446)
    assert config.unseal_jwt_file == f"{JWT_DIRECTORY}/unseal-token"


async def test_what_the_chart_says_reaches_the_wrapper() -> None:
    config = await started(
        {}, rotation_grace="20s", rotation_debounce="1s", poll_interval="1m", delivery="memory"
    )
    assert (config.rotation_grace, config.rotation_debounce, config.rotation_interval) == (20, 1, 60)
    assert config.delivery == "memory"


async def test_a_container_that_imports_everything_is_started_all_the_same() -> None:
    imports = container(envFrom=[{"configMapRef": {"name": "x"}}])
    assert (await started({}, imports)).paths
    assert (await started({"vault-auth-method": "token"}, imports)).is_sealed


def test_every_variable_that_is_decided_is_one_that_the_wrapper_reads() -> None:
    assert set(made.DECIDED) <= wrapper.OURS | KNOWN
    assert made.FIRST_PORT == wrapper.DEFAULT_LISTEN_PORT
    assert f"{JWT_DIRECTORY}/token" == wrapper.DEFAULT_JWT_FILE


def test_every_variable_of_the_wrapper_is_decided_or_a_containers_own() -> None:
    own = {
        "DELIVERY",
        "ENV_MAP",
        "LOG_LEVEL",
        "OVERRIDE",
        "PARENT_DEATH_SIGNAL",
        "REQUEST_TIMEOUT",
        "REVOKE_ON_EXIT",
        "REQUIRE_MEMFD_SECRET",
        "ROTATION",
        "ROTATION_DEBOUNCE",
        "ROTATION_GRACE",
        "ROTATION_INTERVAL",
        "ROTATION_PROBATION",
        "SECRET_PATHS",
        "STARTUP_TIMEOUT",
        "ALLOW_LOADER_ENV",
    }
    assert (
        set(made.DECIDED) | {f"CLOUDTASER_{name}" for name in own} | {"VAULT_TOKEN"} == wrapper.OURS | KNOWN
    )
