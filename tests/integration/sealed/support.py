"""A sealed wrapper as a real process, and its counterpart: an operator that hears announcements and seals."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import json
import queue
import socket
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cloudtaser.secret import Secret
from cloudtaser.wire.envelope import Recipient, Token, seal
from tests.sealing import CONTAINER, FINGERPRINT, POD_UID, SERVER_AUTH, Authority, p256
from tests.unit.wrapper.launch import PATIENCE, Wrapped

OPERATOR_NAME = "operator.cloudtaser.internal"
TOKEN = "s.CANARYsealedCANARYsealed01"
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJDQU5BUlkiOiJqd3QifQ.CANARYsignature"


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)


def recently() -> Authority:
    """A pod CA that is in force."""
    return Authority(now() - datetime.timedelta(hours=1))


@dataclass(slots=True)
class Sealer:
    """Who has the operator's sealing certificate."""

    key: ec.EllipticCurvePrivateKey
    leaf: bytes

    @classmethod
    def of(cls, authority: Authority) -> Sealer:
        key = p256()
        return cls(key, authority.leaf(key))

    def envelope(
        self,
        public_key: str,
        *,
        token: str = TOKEN,
        ttl: int = 3600,
        pod_uid: str = POD_UID,
        container: str = CONTAINER,
    ) -> bytes:
        whom = Recipient(base64.b64decode(public_key), pod_uid, container)
        return seal(Token(Secret(token), ttl), whom, self.leaf, self.key)


def settings(authority_pem: str, **more: str) -> dict[str, str]:
    """Of a sealed wrapper whose OpenBao is not there: nobody listens at port 1."""
    return {
        "VAULT_ADDR": "http://127.0.0.1:1",
        "VAULT_AUTH_METHOD": "token",
        "CLOUDTASER_SECRET_PATHS": "secret/data/app",
        "CLOUDTASER_CA": authority_pem,
        "CLOUDTASER_POD_UID": POD_UID,
        "CLOUDTASER_CONTAINER": CONTAINER,
        "CLOUDTASER_FINGERPRINT": FINGERPRINT,
        "CLOUDTASER_LISTEN_ADDR": "127.0.0.1:0",
        "CLOUDTASER_EBPF": "off",
    } | more


class Sealed(Wrapped):
    """A wrapper that waits for its token. `host` and `port` are where."""

    def __init__(self, *command: str, settings: dict[str, str]) -> None:
        super().__init__(*command, settings=settings)
        address = str(self.event("sealed: waiting for a token")["address"])
        self.host, _, port = address.rpartition(":")
        self.port = int(port)

    def __enter__(self) -> Self:
        return self

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def status(self) -> dict[str, Any]:
        status, answer = self.ask("GET", "/v1/status")
        assert status == 200
        return answer

    def public_key(self) -> str:
        return str(self.status()["public_key"])

    def unseal(self, body: bytes) -> int:
        return self.ask("POST", "/v1/unseal", body)[0]

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=PATIENCE)

    def raw(self, data: bytes) -> bytes:
        """What comes back for bytes that are no request of a decent client."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            return everything(connection)


def everything(connection: socket.socket) -> bytes:
    """Until the other side closes."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            received += data
    return received


@dataclass(slots=True)
class Announced:
    """One announcement as it came."""

    body: dict[str, Any]
    head: str
    server_name: str


@dataclass(slots=True)
class Operator:
    """The operator's port 8446: hears announcements over TLS and answers each with a status.

    One that is `away` has its port, and refuses every connection until `listen`.
    """

    file: Path
    answers: list[int] = field(default_factory=list)
    heard: queue.Queue[Announced] = field(default_factory=queue.Queue)
    away: bool = False
    port: int = field(init=False)
    _listener: socket.socket = field(init=False)
    _context: ssl.SSLContext = field(init=False)
    _thread: threading.Thread = field(init=False)
    _name: str = ""

    def __post_init__(self) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.file)
        self._context.sni_callback = self._note
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        if not self.away:
            self.listen()

    def listen(self) -> None:
        self._listener.listen(16)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # a close alone leaves `accept` at it
        self._thread.join(PATIENCE)
        self._listener.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def next(self) -> Announced:
        return self.heard.get(timeout=PATIENCE)

    def _note(self, _: object, name: str, __: object) -> None:
        self._name = name

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(PATIENCE)
                with contextlib.suppress(OSError, ssl.SSLError), connection:
                    self._hear(connection)

    def _hear(self, connection: socket.socket) -> None:
        with self._context.wrap_socket(connection, server_side=True) as tls:
            request = b""
            while b"\r\n\r\n" not in request:
                request += tls.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            while len(body) < length:
                body += tls.recv(65536)
            status = self.answers.pop(0) if self.answers else 202
            tls.sendall(b"HTTP/1.1 %d x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}" % status)
        self.heard.put(Announced(json.loads(body), head.decode(), self._name))


def server_file(authority: Authority, directory: Path, name: str = OPERATOR_NAME) -> Path:
    """Key and certificate of a server of that name."""
    key = p256()
    leaf = authority.leaf(key, names=[x509.DNSName(name)], purposes=[SERVER_AUTH])
    certificate = x509.load_der_x509_certificate(leaf).public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = directory / "operator.pem"
    file.write_bytes(private + certificate)
    return file


def jwt_file(directory: Path) -> Path:
    """The pod's token for this purpose, as the kubelet leaves it."""
    file = directory / "unseal-token"
    file.write_text(JWT + "\n")
    return file
