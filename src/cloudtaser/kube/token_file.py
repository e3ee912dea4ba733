"""TokenFile: the bearer token that the kubelet keeps in a file and replaces as it ages.

Used by `transport` for every request, so that a rotated token counts at once.
"""

from __future__ import annotations

import os
from typing import Final

from cloudtaser.kube.errors import KubeUnauthorisedError
from cloudtaser.secret import Secret

MAX_TOKEN_FILE: Final = 64 * 1024


class TokenFile:
    """The kubelet's token file, read again when it was replaced (a symlink is swapped)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = Secret(b"")

    def current(self) -> Secret:
        """The token as it is in the file now; KubeUnauthorisedError when there is none."""
        try:
            status = os.stat(self.path)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                with open(self.path, "rb") as file:
                    self._token = Secret(file.read(MAX_TOKEN_FILE).strip())
                self._seen = seen
        except OSError as error:
            raise KubeUnauthorisedError(
                f"cannot read the API server token: {error.strerror}", on=self.path, fix="check that file"
            ) from None
        if not self._token:
            raise KubeUnauthorisedError(
                "the API server token file is empty", on=self.path, fix="check that file"
            )
        return self._token
