"""Transport: one bounded GET or HEAD at an address that is allowed, along redirects but without credentials.

Used by `client` and `auth`. Whatever is connected to, be it a registry, a token server or the end of a
redirect, passes the same checks: https, unless a rule says otherwise for that host; no user in the URL; the
host as it is written and every address that it resolves to (`net.addresses`), where the address that was
checked is the one that is dialled. Behind an HTTP proxy, names are resolved by the proxy, whose rules count
then.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from cloudtaser.errors import CloudtaserError, ConfigError, ProtocolError
from cloudtaser.kube.registry.errors import (
    ImageAddressError,
    ImageError,
    ImageUnusableError,
    RegistryCutOffError,
    RegistryUnavailableError,
    RegistryUnreachableError,
)
from cloudtaser.kube.registry.rules import Rule, Rules, canonical
from cloudtaser.kube.registry.settings import Bounds
from cloudtaser.net.addresses import Network, Scope, parse_host, permitted, scope, scope_of_name
from cloudtaser.net.connector import ProxiedConnector
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.net.tls import UntrustedError, reason
from cloudtaser.version import VERSION

MAX_REDIRECTS: Final = 5
MAX_EXPLANATION: Final = 64 * 1024
"""Bytes of an error's body that are looked at."""
MAX_CONNECTIONS: Final = 32
"""Of all registries that have the same rule; four to one host."""
_PER_HOST: Final = 4
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_LISTING: Final = "list its network under operator.registry, if it is meant"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `moved`: from another host than the one that was asked."""

    status: int
    headers: Mapping[str, str]
    challenges: tuple[str, ...]
    body: bytes
    moved: bool = False


class AddressRefusedError(OSError):
    """A name has no address that is allowed; travels through aiohttp as the resolver's failure."""

    def __init__(self, host: str, kinds: str) -> None:
        super().__init__(f"{host} resolves to {kinds}")
        self.host = host
        self.kinds = kinds


