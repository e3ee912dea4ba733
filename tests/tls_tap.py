"""A TLS server in front of OpenBao that notes what passes in clear, and cuts connections when told to.

It stands where an Ingress would: what goes on behind it is the real server. Tests learn from it the tokens
that a client was given, and which requests were made.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
from pathlib import Path
from typing import Self

from cloudtaser.demo.certificates import CertificateFiles, write_server_certificate

PATIENCE = 60.0


class Tap:
    """Listens on loopback; `address` and `ca_file` are for the client. To be used as a context."""

    def __init__(self, directory: Path, upstream_port: int) -> None:
        self._files: CertificateFiles = write_server_certificate(directory, "tap", ["127.0.0.1"])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self._files.certificate, self._files.key)
        self._upstream = upstream_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed = threading.Condition()
        self._requests = b""
        self._answers = b""
        self._open: set[socket.socket] = set()
        self._is_closed = False
        self._cut_behind: bytes | None = None
        self.cuts = 0
        self.refuses_tls = False

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def ca_file(self) -> str:
        return str(self._files.ca)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Cut every connection."""
        with self._changed:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def cut_behind(self, text: bytes | None) -> None:
        """Cut a connection in the middle of the answer that holds `text`; None: no more."""
        with self._changed:
            self._cut_behind = text

    def wait_for(self, pattern: bytes, *, count: int = 1) -> None:
        """Until `count` requests matched the pattern."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: len(re.findall(pattern, self._requests)) >= count, PATIENCE
            ), f"no {count} requests of {pattern!r}"

    def wait_for_cuts(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.cuts >= count, PATIENCE), "no connection to cut"

    def requests(self, pattern: bytes) -> int:
        """How many requests matched so far."""
        with self._changed:
            return len(re.findall(pattern, self._requests))

    def tokens(self) -> list[str]:
        """The tokens that were given out, in order."""
        return self.answered(rb'"client_token":"([^"]+)"')

    def answered(self, pattern: bytes) -> list[str]:
        """What matched the pattern's group in answers, in order."""
        with self._changed:
            return [found.decode() for found in re.findall(pattern, self._answers)]

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        if self.refuses_tls:
            with raw:
                raw.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(raw, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self._upstream)) as server,
        ):
            with self._changed:
                self._open |= {client, server}
            try:
                self._pass(client, server)
            finally:
                with self._changed:
                    self._open -= {client, server}

    def _pass(self, client: ssl.SSLSocket, server: socket.socket) -> None:
        """Until one side closes, or the answer came that is to be cut."""
        while True:
            ready = [client] if client.pending() else select.select([client, server], [], [], PATIENCE)[0]
            if not ready:
                return
            if client in ready:
                data = client.recv(65536)
                if not data:
                    return
                self._note(requests=data)
                server.sendall(data)
            if server in ready:
                data = server.recv(65536)
                at = self._note(answers=data)
                client.sendall(data if at is None else data[:at])
                if not data or at is not None:
                    with self._changed:
                        self.cuts += at is not None
                        self._changed.notify_all()
                    return

    def _note(self, *, requests: bytes = b"", answers: bytes = b"") -> int | None:
        """Keep what passes; where to cut it, or None."""
        with self._changed:
            before, cut = len(self._answers), self._cut_behind
            self._requests += requests
            self._answers += answers
            self._changed.notify_all()
            if cut is None:
                return None
            at = self._answers.find(cut, max(0, before - len(cut)))
            return None if at < 0 else max(0, at + len(cut) - before)
