"""All certificates of a cluster are replaced under traffic, by `source rotate`, with stored pairs too.

The chain is a whole one with two bridges and two replicas of the operator, and the former certificates are
revoked in it for real: the 90 seconds are waited for by nobody, `--now` follows once everybody has new ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain, OperatorPorts
from cloudtaser.demo.process import PartProcess
from cloudtaser.openbao.pregenerated import Party
from cloudtaser.openbao.records import Pair, Records
from cloudtaser.wire import names
from tests.chain_attackers import administrator
from tests.chain_tools import delivered, eventually, own_chain, pod_client
from tests.chain_traffic import Reader
from tests.integration.chain.test_following_a_rotation import logged

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]
SECRET = "shop/replaced"


@asynccontextmanager
async def running(*registration: str) -> AsyncIterator[tuple[Chain, list[tuple[PartProcess, OperatorPorts]]]]:
    """A chain with two bridges and two replicas, each connected to both."""
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register(*registration)
        second_bridge = await chain.new_bridge()
        assert second_bridge is chain.bridge
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
        (await chain.new_bridge()).start()
        await chain.start_operator()
        second, ports = chain.new_operator()
        second.start()
        replicas = [(chain.operator, chain.ports), (second, ports)]
        await connected(chain, replicas)
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, SECRET, {"value": "v"})
        yield chain, replicas


async def connected(chain: Chain, replicas: list[tuple[PartProcess, OperatorPorts]]) -> None:
    async def both() -> bool:
        return all([await chain.tunnels(ports) >= 2 for _, ports in replicas])

    await eventually(both, "every replica has two tunnels", timeout=60, every=0.2)


async def readers(chain: Chain, replicas: list[tuple[PartProcess, OperatorPorts]]) -> list[Reader]:
    """A pod with a connection that it keeps and one with a new one for each read, at each replica."""
    with pod_client(chain) as client:
        await client.login(chain.pod("shop").token_file.read_text())
    return [
        Reader(f"127.0.0.1:{ports.broker}", chain.pod_ca(), client.token, f"/v1/secret/data/{SECRET}", keep)
        for _, ports in replicas
        for keep in (True, False)
    ]


async def pairs(chain: Chain) -> dict[Party, Pair]:
    async with administrator(chain) as client:
        records = Records(client, chain.layout)
        found = {party: (await records.pair(chain.fingerprint, party))[0] for party in Party}
    return {party: pair for party, pair in found.items() if pair is not None}


def serial(stored: dict[Party, Pair]) -> str:
    """Of the brokers' pair, as a bridge logs it."""
    return f"{int(stored[Party.BROKER].serial.replace(':', ''), 16):x}"


def up_and_down(replica: PartProcess) -> tuple[int, int]:
    return len(logged(replica, "tunnel up")), len(logged(replica, "tunnel down"))


async def test_every_certificate_is_replaced_and_the_former_revoked_without_a_failed_request() -> None:
    async with running("--pregenerate") as (chain, replicas):
        former = await pairs(chain)
        pods = [reader.start() for reader in await readers(chain, replicas)]
        answer = (await chain.cli("source", "rotate", chain.fingerprint, "-o", "json")).json()
        assert answer["pending"]
        fresh = await pairs(chain)
        assert len(answer["pairs"]) == len(Party)
        assert all(fresh[party] != former[party] for party in Party)

        async def replaced() -> bool:
            return all(up_and_down(replica)[1] >= 2 for replica, _ in replicas)

        await eventually(replaced, "every replica has given its tunnels up for new ones", timeout=80)
        await connected(chain, replicas)
        at_once = await chain.cli("source", "rotate", chain.fingerprint, "--now", "-o", "json")
        assert set(at_once.json()["revoked"]) >= set(answer["pending"])
        before = [up_and_down(replica) for replica, _ in replicas]
        good = [pod.good for pod in pods]

        async def read_on() -> bool:
            return all(pod.good > count + 50 for pod, count in zip(pods, good, strict=True))

        await eventually(read_on, "pods read on once the former certificates count no more")
        assert [up_and_down(replica) for replica, _ in replicas] == before
        for pod in pods:
            await pod.stop()
        assert [pod.bad for pod in pods] == [[]] * len(pods)
        downs = [entry["error"] for replica, _ in replicas for entry in logged(replica, "tunnel down")]
        assert set(downs) == {None}
        assert chain.bridge is not None
        assert logged(chain.bridge, "broker certified")[-1]["serial"] == serial(fresh)


async def test_after_a_reset_a_cluster_with_stored_pairs_comes_in_anew_with_new_ones() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register("--pregenerate")
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
        await chain.start_operator()
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, SECRET, {"value": "v"})
        former = await pairs(chain)
        result = (await chain.cli("source", "reset", chain.fingerprint, "-o", "json")).json()
        assert result["left"] == []
        fresh = await pairs(chain)
        assert fresh.keys() == former.keys() == set(Party)
        assert all(fresh[party].certificate != former[party].certificate for party in Party)
        await chain.operator.kill()
        # what the command says is to be done in the cluster
        chain.apiserver.put_config_map(names.SYSTEM_NAMESPACE, names.TRUST_CONFIGMAP, {})
        await chain.start_operator()
        assert (await delivered(chain, f"secret/data/{SECRET}", "value=SECRET"))["SECRET"] == "v"
        assert chain.bridge is not None
        assert logged(chain.bridge, "broker certified")[-1]["serial"] == serial(fresh)
