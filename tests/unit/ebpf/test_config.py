"""The agent's environment."""

from __future__ import annotations

import pytest

from cloudtaser.ebpf import config
from cloudtaser.ebpf.layout import Mode
from cloudtaser.errors import ConfigError


def test_nothing_set_enforces_on_loopback_and_lets_nobody_register() -> None:
    found = config.read({})
    assert found.mode is Mode.ENFORCE
    assert found.health == ("127.0.0.1", 9090)
    assert found.executables == ()
    assert not found.reactive_kill
    assert not found.everyone


@pytest.mark.parametrize(
    ("value", "mode"),
    [("detect", Mode.DETECT), ("false", Mode.DETECT), ("enforce", Mode.ENFORCE), ("TRUE", Mode.ENFORCE)],
)
def test_the_mode_has_two_spellings(value: str, mode: Mode) -> None:
    assert config.read({"ENFORCE_MODE": value}).mode is mode


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENFORCE_MODE", "maybe"),
        ("LOG_ALL", "2"),
        ("REACTIVE_KILL", "perhaps"),
        ("GLOBAL_POLICY", "all"),
        ("HEALTH_LISTEN_ADDR", "9090x"),
        ("HEALTH_LISTEN_ADDR", ":99999"),
        ("CLOUDTASER_AGENT_SOCKET", "agent.sock"),
        ("CLOUDTASER_AGENT_SOCKET", "/" + "x" * 107),
        ("EBPF_PIN_PATH", "pins"),
        ("ALLOWED_EXECUTABLES", "python3"),
        ("ALLOWED_EXECUTABLES", "sha256:12"),
        ("RUNTIME_EXECUTABLES", "/usr/bin/runc,crun"),
        ("TRACER_EXECUTABLES", "bpftrace"),
        ("RUNTIME_CGROUPS", "system.slice"),
        ("HANDOVER_SECONDS", "-1"),
        ("HANDOVER_SECONDS", "9999"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.read({name: value})
    assert name in raised.value.diagnostic()


def test_lists_are_separated_by_commas() -> None:
    digest = "sha256:" + "a" * 64
    assert config.read({"ALLOWED_EXECUTABLES": f"/a, {digest},"}).executables == ("/a", digest)
