"""References: what a pod calls its image, as every container runtime understands it.

Used by `resolver`. The rules are those of distribution's `reference.ParseDockerRef`, by which containerd and
the kubelet go: `nginx` is `docker.io/library/nginx:latest`, and of a tag and a digest the digest counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import ProtocolError
from cloudtaser.kube.registry.errors import ImageReferenceError
from cloudtaser.net.addresses import parse_host

DOCKER_HUB: Final = "docker.io"
MAX_REFERENCE: Final = 1024
_MAX_NAME: Final = 255
_LEGACY_HUB: Final = "index.docker.io"
_OFFICIAL: Final = "library"
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", re.ASCII)
_IDENTIFIER: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """One image by name: `tag` or `digest` is set, never both."""

    host: str
    """As written, port included: `docker.io`, `registry.example.com:5000`; in lower case."""
    repository: str
    """`library/nginx`."""
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """`docker.io/library/nginx`: what credentials are found by."""
        return f"{self.host}/{self.repository}"

    @property
    def selector(self) -> str:
        """The tag or digest, as it stands in a registry's URL."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The image that `text` names. ImageReferenceError says what is wrong with it."""
        if len(text) > MAX_REFERENCE:
            raise _error(text, "it is too long")
        rest, at, digest = text.partition("@")
        if at and not _DIGEST.fullmatch(digest):
            raise _error(text, "after @ goes sha256: and 64 hexadecimal digits")
        host, path = _split(text, rest)
        tag: str | None = None
        last = path.rpartition("/")[2]
        if ":" in last:
            path, _, tag = path.rpartition(":")
            if not _TAG.fullmatch(tag):
                raise _error(text, "its tag is none")
        if host == DOCKER_HUB and "/" not in path:
            path = f"{_OFFICIAL}/{path}"
        if path != path.lower():
            raise _error(text, "a repository is written in lower case")
        if not all(_COMPONENT.fullmatch(part) for part in path.split("/")):
            raise _error(text, "its name is none")
        if len(host) + 1 + len(path) > _MAX_NAME:
            raise _error(text, "its name is too long")
        if at:
            return cls(host, path, None, digest)
        return cls(host, path, tag or "latest")


def is_digest(text: str) -> bool:
    """Whether `text` is a digest that we can check."""
    return _DIGEST.fullmatch(text) is not None


def _split(text: str, name: str) -> tuple[str, str]:
    """Registry and what follows. The first part is a registry if no repository could be called so."""
    first, slash, rest = name.partition("/")
    if not slash or not (set(first) & set(".:[") or first == "localhost" or first != first.lower()):
        if _IDENTIFIER.fullmatch(name):
            raise _error(text, "64 hexadecimal digits are an image's identifier, not its name")
        return DOCKER_HUB, name
    host, port = first, ""
    if first.startswith("["):
        host, bracket, port = first[1:].partition("]")
        good = bool(bracket) and ":" in host and (not port or port.startswith(":"))
        port = port.removeprefix(":")
        good = good and (bool(port) or first.endswith("]"))
    else:
        host, colon, port = first.partition(":")
        good = "_" not in host and bool(port) == bool(colon)
    if not good or (port and (not _PORT.fullmatch(port) or not 0 < int(port) < 65536)):
        raise _error(text, "its registry is no host")
    try:
        plain = parse_host(host)
    except ProtocolError as error:
        raise _error(text, f"its registry is no host: {error.what}") from None
    written = f"[{plain}]" if ":" in host else str(plain)
    if written == _LEGACY_HUB and not port:
        return DOCKER_HUB, rest
    return f"{written}:{int(port)}" if port else written, rest


def _error(text: str, why: str) -> ImageReferenceError:
    return ImageReferenceError(f"{text[:120]!r} is no image: {why}", fix="correct the container's image")
