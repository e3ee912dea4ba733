"""A cluster is initialised once, by its own operator; everybody else gets nowhere."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.apiserver import StandInApiServer
from cloudtaser.demo.chain import Chain, OperatorPorts
from cloudtaser.wire import names
from tests.chain_tools import delivered, eventually, own_chain

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def initialized(chain: Chain) -> Any:
    """The record of the first initialisation, as OpenBao holds it."""
    path = f"state/data/clusters/{chain.fingerprint}/initialized"
    return (await chain.bao("read", "-namespace=cloudtaser", "-format=json", path)).json()["data"]


async def test_a_second_replica_and_a_restarted_operator_come_in_without_the_fingerprint(
    chain: Chain,
) -> None:
    before = await initialized(chain)
    replica, ports = chain.new_operator()
    replica.start()
    await replica.wait_until(lambda: has_tunnel(chain, ports), "connected")
    await chain.operator.restart()
    await chain.operator.wait_until(chain.tunnel_is_up, "connected again")
    assert await initialized(chain) == before
    await replica.stop()


async def test_somebody_who_knows_the_fingerprint_gets_nowhere(chain: Chain, tmp_path: Path) -> None:
    stranger = StandInApiServer(tmp_path, chain.fingerprint)
    await stranger.start()
    try:
        thief, ports = chain.new_operator(apiserver=stranger)
        thief.start()
        await eventually(lambda: logged(thief.log, "already_initialized"), "the bridge refuses")
        assert await chain.tunnels(ports) == 0
        assert stranger.config_map(names.SYSTEM_NAMESPACE, names.TRUST_CONFIGMAP) == {}
        await thief.stop()
    finally:
        await stranger.close()


async def test_a_stolen_trust_anchor_without_the_clusters_key_gets_nowhere(
    chain: Chain, tmp_path: Path
) -> None:
    """The tunnel CA is public: it opens the return room, where only a token of this cluster helps."""
    stranger = StandInApiServer(tmp_path, chain.fingerprint)
    await stranger.start()
    try:
        for name in (names.TRUST_CONFIGMAP, names.POD_CA_CONFIGMAP):
            data = chain.apiserver.config_map(names.SYSTEM_NAMESPACE, name)
            stranger.put_config_map(names.SYSTEM_NAMESPACE, name, data)
        thief, ports = chain.new_operator(apiserver=stranger)
        thief.start()
        await eventually(lambda: logged(thief.log, "denied"), "the bridge refuses")
        assert await chain.tunnels(ports) == 0
        await thief.stop()
    finally:
        await stranger.close()


async def test_an_operator_with_another_pin_refuses_the_bridge() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register()
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
        operator, ports = chain.new_operator("--bridge-pin", "spki-sha256:" + "0" * 64)
        operator.start()
        await eventually(lambda: logged(operator.log, "pin"), "the operator refuses")
        assert await chain.tunnels(ports) == 0
        assert chain.apiserver.config_map(names.SYSTEM_NAMESPACE, names.TRUST_CONFIGMAP) == {}


async def test_the_printed_pin_and_a_join_code_let_the_operator_in(tmp_path: Path) -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        registered = await chain.register("--join-code")
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
        without, ports = chain.new_operator()
        without.start()
        code = tmp_path / "code"
        code.write_text(registered["join_code"])
        await eventually(lambda: logged(without.log, "bootstrap"), "the one without a code tries")
        assert await chain.tunnels(ports) == 0
        await without.stop()
        operator, ports = chain.new_operator(
            "--join-code-file", str(code), "--bridge-pin", registered["bridge_pin"]
        )
        operator.start()
        await operator.wait_until(lambda: has_tunnel(chain, ports), "connected")


async def test_an_unregistered_cluster_is_not_served() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register()
        other = str(uuid.uuid4())
        chain.fingerprint = other
        chain.apiserver.fingerprint = other
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
        await chain.start_operator(wait=False)
        assert await chain.tunnels() == 0
        assert chain.apiserver.config_map(names.SYSTEM_NAMESPACE, names.TRUST_CONFIGMAP) == {}


async def test_deregistration_closes_the_tunnels_and_keeps_the_secrets() -> None:
    async with own_chain() as chain:
        await chain.start()
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, "shop/kept", {"value": "kept"})
        assert (await delivered(chain, "secret/data/shop/kept", "value=V"))["V"] == "kept"
        await chain.cli("source", "deregister", "--fingerprint", chain.fingerprint)

        async def closed() -> bool:
            return await chain.tunnels() == 0

        await eventually(closed, "the tunnels close")
        async with setup.administrator(chain) as admin:
            kept = await admin.request("GET", "secret/data/shop/kept")
        assert kept["data"]["data"] == {"value": "kept"}
        listed = (await chain.cli("source", "list", "-o", "json")).output
        assert chain.fingerprint not in listed


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_of_twenty_racing_operators_and_three_bridges_one_pair_initialises() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register()
        await asyncio.gather(chain.start_beacon(), chain.start_apiserver())
        bridges = [await chain.new_bridge() for _ in range(3)]
        replicas = [chain.new_operator() for _ in range(20)]
        for part in [*bridges, *(replica for replica, _ in replicas)]:
            part.start()
        for replica, ports in replicas:
            await replica.wait_until(
                lambda ports=ports: has_tunnel(chain, ports),  # type: ignore[misc]  # bound at definition
                "connected",
                timeout=180,
            )
        versions = await chain.bao(
            "kv",
            "metadata",
            "get",
            "-namespace=cloudtaser",
            "-mount=state",
            "-format=json",
            f"clusters/{chain.fingerprint}/initialized",
        )
        assert list(versions.json()["data"]["versions"]) == ["1"]
        logs = "".join(bridge.log.read_text() for bridge in bridges)
        assert logs.count('"first": true') == 1


async def has_tunnel(chain: Chain, ports: OperatorPorts) -> bool:
    """Whether that replica holds a tunnel."""
    return await chain.tunnels(ports) > 0


async def logged(log: Path, text: str) -> bool:
    """Whether the log holds `text`."""
    return log.exists() and text in log.read_text()
