"""The EU site of the tests: OpenBao, the bridge, a beacon, and a PostgreSQL for applications to use.

All of it is real and runs on this machine, at the far end of the cluster's cable; the cluster reaches the
beacon and the database by the names below and nothing else. `conftest` starts it for a cluster, which is
registered by its true fingerprint, with a bridge in strict mode: the cluster's API server is asked at each
login.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from cloudtaser.demo import setup
from cloudtaser.demo.chain import BEACON_NAME, Chain
from cloudtaser.demo.postgres import PostgresServer
from cloudtaser.demo.process import start_in_thread, together
from cloudtaser.openbao.client import OpenBao
from tests.chain_tools import MANY_LOGINS
from tests.cluster.node import Cluster

DATABASE: Final = "db.europe.test"


class Europe:
    """Entering starts it for `cluster`, leaving ends and removes it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def __aenter__(self) -> Self:
        cluster, address = self._cluster, self._cluster.network.host_address
        system = await cluster.control_plane.read("/api/v1/namespaces/kube-system")
        self.fingerprint = str(system["metadata"]["uid"])
        self.chain = Chain(fingerprint=self.fingerprint, beacon_host=address)
        self.postgres = PostgresServer(self.chain.directory / "postgres", address)
        for name in (BEACON_NAME, DATABASE):
            cluster.names.add(name, address)
        try:
            await together(self._start_chain(), start_in_thread(self.postgres.start, self.postgres.kill))
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    @property
    def beacon(self) -> str:
        """`host:port` as the cluster knows it."""
        return f"{BEACON_NAME}:{self.chain.beacon_port}"

    @property
    def beacon_ca(self) -> Path:
        """PEM file of the CA of the beacon's certificate."""
        return self.chain.beacon_ca

    def administrator(self) -> OpenBao:
        """A client for OpenBao's administrator, in the cluster's space."""
        return setup.administrator(self.chain)

    async def write(self, path: str, fields: Mapping[str, str]) -> None:
        """A new version of `secret/data/<path>`."""
        async with self.administrator() as openbao:
            await setup.write_secret(openbao, path, fields)

    async def allow(self, namespace: str, account: str, path: str) -> None:
        """Let a ServiceAccount read a path that is not its namespace's own."""
        options = ("-n", namespace, "--serviceaccount", account, "--path", path)
        await self.chain.cli("source", "allow", self.fingerprint, *options)

    def requests(self) -> list[dict[str, Any]]:
        """What the bridge has in its audit, a line a request."""
        text = (self.chain.logs / "bridge-1.log").read_bytes()
        lines = [line for line in text.split(b"\n")[:-1] if line.startswith(b'{"event":"request"')]
        return [json.loads(line) for line in lines]

    async def sql(self, statement: str) -> str:
        """What PostgreSQL answers to its superuser."""
        return await asyncio.to_thread(self.postgres.run, statement)

    async def _start_chain(self) -> None:
        await self.chain.start_openbao()
        await self.chain.register()
        await together(self.chain.start_beacon(), self.chain.start_bridge("--strict", *MANY_LOGINS))

    async def _stop(self) -> None:
        await self.chain.close()
        await asyncio.to_thread(self.postgres.stop)
