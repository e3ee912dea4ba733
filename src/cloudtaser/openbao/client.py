"""A small asynchronous client of OpenBao's HTTP API: requests, KV v2 and errors in a person's words.

Used by everything in this package, by the bridge for its own records (what pods ask is streamed elsewhere)
and by the CLI. It knows no path of cloudtaser's; `layout` does.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import random
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from cloudtaser.errors import CloudtaserError, ConfigError, ProtocolError, UnavailableError
from cloudtaser.net.connector import ProxiedConnector
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.net.tls import UntrustedError
from cloudtaser.openbao.errors import CasConflict, NotFoundError, OpenBaoError, error_for
from cloudtaser.secret import Secret

Json = dict[str, Any]

MAX_ANSWER: Final = 16 * 1024 * 1024  # bytes; far above any answer of ours, far below memory
MAX_CONNECTIONS: Final = 16
_PASSING_WAIT: Final = 5.0  # seconds that a refusal may last which passes (OpenBaoError.passes)
_PASSING_PAUSE: Final = (0.02, 0.1)  # seconds between tries: apart, so that writers do not meet again


@dataclass(frozen=True, slots=True)
class KvValue:
    """One version of a KV v2 entry. `metadata` is the version's: created_time, custom_metadata and so on."""

    data: Json
    version: int
    metadata: Json


def check_address(text: str) -> str:
    """`scheme://host[:port]` without a trailing slash; ConfigError unless https, or http on loopback."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            "not an address of OpenBao", on=ascii(text), fix="give it as https://vault.example.com:8200"
        )
    if parts.username or parts.password or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError("an OpenBao address is scheme, host and port only", on=f"{parts.scheme}://{host}")
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigError(
            "a token would cross the network in clear",
            on=ascii(text),
            fix="use https:// (http:// is for loopback)",
        )
    return text.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine without asking any resolver."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class OpenBao:
    """One server, one token, and the namespace of requests that name none ("" is the root)."""

    def __init__(
        self,
        address: str,
        *,
        ca_file: str | None = None,
        token: Secret | None = None,
        namespace: str = "",
        timeout: float = 10,
        certificate: tuple[str, str] | None = None,
        proxies: Proxies = DIRECT,
    ) -> None:
        """`certificate`: files of a client certificate and its key, read now, for a login by certificate."""
        self.address = check_address(address)
        self.namespace = namespace.strip("/")
        self._token = token
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._verify = _tls_context(self.address, ca_file, certificate)
        self.proxies = proxies
        """By which proxy it is reached, if any."""
        self._session: aiohttp.ClientSession | None = None

    def set_token(self, token: Secret | None) -> None:
        """The token of the requests that start from now on."""
        self._token = token

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the client can be used again afterwards."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        namespace: str | None = None,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Json:
        """The answer's JSON object, {} if it has no body. `path` is without `/v1/`.

        Raises OpenBaoError or a subclass, UnavailableError, or ProtocolError if it is no OpenBao.
        """
        space = self.namespace if namespace is None else namespace.strip("/")
        headers = {"X-Vault-Request": "true"}
        if space:
            headers["X-Vault-Namespace"] = space
        if self._token is not None:
            headers["X-Vault-Token"] = self._token.reveal_text()
        url = URL(f"{self.address}/v1/{quote(path, safe='/')}", encoded=True).update_query(query or {})
        give_up = asyncio.get_running_loop().time() + _PASSING_WAIT
        while True:
            status, raw = await self._exchange(method, url, headers, body)
            answer = _parse(raw, self.address)
            if status < 300:
                return answer
            error = error_for(status, method, path, space, answer, address=self.address)
            if not error.passes or asyncio.get_running_loop().time() > give_up:
                raise error
            await asyncio.sleep(random.uniform(*_PASSING_PAUSE))  # noqa: S311 - jitter

    async def find(self, path: str, *, namespace: str | None = None) -> Json | None:
        """What a GET answers under `data`, or None where nothing is."""
        try:
            answer = await self.request("GET", path, namespace=namespace)
        except NotFoundError:
            return None
        data: Json = answer.get("data") or {}
        return data

    async def list(self, path: str, *, namespace: str | None = None) -> list[str]:
        """The keys below `path`, [] where nothing is."""
        try:
            answer = await self.request("LIST", path, namespace=namespace)
        except NotFoundError:
            return []
        keys = (answer.get("data") or {}).get("keys") or []
        return [str(key) for key in keys]

    async def kv_read(
        self, mount: str, path: str, *, namespace: str | None = None, version: int | None = None
    ) -> KvValue | None:
        """One entry of a KV v2 mount, None if it is absent or deleted."""
        query = {"version": str(version)} if version is not None else None
        try:
            answer = await self.request("GET", f"{mount}/data/{path}", namespace=namespace, query=query)
        except NotFoundError:
            return None
        data = answer.get("data")
        if not isinstance(data, dict) or not isinstance(data.get("metadata"), dict):
            raise ProtocolError("not a KV version 2 mount", on=mount, fix="enable it with options version=2")
        if not isinstance(data.get("data"), dict):
            return None
        return KvValue(data["data"], int(data["metadata"]["version"]), data["metadata"])

    async def kv_write(
        self,
        mount: str,
        path: str,
        data: Mapping[str, Any],
        *,
        namespace: str | None = None,
        cas: int | None = None,
    ) -> int:
        """Write a version and return its number; CasConflict unless `cas` is current (0: none yet)."""
        body: Json = {"data": dict(data)}
        if cas is not None:
            body["options"] = {"cas": cas}
        answer = await self.request("POST", f"{mount}/data/{path}", namespace=namespace, body=body)
        return int(answer["data"]["version"])

    async def kv_metadata(self, mount: str, path: str, *, namespace: str | None = None) -> Json | None:
        """Versions and custom metadata of an entry, None if it never was."""
        return await self.find(f"{mount}/metadata/{path}", namespace=namespace)

    async def kv_forget(self, mount: str, path: str, *, namespace: str | None = None) -> None:
        """Delete an entry with all its versions and metadata, so that cas=0 may create it again."""
        await self.request("DELETE", f"{mount}/metadata/{path}", namespace=namespace)

    async def lookup_self(self) -> Json:
        """What the token in use is: policies, ttl, renewable; NotAuthorisedError if it is not valid."""
        answer = await self.request("GET", "auth/token/lookup-self")
        data: Json = answer["data"]
        return data

    async def _exchange(
        self, method: str, url: URL, headers: dict[str, str], body: Mapping[str, Any] | None
    ) -> tuple[int, bytes]:
        session = self._session
        if session is None:
            session = self._session = aiohttp.ClientSession(
                connector=self._connector(), timeout=self._timeout, trust_env=False
            )
        content = json.dumps(body, ensure_ascii=False).encode() if body is not None else None
        if content is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with session.request(
                method, url, data=content, headers=headers, allow_redirects=False
            ) as answer:
                status, raw = answer.status, await _bounded(answer)
        except (aiohttp.ClientConnectorCertificateError, UntrustedError) as error:
            raise UnavailableError(
                "the certificate of OpenBao is not trusted",
                on=self.address,
                fix="give its authority with --vault-ca-cert or VAULT_CACERT",
            ) from error
        except TimeoutError as error:
            raise UnavailableError("OpenBao did not answer in time", on=self.address) from error
        except (aiohttp.ClientError, CloudtaserError, ssl.SSLError, OSError) as error:
            raise UnavailableError(
                f"OpenBao cannot be reached: {_reason(error)}",
                on=getattr(error, "on", "") or self.address,
                fix=getattr(error, "fix", "") or "check the address and that the server runs",
            ) from error

        if raw is None:
            raise ProtocolError("OpenBao's answer is too long", on=self.address)
        return status, raw

    def _connector(self) -> aiohttp.BaseConnector:
        parts = urlsplit(self.address)
        proxied = self.proxies.route(parts.hostname or "", parts.port or 443) is not None
        if proxied and isinstance(self._verify, ssl.SSLContext):
            return ProxiedConnector(self.proxies, self._verify, limit=MAX_CONNECTIONS)
        return aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=self._verify)


async def _bounded(answer: aiohttp.ClientResponse) -> bytes | None:
    """The answer's body, None when it is too long."""
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_chunked(65536):
        size += len(part)
        if size > MAX_ANSWER:
            return None
        parts.append(part)
    return b"".join(parts)


