"""Configuration of the agent: environment variables, read and checked once at start; each has a twin in
docs/ebpf.md.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloudtaser.ebpf.guard import OBJECT, PINS
from cloudtaser.ebpf.layout import Mode
from cloudtaser.errors import ConfigError

SOCKET: Final = "/run/cloudtaser/agent.sock"
HEALTH: Final = "127.0.0.1:9090"
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_HANDOVER: Final = 3600


@dataclass(frozen=True, slots=True)
class Config:
    """All of it."""

    node: str
    object_path: str
    health: tuple[str, int]
    mode: Mode
    log_all: bool
    reactive_kill: bool
    everyone: bool
    socket: str
    pods: bool
    pins: Path | None
    executables: tuple[str, ...]
    runtimes: tuple[str, ...]
    runtime_cgroups: tuple[str, ...]
    tracers: tuple[str, ...]
    handover: int


def read(environment: Mapping[str, str]) -> Config:
    """Raises `ConfigError` that names the variable."""
    return Config(
        node=environment.get("NODE_NAME") or socket.gethostname(),
        object_path=environment.get("EBPF_OBJECT_PATH") or str(OBJECT),
        health=_address("HEALTH_LISTEN_ADDR", environment.get("HEALTH_LISTEN_ADDR") or HEALTH),
        mode=_mode(environment.get("ENFORCE_MODE") or "enforce"),
        log_all=_flag(environment, "LOG_ALL", default=False),
        reactive_kill=_flag(environment, "REACTIVE_KILL", default=False),
        everyone=_choice(environment, "GLOBAL_POLICY", ("off", "node")) == "node",
        socket=_socket(environment.get("CLOUDTASER_AGENT_SOCKET", SOCKET)),
        pods=_flag(environment, "POD_SOCKETS", default=False),
        pins=_pins(environment.get("EBPF_PIN_PATH") or str(PINS)),
        executables=_executables(environment.get("ALLOWED_EXECUTABLES", "")),
        runtimes=_paths("RUNTIME_EXECUTABLES", environment.get("RUNTIME_EXECUTABLES", "")),
        runtime_cgroups=_paths("RUNTIME_CGROUPS", environment.get("RUNTIME_CGROUPS", "")),
        tracers=_paths("TRACER_EXECUTABLES", environment.get("TRACER_EXECUTABLES", "")),
        handover=_seconds(environment.get("HANDOVER_SECONDS") or "0"),
    )


def _flag(environment: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = environment.get(name, "").strip().lower()
    if not value:
        return default
    if value in _TRUE | _FALSE:
        return value in _TRUE
    raise ConfigError(f"{value!r} is neither true nor false", on=name)


def _choice(environment: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    value = environment.get(name, "").strip().lower() or choices[0]
    if value not in choices:
        raise ConfigError(f"{value!r} is not one of {', '.join(choices)}", on=name)
    return value


def _mode(value: str) -> Mode:
    value = value.strip().lower()
    if value == "enforce" or value in _TRUE:
        return Mode.ENFORCE
    if value == "detect" or value in _FALSE:
        return Mode.DETECT
    raise ConfigError(f"{value!r} is neither detect nor enforce", on="ENFORCE_MODE")


def _address(name: str, value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{value!r} is no HOST:PORT", on=name)
    return host.strip("[]"), int(port)


def _socket(value: str) -> str:
    if value and not value.startswith(("/", "@")):
        raise ConfigError(
            f"{value!r} is no absolute path",
            on="CLOUDTASER_AGENT_SOCKET",
            fix="or @NAME for an abstract socket",
        )
    if len(value.encode()) > 107:
        raise ConfigError("longer than 107 bytes", on="CLOUDTASER_AGENT_SOCKET")
    return value


def _pins(value: str) -> Path | None:
    if value.lower() == "off":
        return None
    if not value.startswith("/"):
        raise ConfigError(f"{value!r} is no absolute path", on="EBPF_PIN_PATH", fix="or off")
    return Path(value)


def _list(value: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in value.split(",")) if part)


def _paths(name: str, value: str) -> tuple[str, ...]:
    for part in _list(value):
        if not part.startswith("/"):
            raise ConfigError(f"{part!r} is no absolute path", on=name)
    return _list(value)


def _executables(value: str) -> tuple[str, ...]:
    for part in _list(value):
        if not part.startswith("/") and not _DIGEST.fullmatch(part):
            raise ConfigError(
                f"{part!r} is neither an absolute path nor sha256: and 64 hex digits",
                on="ALLOWED_EXECUTABLES",
            )
    return _list(value)


def _seconds(value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) > _MAX_HANDOVER:
        raise ConfigError(f"{value!r} is no number of seconds up to {_MAX_HANDOVER}", on="HANDOVER_SECONDS")
    return int(value)
