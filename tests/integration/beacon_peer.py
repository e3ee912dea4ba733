"""A visitor of a beacon for tests: TLS over a raw socket, with half-close, so that nothing is smoothed over.

Peers are closed when the `running` beacon or the `Program` they visit is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path

from cloudtaser.beacon.config import BeaconConfig
from cloudtaser.beacon.dev import self_signed
from cloudtaser.beacon.log import Log
from cloudtaser.beacon.server import Beacon
from cloudtaser.wire.rendezvous import Hello, Role

PATIENCE = 20.0
BRIDGE, BROKER = Role.BRIDGE, Role.BROKER
Address = tuple[str, int]
_open: set[Peer] = set()


def certificate(folder: Path, name: str = "beacon") -> tuple[str, str]:
    """A certificate and its key in files."""
    pem, key = self_signed(["localhost", "127.0.0.1"])
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(pem)
    key_file.write_bytes(key)
    return str(cert_file), str(key_file)


@contextlib.asynccontextmanager
async def running(folder: Path, log: Log | None = None, **settings: object) -> AsyncIterator[Beacon]:
    """A beacon in this process."""
    cert_file, key_file = certificate(folder)
    config = BeaconConfig(
        addr=(("127.0.0.1", 0),),
        tls_cert=cert_file,
        tls_key=key_file,
        **{"metrics_addr": ("127.0.0.1", 0), **settings},  # type: ignore[arg-type]  # settings by name
    )
    beacon = Beacon(config, log=log or Log("error"))
    await beacon.start()
    try:
        yield beacon
        assert beacon.counts.faults == 0
    finally:
        close_peers()
        beacon.close()


class Program:
    """The real program in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, address: Address, metrics: Address) -> None:
        self.process = process
        self.address = address
        self.metrics_address = metrics
        self.lines: list[dict[str, object]] = []

    @classmethod
    async def start(cls, folder: Path, *arguments: str, port: int = 0, files: Sequence[str] = ()) -> Program:
        cert_file, key_file = files or certificate(folder)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cloudtaser.beacon.app", "--tls-cert", cert_file, "--tls-key", key_file),
            *("--addr", f"127.0.0.1:{port}", "--metrics-addr", "127.0.0.1:0", *arguments),
            stderr=asyncio.subprocess.PIPE,
        )
        program = cls(process, ("", 0), ("", 0))
        line = await program.line("listening")
        addresses = line["addresses"]
        assert isinstance(addresses, list)
        program.address = _address(addresses[0])
        program.metrics_address = _address(str(line["metrics"]))
        return program

    async def line(self, event: str) -> dict[str, object]:
        """The next log line of that kind."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while text := await self.process.stderr.readline():
                self.lines.append(json.loads(text))
                if self.lines[-1]["event"] == event:
                    return self.lines[-1]
        raise AssertionError(f"the program ended without {event!r}: {self.lines}")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, collect the last log lines, return the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            for text in (await self.process.stderr.read()).splitlines():
                self.lines.append(json.loads(text))
            return await self.process.wait()

    @property
    def resident(self) -> int:
        """Bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu(self) -> float:
        """Seconds on a processor so far."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    async def __aenter__(self) -> Program:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        close_peers()
        if self.process.returncode is None:
            await self.stop(signal.SIGKILL)


def close_peers() -> None:
    """Close whoever is still connected."""
    while _open:
        _open.pop().sock.close()


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def metric(address: Address | None, name: str) -> float:
    """One number from /metrics, named as there without the prefix."""
    assert address is not None
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    page = (await reader.read()).decode()
    writer.close()
    for line in page.splitlines():
        if line.startswith(f"cloudtaser_beacon_{name} "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no metric {name} in\n{page}")


class Peer:
    """One side. Bytes, no streams."""

    def __init__(self, sock: socket.socket, version: ssl.TLSVersion) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = version
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.read_ahead = b""
        self.clean = False  # whether the end came with a close_notify
        self.loop = asyncio.get_running_loop()
        _open.add(self)

    @classmethod
    async def connect(
        cls,
        address: Address,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        *,
        flush: bool = True,
        preamble: bytes = b"",
        piecewise: bool = False,
    ) -> Peer:
        """`preamble` leaves before TLS, byte by byte when `piecewise`, else in one segment with its first."""
        sock = socket.socket()
        sock.setblocking(False)
        peer = cls(sock, version)
        await peer.loop.sock_connect(sock, address)
        if piecewise:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in preamble:
                await peer.loop.sock_sendall(sock, bytes([byte]))
                await asyncio.sleep(0)
        else:
            peer.outgoing.write(preamble)
        while True:
            try:
                peer.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await peer.flush()
                data = await peer.within(peer.loop.sock_recv(sock, 65536))
                if not data:
                    raise ConnectionResetError from None
                peer.incoming.write(data)
        if flush:
            await peer.flush()
        return peer

    @classmethod
    async def visit(
        cls,
        address: Address,
        role: Role,
        room: bytes,
        early: bytes = b"",
        *,
        preamble: bytes = b"",
        piecewise: bool = False,
    ) -> Peer:
        """Connect and say the hello, in one segment with the end of the handshake."""
        peer = await cls.connect(address, flush=False, preamble=preamble, piecewise=piecewise)
        await peer.send(Hello(role, room).encode() + early)
        return peer

    async def within(self, work: Coroutine[object, object, bytes]) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await work

    async def flush(self) -> None:
        if self.outgoing.pending:
            await self.loop.sock_sendall(self.sock, self.outgoing.read())

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await self.flush()

    async def receive(self, size: int = 65536) -> bytes:
        """Some bytes; b"" at the end."""
        if self.read_ahead:
            data, self.read_ahead = self.read_ahead[:size], self.read_ahead[size:]
            return data
        while True:
            try:
                data = self.tls.read(size)
                self.clean = self.clean or not data
                return data
            except ssl.SSLZeroReturnError:
                self.clean = True
                return b""
            except ssl.SSLWantReadError:
                raw = await self.within(self.loop.sock_recv(self.sock, 262_144))
                if not raw:
                    return b""
                self.incoming.write(raw)

    async def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self.receive(size - len(data))
            if not more:
                raise EOFError(data)
            data += more
        return data

    async def rest(self) -> bytes:
        """Everything up to the end; ConnectionResetError is an end too."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := await self.receive():
                data += more
        return data

    async def half_close(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            # OpenSSL gives up a connection whose close_notify is sent while decrypted input waits
            while data := self.tls.read(65536):
                self.read_ahead += data
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.flush()
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


async def pair(address: Address, room: bytes | None = None) -> tuple[Peer, Peer]:
    """A bridge and a broker that have been matched."""
    room = room or os.urandom(32)
    bridge = await Peer.visit(address, BRIDGE, room)
    assert await bridge.exactly(1) == b"W"
    broker = await Peer.visit(address, BROKER, room)
    assert await broker.exactly(1) == b"M"
    assert await bridge.exactly(1) == b"M"
    return bridge, broker
