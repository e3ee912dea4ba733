"""Through a real HAProxy: gRPC by an L7 proxy that ends TLS; either transport passed on by its SNI."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess
from tests.chain_tools import eventually
from tests.reverse_chain import NAME, ReverseChain, reverse_chain

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]
BACK_WITHIN = 15.0
"""Seconds; the most that a backoff waits is four, and a process has to start on a busy machine."""

L7 = """
frontend ingress
  mode http
  bind 127.0.0.1:{port} ssl crt {pem} alpn h2
  default_backend broker
backend broker
  mode http
  timeout server 60s
  server broker {broker} proto h2
"""
PASSTHROUGH = """
frontend ingress
  mode tcp
  bind 127.0.0.1:{port}
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.ssl_hello_type 1 }}
  use_backend broker if {{ req.ssl_sni -i {name} localhost }}
backend broker
  mode tcp
  server broker {broker}
"""


@dataclass
class Proxy:
    """A running HAProxy."""

    part: PartProcess
    address: str

    async def start(self) -> None:
        """Return once it accepts connections."""
        self.part.start()
        host, _, port = self.address.rpartition(":")

        async def accepts() -> bool:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return False
            writer.close()
            return True

        await self.part.wait_until(accepts, "listening")


@contextlib.asynccontextmanager
async def haproxy(chain: ReverseChain, form: str) -> AsyncIterator[Proxy]:
    directory: Path = chain.directory / "haproxy"
    directory.mkdir()
    pem, port = directory / "outer.pem", free_port()
    pem.write_bytes(chain.files.certificate.read_bytes() + chain.files.key.read_bytes())
    config = directory / "haproxy.cfg"
    head = (
        "global\n  maxconn 200\ndefaults\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n"
    )
    config.write_text(head + form.format(port=port, pem=pem, broker=chain.reverse_address, name=NAME))
    part = PartProcess("haproxy", ["haproxy", "-db", "-f", str(config)], chain.logs / "haproxy.log")
    proxy = Proxy(part, f"localhost:{port}")
    try:
        await proxy.start()
        yield proxy
    finally:
        await part.stop()


async def killed_and_back(chain: ReverseChain, proxy: Proxy) -> None:
    """The proxy dies under a tunnel, and another takes its place."""
    await proxy.part.kill()

    async def alone() -> bool:
        return await chain.tunnels() == 0

    await eventually(alone, "the tunnels are known to be gone")
    await proxy.start()
    took = await eventually(chain.tunnel_is_up, "a tunnel through the new proxy")
    assert took < BACK_WITHIN
    await chain.value_arrives("through a new HAProxy")


async def test_grpc_that_an_l7_proxy_ends_carries_a_secret_and_the_proxy_may_be_killed() -> None:
    async with reverse_chain(outer=False) as chain, haproxy(chain, L7) as proxy:
        await chain.start(*chain.bridge_flags(proxy.address))
        await chain.value_arrives("through HAProxy")
        await killed_and_back(chain, proxy)


async def test_either_transport_is_passed_on_by_sni_and_the_proxy_may_be_killed() -> None:
    async with reverse_chain() as chain, haproxy(chain, PASSTHROUGH) as proxy:
        await chain.start(*chain.bridge_flags(proxy.address, "tls"))  # the first start, too
        await chain.value_arrives("by tls")
        await killed_and_back(chain, proxy)
        await chain.carry_by("grpc")
        await chain.value_arrives("by grpc")
