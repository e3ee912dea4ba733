"""`target openbao`: OpenBao's API on a local port, for `bao` and any other client, through the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Final, Self

import typer

from cloudtaser.cli.target.cluster import Cluster, command, example
from cloudtaser.errors import CloudtaserError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtaser.net.admin import AdminDoor
    from cloudtaser.net.splice import Splice

DEFAULT_LISTEN: Final = "127.0.0.1:8200"
MAX_CONNECTIONS: Final = 64
_LOOPBACK: Final = ("127.0.0.1", "::1")

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog=example("openbao", "openbao -- bao kv get -mount=secret shop/db"),
    context_settings={"allow_interspersed_args": False},
)
@command
async def openbao(
    cluster: Cluster,
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- PROGRAM ...]", help="Run this with VAULT_ADDR set, and end with it."),
    ] = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where clients connect; port 0 is any free one.")
    ] = "",
) -> None:
    """Offer OpenBao locally. Clients use their own OpenBao token; the port itself grants nothing.

    The way is that of the pods: a port-forward to the broker, its tunnel, the bridge. TLS from here
    ends at the bridge, whose certificate is checked against the cluster's pod CA; operator and beacon
    see ciphertext. Only the cluster's own space can be reached. What may be asked there is described
    in docs/admin.md.

    Without PROGRAM it runs until Ctrl-C. With it, VAULT_ADDR and BAO_ADDR are set to a free port.
    """
    from cloudtaser.cli.target.system import ADMIN_PORT, pod_ca, ready_operator
    from cloudtaser.kube.portforward import PortForward
    from cloudtaser.net.admin import AdminDoor
    from cloudtaser.net.dial import Address

    host, port = _listen(listen or ("127.0.0.1:0" if program else DEFAULT_LISTEN))
    async with cluster.connect() as kube:
        authority = await pod_ca(kube, cluster.system)
        pod = await ready_operator(kube, cluster.system)
        async with PortForward(kube, cluster.system, pod.name, ADMIN_PORT) as forward:
            door = AdminDoor(Address(*forward.address), authority)
            async with _Pipe(door, host, port) as pipe:
                await pipe.try_once(lambda: forward.complaint)
                address = f"http://{pipe.shown}"
                if program:
                    raise typer.Exit(await _run(program, address))
                cluster.printer.answer(
                    {"address": address},
                    text=[f"OpenBao is at {address} until Ctrl-C.", f"export VAULT_ADDR={address}"],
                    value=[address],
                )
                sys.stdout.flush()
                await _until_told()


class _Pipe:
    """Accepts clients, and gives each a TLS session of its own to the bridge."""

    def __init__(self, door: AdminDoor, host: str, port: int) -> None:
        self._door = door
        self._host, self._port = host, port
        self._server: asyncio.Server | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._splices: set[Splice] = set()
        self.shown = ""
        """`HOST:PORT` of where it listens."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, self._host, self._port)
        except OSError as error:
            raise UnavailableError(
                f"cannot listen: {error.strerror}",
                on=f"{self._host}:{self._port}",
                fix="choose another address by --listen",
            ) from None
        host, port = self._server.sockets[0].getsockname()[:2]
        self.shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._opening:
            task.cancel()
        for splice in list(self._splices):
            splice.abort()
        await asyncio.gather(*self._opening, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def try_once(self, complaint: Callable[[], str]) -> None:
        """Shake hands with the bridge, so that a broken way is said before a client meets it."""
        try:
            transport = await self._door.open(asyncio.Protocol())
        except CloudtaserError as error:
            raise UnavailableError(
                f"no bridge answers: {complaint() or error.what}", on=error.on, fix="see `target validate`"
            ) from None
        transport.close()

    def _accept(self) -> asyncio.Protocol:
        from cloudtaser.net.splice import Splice

        loop = asyncio.get_running_loop()
        splice = Splice(on_end=self._splices.discard)
        if len(self._splices) >= MAX_CONNECTIONS:
            loop.call_soon(splice.abort)
        else:
            task = loop.create_task(self._open(splice))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        self._splices.add(splice)
        return splice.first

    async def _open(self, splice: Splice) -> None:
        try:
            await self._door.open(splice.second)
        except CloudtaserError as error:
            splice.abort(error)


async def _run(program: list[str], address: str) -> int:
    """The program's own exit status; it has our terminal, and signals that end us are passed on."""
    variables = {"VAULT_ADDR": address, "BAO_ADDR": address}
    removed = ("VAULT_CACERT", "BAO_CACERT", "VAULT_NAMESPACE", "BAO_NAMESPACE", "HTTP_PROXY", "http_proxy")
    environment = {name: value for name, value in os.environ.items() if name not in removed} | variables
    try:
        child = await asyncio.create_subprocess_exec(*program, env=environment)
    except OSError as error:
        raise UsageError(f"cannot run it: {(error.strerror or '').lower()}", on=program[0]) from None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _pass_on, child, number)
    status = await child.wait()
    return status if status >= 0 else 128 - status


def _pass_on(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """A Ctrl-C reaches the child by the terminal; sent twice it would mean another thing to some."""
    if number is not signal.SIGINT or not os.isatty(0):
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)


async def _until_told() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError("not an address to listen at", on=text, fix="give HOST:PORT, as 127.0.0.1:8200")
    if host not in _LOOPBACK:
        raise UsageError(
            "tokens would cross the network in clear", on=text, fix="listen at 127.0.0.1 or [::1]"
        )
    return host, int(port)
