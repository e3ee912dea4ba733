"""Settings: one setting at a time, a flag or its environment twin, and the name to blame when it is bad.

Used by `config` and `manager_config`. Each flag `--some-name` has the twin `CLOUDTASER_OPERATOR_SOME_NAME`;
the flag wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import ConfigError
from cloudtaser.operator.flags import PREFIX
from cloudtaser.secret import Secret

_PIN: Final = re.compile(r"spki-sha256:[0-9a-f]{64}", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Listen:
    """An address of our own to listen on; an empty host means every interface, port 0 any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Settings:
    """The flags that were parsed, and the environment."""

    def __init__(self, flags: Mapping[str, object], environment: Mapping[str, str]) -> None:
        self._flags = flags
        self._environment = environment

    def get(self, name: str) -> str:
        """The text, empty for none."""
        value = self._flags.get(name)
        return value if isinstance(value, str) else self._environment.get(PREFIX + name.upper(), "")

    def source(self, name: str) -> str:
        """The flag or the variable that the value came from; the flag when there is neither."""
        twin = PREFIX + name.upper()
        if self._flags.get(name) is None and self._environment.get(twin):
            return twin
        return "--" + name.replace("_", "-")

    def need(self, name: str) -> str:
        """The text; ConfigError when there is none."""
        value = self.get(name)
        if not value:
            raise ConfigError(
                f"--{name.replace('_', '-')} is missing", fix=f"give the flag or set {PREFIX}{name.upper()}"
            )
        return value

    def flag(self, name: str) -> bool:
        """True or false; false when not given."""
        if self._flags.get(name) is True:
            return True
        text = self._environment.get(PREFIX + name.upper(), "").strip().lower()
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        raise ConfigError(
            f"{text!r} is neither true nor false", on=self.source(name), fix="use true or false"
        )

    def listen(self, name: str, default: Listen | None) -> Listen | None:
        """An address to listen on; None for `off`, which --listen cannot be."""
        text = self.get(name).strip()
        if not text:
            return default
        if text == "off" and name != "listen":
            return None
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise ConfigError(
                f"{text!r} is not an address to listen on", on=self.source(name), fix="use HOST:PORT or :PORT"
            )
        return Listen(host, int(port))

    def number(self, name: str, default: int) -> int:
        """A whole number."""
        text = self.get(name).strip()
        if not text:
            return default
        if not _NUMBER.fullmatch(text):
            raise ConfigError(f"{text!r} is not a number", on=self.source(name), fix="use a whole number")
        return int(text)


def bridge_pin(settings: Settings) -> str:
    """The pin of the tunnel CA, empty for none."""
    pin = settings.get("bridge_pin").strip()
    if pin and not _PIN.fullmatch(pin):
        raise ConfigError(
            f"{pin!r} is not a bridge pin",
            on=settings.source("bridge_pin"),
            fix="use spki-sha256: and 64 hex digits, as `cloudtaser-cli source register` prints it",
        )
    return pin


def info_hash(settings: Settings) -> str:
    """The SHA-256 of the tunnel CA, empty for none."""
    text = settings.get("beacon_info_hash").strip().lower()
    if text and not _HASH.fullmatch(text):
        raise ConfigError(
            "that is not an info hash",  # not repeated: it is the way into the room
            on=settings.source("beacon_info_hash"),
            fix="use the 64 hex digits that `cloudtaser-cli source register` prints",
        )
    return text


def join_code(settings: Settings) -> Secret:
    """The code in --join-code-file, empty for none."""
    path = settings.get("join_code_file")
    if not path:
        return Secret(b"")
    try:
        with open(path, "rb") as file:
            code = file.read(4096).strip()
    except OSError as error:
        raise ConfigError(
            f"cannot read the join code: {os.strerror(error.errno or 0)}", on=path, fix="check that file"
        ) from None
    if not code or not code.isascii():
        raise ConfigError("the join code file holds no join code", on=path, fix="write the code into it")
    return Secret(code)


def log_level(settings: Settings) -> str:
    """One of the four."""
    level = (settings.get("log_level") or "info").lower()
    if level not in ("debug", "info", "warning", "error"):
        raise ConfigError(
            f"{level!r} is no log level", on=settings.source("log_level"), fix="debug, info, warning or error"
        )
    return level
