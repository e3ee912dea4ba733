"""Transport: one request to a Kubernetes API server, or one stream from it, under one identity.

Base of `verbs`. One CA, one identity (a token that the kubelet replaces, or what a kubeconfig says), bounded
answers, bounded time, and errors that name what is missing. Streams have connections of their own, so that
watches never keep a call waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import SplitResult, urlencode, urlsplit

import aiohttp
from aiohttp.client_exceptions import ClientPayloadError
from multidict import CIMultiDict

from cloudtaser.errors import CloudtaserError, ConfigError
from cloudtaser.kube.access import Access, of_pod
from cloudtaser.kube.errors import (
    AnswerTooLargeError,
    ConflictError,
    GoneError,
    KubeForbiddenError,
    KubeRefusedError,
    KubeUnauthorisedError,
    KubeUnavailableError,
    NotFoundError,
)
from cloudtaser.net.connector import ProxiedConnector
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.net.tls import UntrustedError
from cloudtaser.secret import Secret
from cloudtaser.version import VERSION

Json = dict[str, Any]
_T = TypeVar("_T", str, dict)  # type: ignore[type-arg]  # a constraint is a class, never a parametrised one

MAX_ANSWER: Final = 3 * 1024 * 1024
"""Bytes of one answer, or of one line of a stream; etcd holds no object larger than 1.5 MiB."""
MAX_PAGE: Final = 16 * 1024 * 1024
"""Bytes of one page of a list. One object fits: JSON can be six times as long as what etcd holds."""
MAX_CONNECTIONS: Final = 8
MAX_STREAMS: Final = 32
"""Watches at once; one more fails within the timeout."""
MAX_MESSAGE: Final = 600
"""Characters of the API server's own words that an error repeats; a schema's complaint is long."""
MAX_RETRY_AFTER: Final = 60.0
_WEBSOCKET_HEARTBEAT: Final = 20.0  # seconds
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
"""A peer that vanished without a word is noticed within 35 s, on idle watches too."""
_MAX_WARNINGS: Final = 64
_WARNING: Final = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_VERBS: Final = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Transport:
    """One API server under one identity. Every method raises the errors of `kube.errors` and no other."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: str,
        token_file: str,
        timeout: float = 10.0,
        proxies: Proxies = DIRECT,
    ) -> None:
        """As a ServiceAccount, by its mounted files. `timeout`: seconds for one whole call, connect included.

        Nothing is sent before the first call.
        """
        _check(url)
        self._start(of_pod(url, ca_file, token_file), timeout, proxies)

    @classmethod
    def of(cls, access: Access, *, timeout: float = 10.0, proxies: Proxies = DIRECT) -> Self:
        """The same by what a kubeconfig says."""
        made = cls.__new__(cls)
        made._start(access, timeout, proxies)
        return made

    def _start(self, access: Access, timeout: float, proxies: Proxies) -> None:
        parts = _check(access.server)
        self.url = access.server.rstrip("/")
        self.host = parts.hostname or ""
        self.port = parts.port or 443
        self.ca_pem = access.ca_pem
        self._context = access.context
        self._server_name = access.server_name
        self._token = access.token
        self._extra = access.headers
        self.on_warning: Callable[[str], None] | None = None
        """Hears what the API server, or a webhook that it asked, warns of."""
        self._timeout = timeout
        self._proxies = proxies
        self._session: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the object is done."""
        for session in (self._session, self._streams):
            if session is not None:
                await session.close()
        self._session = self._streams = None

    # --- one call

    async def _call(
        self,
        method: str,
        path: str,
        resource: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        limit: int = MAX_ANSWER,
        verb: str = "",
    ) -> Json:
        """One request and its JSON object. The token is read anew and tried once more when it is refused.

        `resource` and `verb` (by default that of the method) are what an error names.
        """
        target = self.url + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": accept}
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body).encode()
        token = self._token.current()
        status, answer, wait = await self._send(method, target, data, headers, token, limit)
        if status == 401 and self._token.current() != token:
            token = self._token.current()
            status, answer, wait = await self._send(method, target, data, headers, token, limit)
        if 200 <= status < 300:
            return answer
        raise self._error(verb or _VERBS[method], resource, status, answer, wait)

    async def _send(
        self,
        method: str,
        target: str,
        data: bytes | None,
        headers: Mapping[str, str],
        token: Secret | None,
        limit: int,
    ) -> tuple[int, Json, float]:
        if self._session is None:
            self._session = self._new_session(MAX_CONNECTIONS, aiohttp.ClientTimeout(total=self._timeout))
        sent = self._identified(headers, token)
        with self._named_failures():
            async with self._session.request(
                method,
                target,
                data=data,
                headers=sent,
                allow_redirects=False,
                server_hostname=self._server_name,
            ) as response:
                raw = await self._bounded(response, limit)
                status, wait = response.status, _retry_after(response.headers.get("Retry-After", ""))
                if self.on_warning is not None:
                    for text in _warnings(response.headers.getall("Warning", ())):
                        self.on_warning(text)
        return status, self._object(status, raw, target), wait

    async def _text(self, path: str, resource: str, query: Mapping[str, str], limit: int) -> str:
        """A plain text, such as a log, of at most `limit` bytes."""
        target = f"{self.url}{path}?{urlencode(query)}"
        if self._session is None:
            self._session = self._new_session(MAX_CONNECTIONS, aiohttp.ClientTimeout(total=self._timeout))
        with self._named_failures():
            async with self._session.get(
                target,
                headers=self._identified({}, self._token.current()),
                allow_redirects=False,
                server_hostname=self._server_name,
            ) as response:
                raw = await self._bounded(response, limit)
                status = response.status
        if status != 200:
            raise self._error("get", resource, status, self._object(status, raw, target))
        return raw.decode("utf-8", "replace")

    # --- one stream

    async def _stream(
        self,
        path: str,
        resource: str,
        query: Mapping[str, str],
        *,
        seconds: float,
        accept: str,
        verb: str,
        on_open: Callable[[], None],
    ) -> AsyncGenerator[Json, None]:
        """The JSON objects of a streamed answer, one a line, until the server ends it. To be closed
        (`contextlib.aclosing`) by who leaves it earlier. `on_open` is called when it begins.

        `seconds` of silence, or a connection that breaks, is KubeUnavailableError: the end was not the
        server's. The time for connecting is the transport's own.
        """
        target = f"{self.url}{path}?{urlencode(query)}"
        token = self._token.current()
        for attempt in (1, 2):
            with self._named_failures(seconds):
                if self._streams is None:
                    self._streams = self._new_session(MAX_STREAMS, aiohttp.ClientTimeout(total=None))
                async with self._streams.get(
                    target,
                    headers=self._identified({"Accept": accept}, token),
                    server_hostname=self._server_name,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, connect=self._timeout, sock_read=seconds),
                ) as response:
                    if response.status == 200:
                        on_open()
                        async with contextlib.aclosing(_lines(response, self.url)) as lines:
                            async for line in lines:
                                yield self._line(line, target)
                        return
                    raw = await self._bounded(response, MAX_ANSWER)
                    status, wait = response.status, _retry_after(response.headers.get("Retry-After", ""))
            fresh = self._token.current()
            if status != 401 or fresh == token or attempt == 2:
                raise self._error(verb, resource, status, self._object(status, raw, target), wait)
            token = fresh

    def _line(self, line: bytes, target: str) -> Json:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise KubeUnavailableError("a line of the API server's stream is not a JSON object", on=target)
        return value

    async def websocket(
        self, path: str, resource: str, protocols: Sequence[str], max_message: int
    ) -> aiohttp.ClientWebSocketResponse:
        """A WebSocket at `path` that speaks one of `protocols`; `max_message` bounds a message, in bytes."""
        with self._named_failures():
            if self._streams is None:
                self._streams = self._new_session(MAX_STREAMS, aiohttp.ClientTimeout(total=None))
            try:
                async with asyncio.timeout(self._timeout):
                    opened = await self._streams.ws_connect(
                        self.url + path,
                        protocols=protocols,
                        headers=self._identified({}, self._token.current()),
                        server_hostname=self._server_name,
                        max_msg_size=max_message,
                        heartbeat=_WEBSOCKET_HEARTBEAT,
                    )
            except aiohttp.WSServerHandshakeError as error:
                raise self._error("create", resource, error.status, {}) from None
        if opened.protocol not in protocols:
            await opened.close()
            raise KubeUnavailableError("the API server speaks another protocol", on=f"create {resource}")
        return opened

    # --- what both need

    def _identified(self, headers: Mapping[str, str], token: Secret | None) -> CIMultiDict[str]:
        sent = CIMultiDict(headers)
        if token is not None:
            sent["Authorization"] = f"Bearer {token.reveal_text()}"
        for name, value in self._extra:
            sent.add(name, value)
        return sent

    def _new_session(self, connections: int, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        if self._proxies.route(self.host, self.port) is not None:
            connector = ProxiedConnector(self._proxies, self._context, limit=connections)
        else:
            connector = aiohttp.TCPConnector(ssl=self._context, limit=connections, socket_factory=_socket)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            headers={"User-Agent": f"cloudtaser/{VERSION}"},
            trust_env=False,
        )

    @contextlib.contextmanager
    def _named_failures(self, seconds: float | None = None) -> Iterator[None]:
        """What goes wrong on the way to the API server, as KubeUnavailableError."""
        try:
            yield
        except (aiohttp.ClientConnectorCertificateError, UntrustedError):
            raise KubeUnavailableError(
                "the API server's certificate does not match the CA that was given",
                on=self.url,
                fix="check that CA",
            ) from None
        except TimeoutError:
            raise KubeUnavailableError(
                f"the API server did not answer within {self._timeout if seconds is None else seconds:g} s",
                on=self.url,
                fix="check that it is up and reachable from here",
            ) from None
        except KubeUnavailableError:
            raise
        except CloudtaserError as error:  # of the proxy, or of the TLS inside
            raise KubeUnavailableError(
                f"cannot reach the API server: {error.what}", on=error.on or self.url, fix=error.fix
            ) from None
        except ClientPayloadError:
            raise KubeUnavailableError("the API server's answer was cut off", on=self.url) from None
        except (aiohttp.ClientError, OSError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise KubeUnavailableError(
                f"cannot reach the API server: {why}",
                on=self.url,
                fix="check that it is up and reachable from here",
            ) from None

    async def _bounded(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        raw = bytearray()
        async for piece in response.content.iter_any():
            raw += piece
            if len(raw) > limit:
                response.close()
                raise AnswerTooLargeError(
                    f"the API server's answer is larger than {limit} bytes", on=self.url
                )
        return bytes(raw)

    def _object(self, status: int, raw: bytes, target: str) -> Json:
        try:
            answer = json.loads(raw) if raw else {}
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            return answer
        if 200 <= status < 300:
            raise KubeUnavailableError("the API server's answer is not a JSON object", on=target)
        return {}

    def _error(
        self, verb: str, resource: str, status: int, answer: Json, wait: float = 0.0
    ) -> CloudtaserError:
        message = str(answer.get("message") or f"status {status}")[:MAX_MESSAGE]
        if status == 401:
            return KubeUnauthorisedError(
                "the API server does not accept our token",
                on=f"{verb} {resource}",
                fix=f"check that {self._token.path} holds a current token of this cluster",
            )
        if status == 403:
            return KubeForbiddenError(
                f"not permitted to {verb} {resource}",
                on=self.url,
                fix="grant that verb on that resource to our ServiceAccount by a Role",
            )
        if status == 404:
            return NotFoundError(f"{resource} does not exist", on=self.url)
        if status == 409 and verb == "apply":
            return ConflictError(f"{resource} has fields of another owner: {message}", on=self.url)
        if status == 409:
            return ConflictError(f"{resource} was changed by somebody else", on=self.url, fix="read it again")
        if status == 410:
            return GoneError(f"what was known of {resource} is too old", on=self.url, fix="it is listed anew")
        if status == 429 or status >= 500:
            return KubeUnavailableError(
                f"the API server is not ready: {message}",
                on=f"{verb} {resource}",
                fix="it will be tried again",
                retry_after=wait,
            )
        return KubeRefusedError(f"the API server refused to {verb} {resource}: {message}", on=self.url)

    def _field(self, holder: Json, name: str, kind: type[_T]) -> _T:
        value = holder.get(name)
        if not isinstance(value, kind):
            raise KubeUnavailableError(f"the API server's answer has no {name}", on=self.url)
        return value


def _check(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ConfigError("the API server must be https://HOST[:PORT]", on=url, fix="correct the URL")
    return parts


async def _lines(response: aiohttp.ClientResponse, url: str) -> AsyncGenerator[bytes, None]:
    """The lines of a body as they come, each bounded; a rest without a newline was cut off."""
    buffer = bytearray()
    async for piece in response.content.iter_any():
        start = len(buffer)
        buffer += piece
        while (end := buffer.find(b"\n", start)) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            start = 0
            if line.strip():
                yield line
        if len(buffer) > MAX_ANSWER:
            response.close()
            raise KubeUnavailableError(
                f"a line of the API server's stream exceeds {MAX_ANSWER} bytes", on=url
            )
    if buffer.strip():
        raise KubeUnavailableError("the API server's stream was cut off", on=url)


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, proto, _, _ = address
    made = socket.socket(family, kind, proto)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _warnings(headers: Sequence[str]) -> Iterator[str]:
    """The texts of Warning headers of code 299 (RFC 7234, 5.5): `299 - "text"`."""
    for header in headers[:_MAX_WARNINGS]:
        if found := _WARNING.match(header):
            yield _ESCAPED.sub(r"\1", found[1])[:MAX_MESSAGE]


def _retry_after(text: str) -> float:
    """Seconds of a Retry-After header; the API server sends whole seconds, never a date."""
    return min(float(text), MAX_RETRY_AFTER) if text.isascii() and text.isdigit() else 0.0
