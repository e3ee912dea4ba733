"""Credentials: what a pull secret or a docker configuration holds, and for which images it is meant.

Used by `pull_secrets` (Secrets of types kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg), by
`own` (the operator's own file) and by `resolver`. Pure. Who gets what is decided as the kubelet does it
(pkg/credentialprovider, Kubernetes 1.34): by host, wildcards in a host's labels, and a path's beginning.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from cloudtaser.errors import ConfigError
from cloudtaser.kube.registry.reference import DOCKER_HUB
from cloudtaser.secret import Secret

MAX_CONFIG: Final = 1024 * 1024
"""Bytes of one docker configuration; a Secret holds no more either."""
MAX_ENTRIES: Final = 1024
MAX_FIELD: Final = 64 * 1024
HUB_KEY: Final = "index.docker.io"
_TOKEN_USER: Final = "<token>"  # noqa: S105  # Docker's mark for a password that is an identity token
_KEY: Final = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Credential:
    """One way to be somebody: a password, an identity token (OAuth2 refresh token) or a registry token."""

    source: str
    """Where it came from, for an error: `pull secret shop/regcred`."""
    username: str = ""
    password: Secret | None = None
    identity_token: Secret | None = None
    registry_token: Secret | None = None

    @property
    def identity(self) -> bytes:
        """Equal for equal credentials, wherever they came from; says nothing about them to anybody else."""
        parts = (self.password, self.identity_token, self.registry_token)
        hashed = hashlib.blake2b(key=_KEY, digest_size=16)
        for value in (self.username.encode(), *(part.reveal() if part else b"" for part in parts)):
            hashed.update(len(value).to_bytes(4, "big") + value)
        return hashed.digest()


@dataclass(frozen=True, slots=True)
class Entry:
    """A credential and the images it is meant for: a key of `auths`, without scheme and API version."""

    key: str
    credential: Credential

    def matches(self, name: str) -> bool:
        """Whether the kubelet would use it for the image `name` (`registry.example.com:5000/team/app`)."""
        host, _, path = self.key.partition("/")
        wanted, _, wanted_path = name.partition("/")
        if self.key == HUB_KEY and wanted == DOCKER_HUB:
            return True
        host, port = _host_port(host)
        wanted, wanted_port = _host_port(wanted)
        labels, wanted_labels = host.split("."), wanted.split(".")
        return (
            port == wanted_port
            and len(labels) == len(wanted_labels)
            and all(map(fnmatch.fnmatchcase, wanted_labels, labels))  # of its wildcards only * gets here
            and wanted_path.startswith(path)
        )


def parse_docker_config(data: bytes, *, source: str) -> tuple[Entry, ...]:
    """`{"auths": {…}}`, or its older form without that level. ConfigError names `source`, not the content."""
    try:
        value = json.loads(data) if len(data) <= MAX_CONFIG else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _error(source, "is no docker configuration")
    auths = value.get("auths", value if "credHelpers" not in value and "credsStore" not in value else {})
    if not isinstance(auths, dict):
        raise _error(source, "holds no auths")
    if len(auths) > MAX_ENTRIES:
        raise _error(source, f"has more than {MAX_ENTRIES} entries")
    found = []
    for location, fields in auths.items():
        if isinstance(fields, dict):
            key = _key(str(location))
            credential = _credential(fields, source)
            if key and credential is not None:
                found.append(Entry(key, credential))
    return tuple(found)


def matching(entries: Iterable[Entry], name: str) -> tuple[Credential, ...]:
    """The credentials for an image in the kubelet's order, each once: longer keys first, Docker Hub's own
    entry only when nothing else fits; of equal keys in the order given."""
    fitting = [entry for entry in entries if entry.matches(name)]
    direct = [entry for entry in fitting if entry.key != HUB_KEY]
    ordered = sorted(direct or fitting, key=lambda entry: entry.key, reverse=True)
    return distinct(entry.credential for entry in ordered)


def distinct(credentials: Iterable[Credential]) -> tuple[Credential, ...]:
    """Each once, where it comes first."""
    found: dict[bytes, Credential] = {}
    for credential in credentials:
        found.setdefault(credential.identity, credential)
    return tuple(found.values())


def _credential(fields: Mapping[str, Any], source: str) -> Credential | None:
    """One entry's credential; None when it is empty (a credential helper's place, a comment)."""
    username, password = _text(fields, "username", source), _text(fields, "password", source)
    auth = _text(fields, "auth", source)
    if auth:
        username, password = _decoded(auth, source)
    identity, registry = _text(fields, "identitytoken", source), _text(fields, "registrytoken", source)
    if username == _TOKEN_USER and not identity:
        identity, password = password, ""
    if not (identity or registry or (username and password)):
        return None
    return Credential(
        source,
        "" if username == _TOKEN_USER else username,
        Secret(password) if password else None,
        Secret(identity) if identity else None,
        Secret(registry) if registry else None,
    )


def _decoded(auth: str, source: str) -> tuple[str, str]:
    stripped = auth.strip()
    try:
        plain = base64.b64decode(stripped + "=" * (-len(stripped) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise _error(source, "has an auth that is no base64 of user:password") from None
    username, colon, password = plain.partition(":")
    if not colon:
        raise _error(source, "has an auth that is no base64 of user:password")
    return username, password.rstrip("\0")


def _text(fields: Mapping[str, Any], name: str, source: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_FIELD:
        raise _error(source, f"has a {name} that is no text")
    return value


def _key(location: str) -> str:
    """`https://index.docker.io/v1/` becomes `index.docker.io`: scheme and API version are for nothing."""
    try:
        parts = urlsplit(location if "://" in location else f"https://{location}")
        host, path = parts.netloc.lower(), parts.path
    except ValueError:
        return ""
    if path.startswith(("/v1/", "/v2/")):
        path = path[3:]
    return host if path in ("", "/") else f"{host}{path}"


def _host_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, port = text.partition("]")
        return host, port.removeprefix(":")
    host, _, port = text.partition(":")
    return host, port


def _error(source: str, what: str) -> ConfigError:
    return ConfigError(f"{source} {what}", fix="write it with `kubectl create secret docker-registry`")
