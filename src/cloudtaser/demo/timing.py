"""How long each hop of a secret's way takes, measured as a pod meets it.

Used by the demo's last chapter. Figures for people: `bench/` has the ones to compare.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from cloudtaser.demo.chain import Chain, Pod
from cloudtaser.errors import UnavailableError
from cloudtaser.wire import names
from cloudtaser.wire.hashes import pod_ca_label, short_fingerprint

_ROUNDS = 20
_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Hop:
    """One row: what was measured, its median in seconds, and what lies on that way."""

    name: str
    seconds: float
    remark: str


class PodClient:
    """A plain TLS client in a pod's place: the broker's address, the pod CA, the pod's token."""

    def __init__(self, address: str, pod_ca: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.load_verify_locations(cadata=pod_ca)
        self._server = f"{pod_ca_label(ssl.PEM_cert_to_DER_cert(pod_ca))}.{names.BRIDGE_NAME}"
        self._connection: http.client.HTTPConnection | None = None
        self.token = ""

    def connect(self) -> tuple[float, float]:
        """Seconds until the broker accepted, and until TLS with the bridge stood."""
        self.close()
        # wrapped before it connects: CPython never closes a socket that was reset before it was wrapped
        tls = self._context.wrap_socket(
            socket.socket(socket.AF_INET), server_hostname=self._server, do_handshake_on_connect=False
        )
        try:
            tls.settimeout(_TIMEOUT)
            tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            began = time.perf_counter()
            tls.connect(self._address)
            accepted = time.perf_counter()
            tls.do_handshake()
            done = time.perf_counter()
        except BaseException:
            tls.close()
            raise
        self._connection = http.client.HTTPConnection(self._server, timeout=_TIMEOUT)
        self._connection.sock = tls
        return accepted - began, done - accepted

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """One request on the open connection; status and body."""
        if self._connection is None or self._connection.sock is None:  # the server may have closed it
            self.connect()
        assert self._connection is not None
        sent = {"X-Vault-Token": self.token} if self.token else {}
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, sent | (headers or {}))
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def login(self, jwt: str, role: str = "default") -> None:
        """Log in as the pod; keeps the token. UnavailableError with the server's words when refused."""
        status, body = self.request("POST", "/v1/auth/jwt/login", {"role": role, "jwt": jwt})
        if status != 200:
            raise UnavailableError("the login was refused", on=body.decode())
        self.token = json.loads(body)["auth"]["client_token"]

    def close(self) -> None:
        """Close the connection, if one is open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


async def time_hops(chain: Chain, pod: Pod, path: str) -> list[Hop]:
    """Medians for connecting, logging in and reading `path`, and for the same read beside OpenBao."""
    return await asyncio.to_thread(_time_hops, chain, pod, path)


def _time_hops(chain: Chain, pod: Pod, path: str) -> list[Hop]:
    client = PodClient(chain.broker_address, chain.pod_ca())
    jwt = pod.token_file.read_text()
    connects = [client.connect() for _ in range(_ROUNDS)]
    logins = _rounds(lambda: client.login(jwt))
    reads = _rounds(lambda: _expect(client.request("GET", f"/v1/{path}")))
    token = client.token
    client.close()
    direct = http.client.HTTPSConnection(
        "127.0.0.1", chain.openbao.port, context=ssl.create_default_context(cafile=chain.openbao.ca_file)
    )
    headers = {
        "X-Vault-Token": token,
        "X-Vault-Namespace": f"cloudtaser/{short_fingerprint(chain.fingerprint)}",
    }

    def read_directly() -> None:
        direct.request("GET", f"/v1/{path}", headers=headers)
        answer = direct.getresponse()
        _expect((answer.status, answer.read()))

    read_directly()
    directly = _rounds(read_directly)
    direct.close()
    whole_way = "pod → broker → beacon → bridge"
    return [
        Hop("TCP connection", statistics.median(connect[0] for connect in connects), "pod → broker"),
        Hop("TLS handshake", statistics.median(connect[1] for connect in connects), whole_way),
        Hop("login", logins, f"{whole_way} → OpenBao"),
        Hop("read a secret", reads, f"{whole_way} → OpenBao"),
        Hop("the same read, direct", directly, "beside OpenBao, nothing between"),
        Hop("so the chain adds", max(0.0, reads - directly), "broker, beacon, bridge and their TLS"),
    ]


def _rounds(action: Callable[[], None]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _expect(answer: tuple[int, bytes]) -> None:
    status, body = answer
    if status != 200:
        raise UnavailableError(f"a read was answered with status {status}", on=body.decode(errors="replace"))