def _tls_context(
    address: str, ca_file: str | None, certificate: tuple[str, str] | None = None
) -> ssl.SSLContext | bool:
    if not address.startswith("https:"):
        return True
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        reason = (
            error.strerror
            if isinstance(error, FileNotFoundError | PermissionError)
            else "no certificate in it"
        )
        raise ConfigError(
            f"the authority's certificate cannot be read: {reason}",
            on=str(ca_file),
            fix="--vault-ca-cert takes PEM",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        try:
            context.load_cert_chain(*certificate, password="")
        except (OSError, ssl.SSLError) as error:
            reason = _reason(error) if error.errno and not isinstance(error, ssl.SSLError) else "no such pair"
            raise ConfigError(
                f"the certificate for the login and its key cannot be used: {reason}",
                on=", ".join(certificate),
                fix="they must be PEM and fit each other, the key without a passphrase",
            ) from None
    return context


def _parse(raw: bytes, address: str) -> Json:
    if not raw:
        return {}
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ProtocolError("what answers there is not OpenBao", on=address, fix="check the address")
    return answer


def _reason(error: Exception) -> str:
    """The innermost text that helps, without aiohttp's decoration."""
    if isinstance(error, CloudtaserError):  # of the proxy, or of the TLS inside
        return error.what
    inner = getattr(error, "os_error", error)
    if isinstance(inner, ssl.SSLError):
        return "it does not speak TLS as we do"
    if isinstance(inner, socket.gaierror):
        return "its name does not resolve"
    if isinstance(inner, OSError) and inner.errno:
        return os.strerror(inner.errno).lower()
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection"
    return type(error).__name__


__all__ = ["CasConflict", "Json", "KvValue", "NotFoundError", "OpenBao", "OpenBaoError", "check_address"]
