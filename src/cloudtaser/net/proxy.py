"""Proxies: whether a connection goes out by an HTTP proxy, by which, and the way through it.

Used by `dial` and `connector`, with what `Proxies.read` made of `--proxy`, `HTTPS_PROXY` and `NO_PROXY` in
each program's configuration (docs/proxy.md). A proxy sees host, port and ciphertext: the target's TLS runs
inside. Names are resolved by the proxy, so NO_PROXY's networks are compared with literal addresses only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self, cast
from urllib.parse import unquote_to_bytes, urlsplit

from cloudtaser.errors import CloudtaserError, ConfigError, ProtocolError, UnavailableError
from cloudtaser.net.ends import hand_over
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.tls import reason
from cloudtaser.secret import Secret
from cloudtaser.wire import connect

OFF: Final = "off"
VARIABLES: Final = ("HTTPS_PROXY", "https_proxy")
EXCEPT_VARIABLES: Final = ("NO_PROXY", "no_proxy")
MAX_EXCEPTIONS: Final = 1024
_PORTS: Final = {"http": 80, "https": 443}
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Proxy:
    """One HTTP proxy. Its text names it without its credentials."""

    host: str
    port: int
    context: ssl.SSLContext | None = field(default=None, compare=False)
    """TLS towards the proxy itself (https://); None for http://."""
    credentials: Secret | None = None
    """`user:password` for Basic."""

    @classmethod
    def parse(cls, text: str, *, source: str, ca_file: str | None = None) -> Proxy:
        """`http://[user:password@]host[:port]`, https:// likewise. ConfigError never repeats the text."""
        fix = "write it as http://proxy.example.com:3128"
        url = text.strip() if "://" in text else f"http://{text.strip()}"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise ConfigError("not a proxy's address", on=source, fix=fix) from None
        if parts.scheme not in _PORTS:
            raise ConfigError("only http:// and https:// proxies are supported", on=source, fix=fix)
        if not host or port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ConfigError("not a proxy's address", on=source, fix=fix)
        try:
            connect.authority(host, port or _PORTS[parts.scheme])
        except ProtocolError:
            raise ConfigError("not a proxy's address", on=source, fix=fix) from None
        context = _context(ca_file) if parts.scheme == "https" else None
        return cls(host, port or _PORTS[parts.scheme], context, _credentials(parts.netloc))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.context is None else 'https'}://{host}:{self.port}"


class Proxies:
    """The choice for every connection of a program: one proxy or none, and who is reached without it."""

    def __init__(self, proxy: Proxy | None = None, exceptions: Iterable[str] = ()) -> None:
        """`exceptions` as in NO_PROXY; what cannot be understood there is passed over, as everywhere."""
        self.proxy: Final = proxy
        self._exceptions = [_Exception(text) for text in list(exceptions)[:MAX_EXCEPTIONS]]

    @classmethod
    def read(
        cls,
        environment: Mapping[str, str],
        given: str | None = None,
        *,
        source: str = "--proxy",
        ca_file: str | None = None,
        direct: Iterable[str] = (),
    ) -> Self:
        """From `--proxy` or its twin (`given`, named by `source`; `off` for none), else HTTPS_PROXY.

        `direct` adds to NO_PROXY. ConfigError for a bad address, or credentials in a flag: a command line is
        open to everybody on the machine.
        """
        text = given.strip() if given is not None else ""
        if text == OFF:
            return cls()
        if not text:
            source, text = _variable(environment, VARIABLES)
        if not text:
            return cls()
        proxy = Proxy.parse(text, source=source, ca_file=ca_file)
        if proxy.credentials is not None and source.startswith("--"):
            raise ConfigError(
                "a proxy's password does not belong on a command line, where everybody sees it",
                on=source,
                fix="set HTTPS_PROXY, or the flag's environment variable, instead",
            )
        _, exceptions = _variable(environment, EXCEPT_VARIABLES)
        return cls(proxy, [*re.split(r"[,\s]+", exceptions.strip()), *direct])

    def route(self, host: str, port: int) -> Proxy | None:
        """The proxy to use for `host`, None to connect straight. This machine is never behind a proxy."""
        if self.proxy is None:
            return None
        name = host.rstrip(".").lower()
        address = _address(name)
        local = (
            address.is_loopback if address is not None else name == "localhost" or _below(name, "localhost")
        )
        if local or any(exception.matches(name, address, port) for exception in self._exceptions):
            return None
        return self.proxy


