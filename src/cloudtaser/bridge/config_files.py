"""A bridge that is given its certificates in files: which six settings that takes.

Used by `config`. `files` reads and checks what the settings name. (spec/bridge.md, beacon mode; the names
`--client-cert`, `--client-key` and `--ca-cert` are reverse mode's for the same settings.)
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Final

from cloudtaser.bridge.config_login import Values, readable
from cloudtaser.errors import ConfigError

_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ALIASES: Final = {"tls-cert": "client-cert", "tls-key": "client-key", "tls-ca": "ca-cert"}


@dataclass(frozen=True, slots=True)
class PairFiles:
    """The files of one cluster's pairs, and the SHA-256 that their tunnel CA must have."""

    beacon_info_hash: str
    tls_cert: str
    tls_key: str
    tls_ca: str
    pod_cert: str
    pod_key: str


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this module."""
    group = parser.add_argument_group(
        "certificates in files", "All six or none: one cluster is served, and no registry is needed."
    )
    add = group.add_argument
    add("--beacon-info-hash", metavar="HEX", help="SHA-256 of the tunnel CA, as `source register` prints it")
    add("--tls-cert", "--client-cert", metavar="FILE", help="the bridge's certificate for the tunnel")
    add("--tls-key", "--client-key", metavar="FILE", help="its key")
    add("--tls-ca", "--ca-cert", metavar="FILE", help="the tunnel CA")
    add("--pod-cert", metavar="FILE", help="the certificate that pods see")
    add("--pod-key", metavar="FILE", help="its key")


def read(values: Values) -> PairFiles | None:
    """All six settings, or None without any. ConfigError names those that are missing or bad."""
    given = {
        "beacon-info-hash": values.optional("beacon-info-hash", _info_hash),
        **{name: _file(values, name) for name in ("tls-cert", "tls-key", "tls-ca", "pod-cert", "pod-key")},
    }
    if not any(given.values()):
        return None
    found = {name.replace("-", "_"): value for name, value in given.items() if value is not None}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(
            "certificates in files are given in part",
            on=", ".join(missing),
            fix="give these too, or none of the six (`cloudtaser-cli source pairs` writes the files)",
        )
    return PairFiles(**found)


def _file(values: Values, name: str) -> str | None:
    found = values.optional(name, readable)
    if found is None and name in _ALIASES:  # the alias's own twin; its flag is the same flag
        found = values.optional(_ALIASES[name], readable)
    return found


def _info_hash(text: str) -> str:
    if not _HASH.fullmatch(text.lower()):
        raise ConfigError(
            "that is not an info hash",  # not repeated: it is the way into the room
            fix="the 64 hex digits that `source register` prints",
        )
    return text.lower()
