"""Own: the operator's own credentials for registries, from a docker configuration in a file.

Used by `resolver`, for pods of the namespaces that may profit from them. The file is read again when it was
replaced, so that a job may renew short-lived passwords in it.
"""

from __future__ import annotations

import os

from cloudtaser.errors import ConfigError
from cloudtaser.kube.registry.credentials import MAX_CONFIG, Entry, parse_docker_config
from cloudtaser.net.log import get_logger

_log = get_logger("operator.registry")


class OwnCredentials:
    """The entries of one file; none without a file."""

    def __init__(self, path: str, namespaces: frozenset[str]) -> None:
        """`namespaces`: whose pods may profit; `*` for all. ConfigError when the file cannot be read now."""
        self._path = path
        self._namespaces = namespaces
        self._entries: tuple[Entry, ...] = ()
        self._seen: tuple[int, int, int] | None = None
        if path:
            self._load(self._stat())

    def entries(self, namespace: str) -> tuple[Entry, ...]:
        """The credentials for a pod of `namespace`. While the file is broken, those read last."""
        if not self._path or not ({"*", namespace} & self._namespaces):
            return ()
        try:
            seen = self._stat()
            if seen != self._seen:
                self._load(seen)
        except ConfigError as error:
            _log.warning("the operator's docker configuration cannot be read", error=error.diagnostic())
        return self._entries

    def _stat(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise ConfigError(f"cannot read it: {error.strerror}", on=self._path) from None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _load(self, seen: tuple[int, int, int]) -> None:
        try:
            with open(self._path, "rb") as file:
                data = file.read(MAX_CONFIG + 1)
        except OSError as error:
            raise ConfigError(f"cannot read it: {error.strerror}", on=self._path) from None
        self._entries = parse_docker_config(data, source=self._path)
        self._seen = seen