class _Exception:
    """One entry of NO_PROXY: `*`, a host and all below it, `.suffix`, an address, a network; with a port."""

    __slots__ = ("_name", "_network", "_port")

    def __init__(self, text: str) -> None:
        name, self._port = _split_port(text.strip().lower())
        self._network = _network(name)
        self._name = "" if self._network is not None else name.rstrip(".").removeprefix("*.")
        if name.startswith("*."):
            self._name = f".{self._name}"

    def matches(self, host: str, address: _Address | None, port: int) -> bool:
        """Whether a connection to `host` (`address` if it is a literal one) is made straight."""
        if self._port is not None and self._port != port:
            return False
        if self._name == "*":
            return True
        if address is not None or not self._name:
            return address is not None and self._network is not None and address in self._network
        if self._name.startswith("."):
            return host.endswith(self._name)
        return host == self._name or _below(host, self._name)


class Passage(asyncio.Protocol):
    """The way through `proxy`: give `bottom` to a connection to it. `protocol` is connected when the pipe
    stands, with what the other side said meanwhile; `outcome` is its transport then."""

    def __init__(self, proxy: Proxy, host: str, port: int, protocol: asyncio.Protocol) -> None:
        self._proxy = proxy
        self._target = connect.authority(host, port)
        self._request = connect.request(host, port, proxy.credentials)
        self._answer = connect.Answer()
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self.outcome: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        self._layer: TlsLayer | None = None
        if proxy.context is not None:
            self._layer = TlsLayer(proxy.context, self, server_side=False, server_hostname=proxy.host)

    @property
    def bottom(self) -> asyncio.Protocol:
        """What takes the bytes of the connection to the proxy."""
        return self._layer or self

    async def opened(self) -> asyncio.Transport:
        """Wait until the pipe stands. UnavailableError says what the proxy had against it."""
        if self._layer is not None:
            try:
                await self._layer.handshake
            except CloudtaserError as error:
                raise self._error(f"no TLS with the proxy: {error.what}", fix="see --proxy-ca") from None
        return await self.outcome

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not say so by class
        self._transport.write(self._request)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        try:
            early = self._answer.receive(data)
        except ProtocolError as error:
            self._fail(self._error(error.what, fix=error.fix))
            return
        if early is not None:
            self._stands(early)
        elif self._answer.status:
            self._fail(self._refused(self._answer.status))

    def eof_received(self) -> None:
        self._fail(self._error("the proxy closed the connection without an answer"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(self._error("the proxy closed the connection without an answer"))

    def _stands(self, early: bytes) -> None:
        assert self._transport is not None
        hand_over(self._transport, self._protocol, self.outcome, early)

    def _refused(self, status: int) -> UnavailableError:
        match status:
            case 401 | 407 if self._proxy.credentials is None:  # 401 is what tinyproxy says to wrong ones
                what, fix = (
                    "the proxy asks for credentials",
                    "put user:password@ before the host in HTTPS_PROXY",
                )
            case 401 | 407:
                what, fix = "the proxy does not accept our credentials", "correct them in HTTPS_PROXY"
            case 403:
                what, fix = (
                    "the proxy does not allow this connection",
                    "allow CONNECT to it there, or use NO_PROXY",
                )
            case 502 | 503 | 504:
                what, fix = "the proxy cannot reach it", "check the address and what the proxy can reach"
            case _:
                what, fix = f"the proxy answered with status {status}", "see the proxy's log"
        return self._error(what, fix=fix)

    def _error(self, what: str, *, fix: str = "") -> UnavailableError:
        return UnavailableError(what, on=f"{self._target} through {self._proxy}", fix=fix)

    def _fail(self, error: UnavailableError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
            with contextlib.suppress(asyncio.CancelledError):
                self.outcome.exception()  # nobody has to ask


DIRECT: Final = Proxies()
"""No proxy at all."""


def _context(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    try:
        context.load_verify_locations(cafile=ca_file)
    except (ssl.SSLError, OSError) as error:
        why = reason(error) if not isinstance(error, ssl.SSLError) else "no certificate in it"
        raise ConfigError(f"the proxy's CA file cannot be used: {why}", on=ca_file, fix="give PEM") from None
    return context


def _credentials(netloc: str) -> Secret | None:
    user_info, at, _ = netloc.rpartition("@")
    if not at:
        return None
    user, _, password = user_info.partition(":")
    return Secret(unquote_to_bytes(user) + b":" + unquote_to_bytes(password))


def _variable(environment: Mapping[str, str], names: Iterable[str]) -> tuple[str, str]:
    """The first of these variables that is set, and its text; ("", "") when none is."""
    return next(((name, environment[name].strip()) for name in names if environment.get(name)), ("", ""))


def _below(host: str, name: str) -> bool:
    return host.endswith(f".{name}")


def _address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _split_port(text: str) -> tuple[str, int | None]:
    """A name and the port behind it, if there is one; an IPv6 address stands between brackets then."""
    if text.startswith("["):
        inside, _, rest = text[1:].partition("]")
        return inside, int(rest[1:]) if rest.startswith(":") and _PORT.fullmatch(rest[1:]) else None
    name, colon, port = text.rpartition(":")
    if colon and ":" not in name and _PORT.fullmatch(port):
        return name, int(port)
    return text, None
