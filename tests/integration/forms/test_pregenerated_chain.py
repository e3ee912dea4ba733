"""The pre-generated form through the whole chain: delivered, restarted, replaced under traffic."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time

import pytest
from cryptography import x509

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.pregenerated import Authorities, Party, pregenerate
from cloudtaser.openbao.records import Pair, Records, instant
from cloudtaser.openbao.steps import Steps
from tests.chain_tools import delivered, eventually, own_chain, pod_client, whole_lines
from tests.integration.chain.test_renewal import Traffic, cut_tunnels, entries, serial_of_bridge

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]


def administrator(chain: Chain) -> OpenBao:
    address, ca = chain.openbao.address, chain.openbao.ca_file
    return OpenBao(address, ca_file=ca, token=chain.openbao.root_token)


async def stored(chain: Chain) -> dict[Party, Pair]:
    async with administrator(chain) as client:
        found = {
            party: (await Records(client, Layout()).pair(chain.fingerprint, party))[0] for party in Party
        }
    return {party: pair for party, pair in found.items() if pair is not None}


def serial(pair: Pair) -> int:
    return int(pair.serial.replace(":", ""), 16)


async def replaced(chain: Chain) -> None:
    """What `source rotate` does about stored pairs."""
    async with administrator(chain) as client:
        record = await Records(client, Layout()).registered(chain.fingerprint)
        assert record is not None
        both = Authorities(record.tunnel_ca, record.pod_ca)
        space = Layout().space(record.space)
        now = time.time()
        made = await pregenerate(
            Steps(client),
            Layout(),
            space,
            chain.fingerprint,
            both,
            now=now,
            made_before=instant(now + 1),
        )
    assert made == tuple(Party)


async def test_the_stored_pairs_serve_survive_a_restart_and_are_replaced_under_traffic() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        registered = await chain.register("--pregenerate")
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
        chain.operator.arguments += ["--beacon-info-hash", registered["info_hash"]]
        await chain.start_operator()
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, "shop/renewed", {"value": "v"})
        pairs = await stored(chain)

        async def shown() -> int:
            return int(await asyncio.to_thread(serial_of_bridge, chain), 16)

        assert await shown() == serial(pairs[Party.BRIDGE_POD])
        assert (await delivered(chain, "secret/data/shop/renewed", "value=SECRET"))["SECRET"] == "v"
        handed_out = entries(chain.bridge.log, "broker certified") if chain.bridge else []
        assert {entry["serial"] for entry in handed_out} == {f"{serial(pairs[Party.BROKER]):x}"}
        until = dt.datetime.fromisoformat(entries(chain.operator.log, "enrolled")[0]["until"])
        assert until > dt.datetime.now(dt.UTC) + dt.timedelta(days=360)
        assert "PRIVATE KEY" not in chain.operator.log.read_text()

        await asyncio.to_thread(chain.openbao.kill)
        for part in (chain.operator, chain.beacon, chain.bridge):  # in this order nobody sees a cut
            assert part is not None
            await part.kill()
        await asyncio.to_thread(chain.openbao.start)
        await asyncio.gather(chain.start_beacon(), chain.start_bridge())
        await chain.start_operator()
        assert (await delivered(chain, "secret/data/shop/renewed", "value=SECRET"))["SECRET"] == "v"
        assert await shown() == serial(pairs[Party.BRIDGE_POD])

        with pod_client(chain) as client:
            await client.login(chain.pod("shop").token_file.read_text())
            traffic = Traffic(chain, client.token)
        readers = [asyncio.create_task(read()) for read in (traffic.keep_alive, traffic.anew)]
        await replaced(chain)
        fresh = await stored(chain)

        async def swapped() -> bool:
            return await shown() == serial(fresh[Party.BRIDGE_POD])

        await eventually(swapped, "the bridge shows the new pair")
        traffic.stop.set()
        await asyncio.gather(*readers)
        assert traffic.bad == []
        assert traffic.good > 20
        assert cut_tunnels(chain) == []
        assert fresh[Party.BRIDGE_POD] != pairs[Party.BRIDGE_POD]


async def test_an_operator_refuses_every_ca_but_that_of_its_info_hash() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register("--pregenerate")
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
        chain.operator.arguments += ["--beacon-info-hash", "0" * 64]
        await chain.start_operator(wait=False)

        async def refused() -> bool:
            return any("not the one of the info hash" in line for line in whole_lines(chain.operator.log))

        await eventually(refused, "the operator says so")
        assert await chain.tunnels() == 0
        said = [line for line in whole_lines(chain.operator.log) if "info hash" in line]
        assert all("0" * 64 not in json.loads(line)["error"] for line in said)
        own = x509.load_pem_x509_certificate((await stored(chain))[Party.BRIDGE].certificate.encode())
        assert own.not_valid_after_utc > dt.datetime.now(dt.UTC) + dt.timedelta(days=360)
