"""How the bridge is, on a Unix socket: whoever connects gets one JSON document and the end.

Served by `service`; read by `cloudtaser-bridge status` and by exec probes. There is no request, so nothing
is parsed. The socket belongs to the user of the bridge alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from cloudtaser.errors import ConfigError, UnavailableError

READ_TIMEOUT: Final = 5.0
MAX_DOCUMENT: Final = 4 * 1024 * 1024
_FLAG: Final = "--status-socket"


class StatusSocket:
    """The serving side."""

    def __init__(self, path: str, describe: Callable[[], dict[str, Any]]) -> None:
        self._path = Path(path)
        self._describe = describe
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. ConfigError when the path cannot be used, or another bridge uses it."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            _remove_stale(self._path)
            before = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(before)
        except OSError as error:
            listener.close()
            reason = error.strerror or str(error)
            raise ConfigError(
                f"the status socket cannot be made: {reason.lower()}",
                on=str(self._path),
                fix=f"give a path that this user may write with {_FLAG}",
            ) from None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Teller(self._describe), sock=listener)

    async def close(self) -> None:
        """Stop listening and remove the socket."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()
            with contextlib.suppress(OSError):
                self._path.unlink()


class _Teller(asyncio.Protocol):
    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._describe = describe

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's do not say so by class
        transport.write(json.dumps(self._describe()).encode() + b"\n")
        transport.close()


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more, as a killed bridge leaves it."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(READ_TIMEOUT)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another bridge uses it")


def ask(path: str) -> dict[str, Any]:
    """What the bridge behind `path` says of itself. UnavailableError when there is none."""
    parts: list[bytes] = []
    size = 0
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(READ_TIMEOUT)
            connection.connect(path)
            while data := connection.recv(65536):
                parts.append(data)
                size += len(data)
                if size > MAX_DOCUMENT:
                    break
        document = json.loads(b"".join(parts))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnavailableError(
            f"no bridge answers there: {reason}", on=path, fix=f"start it, or name its socket with {_FLAG}"
        ) from None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UnavailableError("what answers there is no bridge", on=path, fix=f"check {_FLAG}")
    return document
