"""A chain in reverse mode: no beacon anywhere, the bridge dials the broker."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from cloudtaser.demo import setup
from cloudtaser.demo.apiserver import StandInApiServer
from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.demo.chain import Chain, OperatorPorts
from cloudtaser.demo.exposition import fetch, sum_metric
from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess, together
from tests.chain_tools import delivered, eventually

NAME = "broker.test.internal"


class ReverseChain(Chain):
    """`outer`: the broker shows a certificate of its own; else something in front of it does."""

    def __init__(self, *, outer: bool = True, directory: Path | None = None) -> None:
        super().__init__(directory)
        self.outer = outer
        self.reverse_port = free_port()
        self.reverse_host = "127.0.0.1"
        self.files = write_server_certificate(
            self.directory / "outer", "outer", ["127.0.0.1", "localhost", NAME]
        )

    @property
    def reverse_address(self) -> str:
        """`host:port` of the broker's reverse port."""
        return f"{self.reverse_host}:{self.reverse_port}"

    def bridge_flags(self, address: str = "", transport: str = "grpc") -> list[str]:
        """What a bridge needs to dial `address`, the broker's own unless told."""
        flags = ["--broker-address", address or self.reverse_address, "--transport", transport]
        return [*flags, "--outer-ca", str(self.files.ca)]

    async def new_bridge(self, *arguments: str) -> PartProcess:
        part = await super().new_bridge(*arguments)
        part.arguments = without(part.arguments, "--beacon-address", "--beacon-ca")
        return part

    async def start(self, *bridge: str, register: tuple[str, ...] = ()) -> None:
        """From nothing: registered, the bridge dials, the operator is initialised and has a tunnel."""
        await self.start_openbao()
        await self.register(*register)
        await together(self.start_bridge(*(bridge or self.bridge_flags())), self.start_apiserver())
        await self.start_operator()

    async def carry_by(self, transport: str) -> None:
        """Have the bridge, started with `bridge_flags`, dial by another transport from now on."""
        bridge = self.bridge
        assert bridge is not None
        assert await bridge.stop() == 0, bridge.last_lines()
        bridge.arguments[bridge.arguments.index("--transport") + 1] = transport
        bridge.start()
        await eventually(self.tunnel_is_up, f"a tunnel by {transport}")

    async def value_arrives(self, value: str) -> None:
        """Write a secret and have a program under the wrapper see it."""
        async with setup.administrator(self) as admin:
            await setup.write_secret(admin, "shop/value", {"value": value})
        found = await delivered(self, "secret/data/shop/value", "value=VALUE")
        assert found["VALUE"] == value

    async def metric(self, name: str) -> float:
        """Sum of a metric of the operator, 0 without it."""
        return sum_metric(await fetch(self.ports.metrics, "/metrics"), name)

    def _operator_command(self, ports: OperatorPorts, apiserver: StandInApiServer) -> list[str]:
        command = without(super()._operator_command(ports, apiserver), "--beacon-address", "--beacon-ca")
        command += ["--reverse-listen", self.reverse_address]
        if self.outer:
            command += ["--reverse-tls-cert", str(self.files.certificate)]
            command += ["--reverse-tls-key", str(self.files.key)]
        return command


@contextlib.asynccontextmanager
async def reverse_chain(*, outer: bool = True) -> AsyncIterator[ReverseChain]:
    """A chain for one test; not started."""
    chain = ReverseChain(outer=outer)
    try:
        yield chain
    finally:
        await chain.close()


def without(command: list[str], *flags: str) -> list[str]:
    """A command line less these flags and their values."""
    kept = list(command)
    for flag in flags:
        while flag in kept:
            place = kept.index(flag)
            del kept[place : place + 2]
    return kept
