"""dial_grpc(): a stream to a broker, through whatever passes gRPC on the way (reverse mode).

Used by the bridge's doors, and imported by them only when there is a broker to dial by gRPC: it brings the
gRPC library. Each stream has a connection of its own, so that it lives and dies alone and every attempt asks
DNS anew; when to try again is the caller's, not gRPC's.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # before the import: no program of ours forks
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the log is ours

import grpc
import grpc.aio

from cloudtaser.errors import CloudtaserError, ConfigError, UnavailableError
from cloudtaser.net.dial import CONNECT_TIMEOUT, Address
from cloudtaser.net.grpc_stream import OPTIONS, GrpcTransport, in_words
from cloudtaser.net.tls import reason
from cloudtaser.wire.grpc_message import METHOD

_CLIENT_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    *OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.primary_user_agent", "cloudtaser"),
)
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def outer_credentials(ca_file: str | None) -> grpc.ChannelCredentials:
    """Checks the outer certificate by `ca_file`, else by the system's roots. ConfigError naming the file."""
    if ca_file is None:
        return grpc.ssl_channel_credentials(_system_roots())
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=ca_file)
        roots = Path(ca_file).read_bytes()
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"the CA file cannot be used: {reason(error)}", on=ca_file) from None
    return grpc.ssl_channel_credentials(roots)


async def dial_grpc(
    address: Address,
    credentials: grpc.ChannelCredentials,
    protocol: asyncio.Protocol,
    *,
    timeout: float = CONNECT_TIMEOUT,
    proxy: str | None = None,
) -> GrpcTransport:
    """Open a stream within `timeout` seconds; `protocol.connection_made` was called. UnavailableError.

    `proxy`: URL of an HTTP proxy (CONNECT) to go through; None: straight.
    """
    options = [*_CLIENT_OPTIONS, ("grpc.enable_http_proxy", 0 if proxy is None else 1)]
    if proxy is not None:
        options.append(("grpc.http_proxy", proxy))
    channel = grpc.aio.secure_channel(f"dns:///{address}", credentials, options=options)
    call: Any = None
    try:
        call = channel.stream_stream(METHOD)()
        async with asyncio.timeout(timeout):
            await call.wait_for_connection()
    except TimeoutError:
        await _discard(channel, call)
        raise UnavailableError(f"no gRPC stream within {timeout:g} s", on=str(address)) from None
    except grpc.aio.AioRpcError as error:
        await _discard(channel, call)
        raise _refused(error, address) from None
    except asyncio.CancelledError:
        await _discard(channel, call)
        raise
    transport = GrpcTransport(_ClientStream(call), {"peername": (address.host, address.port)})
    cleaning = asyncio.get_running_loop().create_task(_clean_up(transport, channel))
    _cleaning.add(cleaning)
    cleaning.add_done_callback(_cleaning.discard)
    transport.start(protocol)
    return transport


_cleaning: set[asyncio.Task[None]] = set()


async def _clean_up(transport: GrpcTransport, channel: grpc.aio.Channel) -> None:
    try:
        await asyncio.wait([transport.closed])
    finally:
        await channel.close()


async def _discard(channel: grpc.aio.Channel, call: Any) -> None:
    if call is not None:
        call.cancel()
    await channel.close()


class _ClientStream:
    """MessageStream over a call that we made."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def read(self) -> bytes | None:
        message = await self._call.read()
        if message is not grpc.aio.EOF:
            return bytes(message)
        code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            raise _ended_by(code, await self._call.details())
        return None

    async def write(self, message: bytes) -> None:
        await self._call.write(message)

    async def finish(self) -> bool:
        await self._call.done_writing()
        return False

    def cancel(self) -> None:
        self._call.cancel()

    def why(self, fault: BaseException) -> CloudtaserError:
        if isinstance(fault, CloudtaserError):
            return fault
        if isinstance(fault, grpc.aio.AioRpcError):
            return _ended_by(fault.code(), fault.details())
        return UnavailableError(f"the gRPC stream was lost: {type(fault).__name__}")


def _refused(error: grpc.aio.AioRpcError, address: Address) -> CloudtaserError:
    """Before there was a stream."""
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        found = _ended_by(error.code(), error.details())
    else:
        found = UnavailableError(f"no gRPC stream: {in_words(error.code().name, error.details())}")
    found.on = str(address)
    return found


def _ended_by(code: grpc.StatusCode, details: str | None) -> CloudtaserError:
    """What the status says that a stream ended with."""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UnavailableError(
            "what answers is no cloudtaser broker",
            fix="check the address, and that the Ingress passes gRPC on",
        )
    return UnavailableError(f"the gRPC stream was lost: {in_words(code.name, details)}")


def _system_roots() -> bytes | None:
    """The system's CA bundle; None leaves it to gRPC, which brings Mozilla's."""
    for name in (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_BUNDLES):
        try:
            if name:
                return Path(name).read_bytes()
        except OSError:
            continue
    return None