class CheckedResolver(AbstractResolver):
    """Resolves names, and leaves out every address that is not allowed."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        kept: list[ResolveResult] = []
        refused: dict[Scope, None] = {}
        for kind, _, proto, _, address in found:
            text = str(address[0])
            plain = ipaddress.ip_address(text.partition("%")[0])
            if "%" in text or not permitted(plain, self._networks):
                refused[scope(plain)] = None
                continue
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            kept.append(
                ResolveResult(
                    hostname=host, host=text, port=port, family=int(kind), proto=proto, flags=int(flags)
                )
            )
        if not kept:
            raise AddressRefusedError(
                host, " and ".join(f"a {each} address" for each in refused) or "nothing"
            )
        return kept

    async def close(self) -> None:
        """Nothing is kept."""


class Transport:
    """Connections to registries. Its methods raise ImageError."""

    def __init__(self, rules: Rules, bounds: Bounds, *, ca: str = "", proxies: Proxies = DIRECT) -> None:
        """`ca`: PEM, trusted besides the system's CAs. ConfigError when a CA cannot be read."""
        self._rules = rules
        self._bounds = bounds
        self._proxies = proxies
        self._general = _context("", ca, "operator.registry.ca")
        self._contexts = {rule.host: _context(rule.ca, "", rule.host) for rule in rules.all() if rule.ca}
        self._sessions: dict[tuple[str, bool], aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close all connections."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    def checked(self, text: str) -> tuple[URL, str, Rule]:
        """The URL, its host's canonical name and rule. ImageAddressError when it may not be used."""
        try:
            if not text.isascii() or not text.isprintable() or " " in text:
                raise ProtocolError("what is no URL")
            url = URL(text, encoded=True)  # signed URLs come back as they were sent
            scheme, authority = url.scheme, url.raw_authority
            if scheme not in ("https", "http") or url.user is not None or url.password is not None:
                raise ProtocolError("another kind of URL than https://HOST/…")
            host = canonical(authority, scheme)
            parse_host(url.raw_host or "")
        except (ValueError, ProtocolError) as error:
            why = error.what if isinstance(error, ProtocolError) else "what is no URL"
            raise ImageAddressError(f"a registry leads to {why}", fix="nothing was sent there") from None
        rule = self._rules.of(host)
        if scheme == "http" and not rule.plain_http:
            raise ImageAddressError(
                "plain http is not allowed", on=host, fix="serve it with TLS, or set plainHttp for this host"
            )
        self._check_host(url.raw_host or "", rule)
        return url, host, rule

    async def send(
        self,
        method: str,
        text: str,
        headers: Mapping[str, str],
        *,
        limit: int,
        follow: bool = True,
        form: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> Answer:
        """One request; of a body at most `limit` bytes. `Authorization` goes to the first host only."""
        first: str | None = None
        sent = dict(headers)
        for _ in range(MAX_REDIRECTS + 1):
            url, host, rule = self.checked(text)
            first = first or host
            answer, location = await self._once(
                method, url, host, rule, sent, limit, form if data is None else data
            )
            if answer.status not in _REDIRECTS or not follow:
                return Answer(
                    answer.status, answer.headers, answer.challenges, answer.body, moved=host != first
                )
            if not location:
                raise ImageUnusableError("the registry redirects to nowhere", on=host)
            try:
                text = str(url.join(URL(location, encoded=True)).with_fragment(None))
            except ValueError:
                raise ImageAddressError("the registry redirects to what is no URL", on=host) from None
            sent = {name: value for name, value in sent.items() if name.lower() != "authorization"}
        raise ImageUnusableError(f"the registry redirects more than {MAX_REDIRECTS} times", on=first or "")

    def _check_host(self, host: str, rule: Rule) -> None:
        plain = parse_host(host)
        if isinstance(plain, str):
            kind = scope_of_name(plain)
            if kind is not None and not self._lists(kind, rule):
                raise ImageAddressError(f"a {kind} name is not allowed", on=plain, fix=_LISTING)
        elif not permitted(plain, self._rules.networks_of(rule)):
            raise ImageAddressError(f"a {scope(plain)} address is not allowed", on=str(plain), fix=_LISTING)

    def _lists(self, kind: Scope, rule: Rule) -> bool:
        """Whether an administrator listed an address of that kind, so that a name for it may be tried."""
        return any(scope(network.network_address) is kind for network in self._rules.networks_of(rule))

    async def _once(
        self,
        method: str,
        url: URL,
        host: str,
        rule: Rule,
        headers: Mapping[str, str],
        limit: int,
        body: Mapping[str, str] | bytes | None,
    ) -> tuple[Answer, str]:
        try:
            async with self._session(url, rule).request(
                method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                status = response.status
                content = b"" if method == "HEAD" else await self._body(response, limit, host)
                challenges = tuple(response.headers.getall("WWW-Authenticate", ()))
                kept = {name.lower(): value for name, value in response.headers.items()}
                return Answer(status, kept, challenges, content), response.headers.get("Location", "")
        except (aiohttp.ClientConnectorCertificateError, UntrustedError) as error:
            raise RegistryUnreachableError(
                "the registry's certificate is not trusted",
                on=host,
                fix=f"set ca for this host under operator.registry ({_certificate(error)})",
            ) from None
        except aiohttp.ConnectionTimeoutError:
            raise RegistryUnreachableError(
                f"no connection to the registry within {self._bounds.connect_timeout:g} s",
                on=host,
                fix="check that the operator may reach it",
            ) from None
        except TimeoutError:
            raise RegistryUnavailableError(
                f"the registry did not answer within {self._bounds.request_timeout:g} s",
                on=host,
                fix="check that the operator may reach it",
            ) from None
        except aiohttp.ClientConnectorDNSError as error:
            if isinstance(error.os_error, AddressRefusedError):
                raise ImageAddressError(
                    f"it resolves to {error.os_error.kinds}, which is not allowed", on=host, fix=_LISTING
                ) from None
            raise RegistryUnreachableError(
                "the registry's name cannot be resolved", on=host, fix="check the image's name and DNS"
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise RegistryUnreachableError(
                f"cannot connect to the registry: {_why(error.os_error)}",
                on=host,
                fix="check that the operator may reach it",
            ) from None
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionError):
            raise RegistryCutOffError("the registry's answer was cut off", on=host) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise RegistryUnavailableError(
                f"the registry's answer is not understood: {type(error).__name__}", on=host
            ) from None
        except CloudtaserError as error:
            if isinstance(error, ImageError):
                raise
            raise RegistryUnreachableError(
                f"cannot connect to the registry: {error.what}", on=error.on or host, fix=error.fix
            ) from None

    async def _body(self, response: aiohttp.ClientResponse, limit: int, host: str) -> bytes:
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if response.status == 200 and encoding != "identity":
            _abort(response)
            raise ImageUnusableError("the registry compresses what nobody asked it to compress", on=host)
        limit = limit if response.status == 200 else min(limit, MAX_EXPLANATION)
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > limit:
                _abort(response)
                if response.status != 200:
                    break  # of an error's explanation the beginning is enough
                raise ImageUnusableError(f"the registry's answer is larger than {limit} bytes", on=host)
        return bytes(body[:limit])

    def _session(self, url: URL, rule: Rule) -> aiohttp.ClientSession:
        proxied = (
            url.scheme == "https" and self._proxies.route(url.raw_host or "", url.port or 443) is not None
        )
        key = rule.host, proxied
        if key not in self._sessions:
            context = self._contexts.get(rule.host, self._general)
            connector: aiohttp.BaseConnector
            if proxied:
                connector = ProxiedConnector(self._proxies, context, limit=MAX_CONNECTIONS)
            else:
                connector = aiohttp.TCPConnector(
                    ssl=context,
                    limit=MAX_CONNECTIONS,
                    limit_per_host=_PER_HOST,
                    resolver=CheckedResolver(self._rules.networks_of(rule)),
                )
            self._sessions[key] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(
                    total=self._bounds.request_timeout, sock_connect=self._bounds.connect_timeout
                ),
                headers={"User-Agent": f"cloudtaser/{VERSION}", "Accept-Encoding": "identity"},
                trust_env=False,
            )
        return self._sessions[key]


def _abort(response: aiohttp.ClientResponse) -> None:
    """End the connection at once: TLS's own closing would read on, for as long as the other side goes on."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


def _context(only_ca: str, further_ca: str, on: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not only_ca:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    for pem in filter(None, (only_ca, further_ca)):
        try:
            context.load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError, TypeError) as error:  # the last for what is not ASCII
            raise ConfigError(
                f"a registry's CA cannot be used: {reason(error)}", on=on, fix="give PEM certificates"
            ) from None
    return context


def _why(error: OSError) -> str:
    """asyncio puts addresses where the system's words belong."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else reason(error)


def _certificate(error: Exception) -> str:
    inner = getattr(error, "certificate_error", error)
    return reason(inner) if isinstance(inner, ssl.SSLError) else str(error)
