"""CONNECT: asking an HTTP proxy for a byte pipe to somebody, and understanding its answer.

Used by `net.proxy`. Pure: `request` makes the bytes to send, an `Answer` takes what comes back until the pipe
stands, and hands over whatever followed. (RFC 9110 §9.3.6, RFC 9112 §4.)
"""

from __future__ import annotations

import base64
import re
from typing import Final

from cloudtaser.errors import ProtocolError
from cloudtaser.secret import Secret

MAX_HEAD: Final = 16 * 1024
"""Bytes of everything that a proxy may say before the pipe stands."""
MAX_INTERIM: Final = 4
"""1xx answers that may come before the real one."""

_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]", re.ASCII)
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n\0]*)?")
_FIELD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*")
_END: Final = b"\r\n\r\n"
_START: Final = b"HTTP/1."


def authority(host: str, port: int) -> str:
    """`host:port`, an IPv6 address between brackets. ProtocolError for what cannot stand in a request."""
    name = f"[{host}]" if ":" in host else host
    if _HOST.fullmatch(name) is None or not 0 < port < 65536:
        raise ProtocolError("not a host and port that a proxy could be asked for", on=ascii(f"{host}:{port}"))
    return f"{name}:{port}"


def request(host: str, port: int, credentials: Secret | None = None) -> bytes:
    """The CONNECT request. `credentials` is `user:password`, sent as Basic (RFC 7617)."""
    target = authority(host, port)
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", "User-Agent: cloudtaser"]
    if credentials:
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(credentials.reveal()).decode()}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


class Answer:
    """A proxy's answer to one CONNECT: feed `receive` until it returns bytes, or `status` is a refusal."""

    __slots__ = ("_head", "_interim", "_size", "status")

    def __init__(self) -> None:
        self._head = b""
        self._size = 0
        self._interim = 0
        self.status = 0
        """The final status code once it is known, else 0."""

    def receive(self, data: bytes) -> bytes | None:
        """What the other side said behind the answer (often b"") once the pipe stands; None before.

        After None a `status` other than 0 is the proxy's refusal. Raises ProtocolError for what is no answer
        to a CONNECT, or a longer one than MAX_HEAD. Not to be called again after either end.
        """
        self._head += data
        while True:
            if not self._head.startswith(_START[: len(self._head)]):
                raise _not_a_proxy()
            end = self._head.find(_END)
            if self._size + (len(self._head) if end < 0 else end) > MAX_HEAD:
                raise ProtocolError("the proxy's answer is too long")
            if end < 0:
                return None
            status = _status(self._head[:end])
            rest, self._head = self._head[end + len(_END) :], b""
            if status >= 200:
                self.status = status
                return rest if status < 300 else None
            self._size += end
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                raise _not_a_proxy()
            self._head = rest


def _status(head: bytes) -> int:
    first, *fields = head.split(b"\r\n")
    found = _STATUS.fullmatch(first)
    if found is None or not all(_FIELD.fullmatch(field) for field in fields):
        raise _not_a_proxy()
    return int(found[1])


def _not_a_proxy() -> ProtocolError:
    return ProtocolError(
        "an answer that no HTTP proxy gives", fix="check the proxy's address and whether it is https://"
    )
