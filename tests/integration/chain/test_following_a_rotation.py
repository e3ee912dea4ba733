"""The cluster's side of a rotation: replicas and running pods follow by themselves, whoever was away
meanwhile.

The chain is a whole one. What an administrator does is `source rotate`; a replica is killed in the middle of
it, or all are down for as long as it takes.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain, OperatorPorts
from cloudtaser.demo.process import PartProcess
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Records
from cloudtaser.operator.certificates import load_bundle, pem
from cloudtaser.wire import names
from tests.chain_tools import eventually, own_chain, pod_client, whole_lines
from tests.chain_traffic import Reader

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]
SECRET = "shop/followed"


def trust(chain: Chain) -> dict[str, str]:
    """What the operator keeps of its bridge."""
    return chain.apiserver.config_map(names.SYSTEM_NAMESPACE, names.TRUST_CONFIGMAP)


def logged(part: PartProcess, event: str) -> list[dict[str, Any]]:
    """The entries of a part's log whose event holds this text."""
    lines = (json.loads(line) for line in whole_lines(part.log) if line.startswith("{"))
    return [entry for entry in lines if event in str(entry.get("event", ""))]


async def in_log(part: PartProcess, event: str, *, timeout: float = 30.0) -> dict[str, Any]:
    """The first such entry, once there is one."""

    async def there() -> bool:
        return bool(logged(part, event))

    await eventually(there, f"{part.name} says {event!r}", timeout=timeout, every=0.2)
    return logged(part, event)[0]


async def forget_end(chain: Chain) -> None:
    """As if the last rotation had not ended just now, but a while ago."""
    async with setup.administrator(chain) as client:
        records = Records(client, Layout())
        record, version = await records.registered_version(chain.fingerprint)
        assert record is not None
        await records.write_registered(replace(record, cas_rotated_at=""), version)


async def started(*arguments: str, chain: Chain) -> dict[str, Any]:
    """Everything but operators; what `source register` said."""
    await chain.start_openbao()
    registration: dict[str, Any] = await chain.register()
    await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
    return registration


async def wait_for_two(chain: Chain, replica: PartProcess, ports: OperatorPorts) -> None:
    async def two() -> bool:
        return await chain.tunnels(ports) >= 2

    await replica.wait_until(two, "two tunnels")


async def rotate(chain: Chain, *flags: str) -> None:
    await chain.cli("source", "rotate", chain.fingerprint, *flags)


async def test_replicas_and_running_pods_follow_and_one_replica_may_be_dead_meanwhile(tmp_path: Path) -> None:
    async with own_chain() as chain:
        pin = ["--bridge-pin", (await started(chain=chain))["bridge_pin"]]
        chain.operator.arguments += pin
        await chain.start_operator()
        second, ports = chain.new_operator(*pin)
        second.start()
        await wait_for_two(chain, second, ports)
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, SECRET, {"value": "one"})
        seen = tmp_path / "seen"
        application = chain.wrap(
            chain.pod("shop"),
            ["/bin/sh", "-c", f'echo "$VALUE" >> {seen}; exec sleep 1000'],
            {
                "CLOUDTASER_SECRET_PATHS": f"secret/data/{SECRET}",
                "CLOUDTASER_ENV_MAP": "value=VALUE",
                "CLOUDTASER_ROTATION_INTERVAL": "1s",
                "CLOUDTASER_ROTATION_DEBOUNCE": "0",
            },
        )
        application.start()

        async def values() -> list[str]:
            return seen.read_text().split() if seen.exists() else []

        async def one_was_seen() -> bool:
            return await values() == ["one"]

        await eventually(one_was_seen, "the application runs")
        with pod_client(chain) as client:
            await client.login(chain.pod("shop").token_file.read_text())
            token = client.token
        pods = [
            Reader(chain.broker_address, chain.pod_ca(), token, f"/v1/secret/data/{SECRET}", keep).start()
            for keep in (True, False)
        ]
        first_ca, first_pod_ca = trust(chain)["tunnel-ca.crt"], chain.pod_ca()

        # the leaves: new certificates, new tunnels
        await rotate(chain)
        await in_log(chain.operator, "a bridge asks for a renewal")

        async def made_anew() -> bool:
            return len(logged(chain.operator, "tunnel down")) >= 2 and await chain.tunnels() >= 2

        await eventually(made_anew, "new tunnels stand and the old ones are gone", timeout=60)
        assert all(entry["error"] is None for entry in logged(chain.operator, "tunnel down"))

        # the CAs, while one replica is dead
        await second.kill()
        await rotate(chain, "--ca")

        async def followed() -> bool:
            return trust(chain)["tunnel-ca.crt"] != first_ca and chain.pod_ca() != first_pod_ca

        await eventually(followed, "the first replica follows", timeout=60)
        lineage = [pem(one) for one in load_bundle(trust(chain)["tunnel-ca-lineage.crt"], "the lineage")]
        assert lineage[0] == first_ca
        assert len(lineage) == 2
        second.start()
        await wait_for_two(chain, second, ports)
        await in_log(application, "the pod CA was rotated", timeout=60)
        await wait_for_two(chain, chain.operator, chain.ports)
        for pod in pods:
            await pod.stop()
        assert [pod.bad for pod in pods] == [[], []]
        assert min(pod.good for pod in pods) > 50

        # afterwards the former ones are needed for nothing, and the first pin still fits
        await rotate(chain, "--ca", "--force")
        for replica, where in ((chain.operator, chain.ports), (second, ports)):
            await replica.restart()
            await wait_for_two(chain, replica, where)
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, SECRET, {"value": "two"})

        async def two_was_seen() -> bool:
            return await values() == ["one", "two"]

        await eventually(two_was_seen, "the application is restarted with the new value", timeout=60)


async def test_a_cluster_that_was_down_comes_back_during_a_rotation_and_is_told_what_to_do_after_one() -> (
    None
):
    async with own_chain() as chain:
        await started(chain=chain)
        await chain.start_operator()
        first_ca = trust(chain)["tunnel-ca.crt"]
        await chain.operator.kill()

        # it goes on: the bridge still waits in the former CA's return room
        await rotate(chain, "--ca")
        await chain.start_operator()
        second_ca = trust(chain)["tunnel-ca.crt"]
        assert second_ca != first_ca
        await rotate(chain, "--ca", "--force")
        await chain.operator.kill()

        # it is over: nobody is there any more, and nothing but a person can tell the next CA
        await forget_end(chain)
        await rotate(chain, "--ca")
        await rotate(chain, "--ca", "--force")
        chain.operator.log.write_text("")
        await chain.start_operator(wait=False)
        said = await in_log(chain.operator, "waiting for a bridge to come back to", timeout=60)
        assert "tunnel_ca_certificate" in said["event"]
        assert await chain.tunnels() == 0
        assert trust(chain)["tunnel-ca.crt"] == second_ca
        shown = (await chain.cli("source", "show", chain.fingerprint, "-o", "json")).json()
        data = {"tunnel-ca.crt": shown["tunnel_ca_certificate"]}
        chain.apiserver.put_config_map(names.SYSTEM_NAMESPACE, names.TRUST_CONFIGMAP, data)
        await chain.operator.restart()
        await chain.operator.wait_until(chain.tunnel_is_up, "connected to a bridge")
