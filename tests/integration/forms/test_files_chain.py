"""A bridge that is given its certificates in files, through the whole chain: with a registration, without."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.command import program, run_command
from cloudtaser.openbao.layout import Layout
from tests.chain_tools import delivered, eventually, own_chain, pod_client
from tests.integration.chain.test_renewal import Traffic, cut_tunnels, entries, serial_of_bridge
from tests.integration.forms.test_pregenerated_chain import administrator, replaced

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]


async def written(chain: Chain) -> dict[str, str]:
    """`source pairs`: the six settings of the bridge."""
    place = str(chain.directory / "pairs")
    answer = await chain.cli("source", "pairs", chain.fingerprint, "--out-dir", place, "-o", "json")
    flags: dict[str, str] = answer.json()["flags"]
    return flags


async def status(chain: Chain) -> dict[str, Any]:
    result = await run_command(
        [program("cloudtaser-bridge"), "status", "--status-socket", str(chain.bridge_socket)], {}, check=False
    )
    found: dict[str, Any] = json.loads(result.output) if result.output else {}
    return found


def said(chain: Chain, text: str) -> int:
    assert chain.bridge is not None
    return chain.bridge.log.read_text().count(text)


async def test_files_serve_and_are_swapped_in_under_traffic() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register("--pregenerate")
        other = "0ad50c05-1153-4508-9237-4cb2912e2c23"
        await chain.cli("source", "register", "--fingerprint", other)
        flags = await written(chain)
        arguments = [part for pair in flags.items() for part in pair]
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(*arguments), chain.start_apiserver())
        await chain.start_operator()
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, "shop/renewed", {"value": "v"})
        assert (await delivered(chain, "secret/data/shop/renewed", "value=SECRET"))["SECRET"] == "v"
        assert [cluster["fingerprint"] for cluster in (await status(chain))["clusters"]] == [
            chain.fingerprint
        ]

        with pod_client(chain) as client:
            await client.login(chain.pod("shop").token_file.read_text())
            traffic = Traffic(chain, client.token)
        readers = [asyncio.create_task(read()) for read in (traffic.keep_alive, traffic.anew)]
        first = await asyncio.to_thread(serial_of_bridge, chain)
        place = Path(flags["--tls-key"]).parent
        kept = (place / "pod.key").read_text()
        (place / "pod.key").write_text("broken")

        async def refused() -> bool:
            return said(chain, "holds no private key") == 1

        await eventually(refused, "the broken file is refused")
        await replaced(chain)
        assert await asyncio.to_thread(serial_of_bridge, chain) == first
        (place / "pod.key").write_text(kept)
        await written(chain)

        async def swapped() -> bool:
            return await asyncio.to_thread(serial_of_bridge, chain) != first

        await eventually(swapped, "the new files are taken up")
        traffic.stop.set()
        await asyncio.gather(*readers)
        assert traffic.bad == []
        assert traffic.good > 20
        assert cut_tunnels(chain) == []
        assert said(chain, "holds no private key") == 1

        await chain.cli("source", "deregister", chain.fingerprint)

        async def ended() -> bool:
            return await chain.tunnels() == 0

        await eventually(ended, "a registration that is taken back ends access")


async def test_a_cluster_without_a_registration_is_served_from_files_and_its_login() -> None:
    async with own_chain() as chain:
        await chain.start_openbao()
        await chain.register("--pregenerate")
        flags = await written(chain)
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
        await chain.start_operator()  # comes in once, so that it knows the tunnel CA
        async with setup.administrator(chain) as admin:
            await setup.write_secret(admin, "shop/plain", {"value": "v"})
        for part in (chain.operator, chain.bridge):
            assert part is not None
            await part.kill()
        layout = Layout()
        async with administrator(chain) as root:
            for record in layout.cluster_records(chain.fingerprint):
                await root.kv_forget(layout.state_mount, record, namespace=layout.system_namespace)
        assert chain.bridge is not None
        chain.bridge.arguments += [part for pair in flags.items() for part in pair]
        chain.bridge.start()
        await chain.start_operator()
        assert (await delivered(chain, "secret/data/shop/plain", "value=SECRET"))["SECRET"] == "v"
        cluster = (await status(chain))["clusters"][0]
        assert (cluster["initialized"], cluster["logins_open"]) == (True, True)
        assert set(cluster["parked"]) == {"operational", "return"}
        assert entries(chain.bridge.log, "failed") == []
        space = layout.space(chain.fingerprint)
        async with administrator(chain) as root:
            await root.request("DELETE", f"sys/auth/{space.jwt}", namespace=space.namespace)

        async def ended() -> bool:
            return await chain.tunnels() == 0

        await eventually(ended, "a login that is taken away ends access")


async def test_a_bridge_whose_files_do_not_fit_does_not_start_and_says_why(tmp_path: Path) -> None:
    for name in ("crt", "key", "ca"):
        (tmp_path / name).write_text("nothing")
    command = [
        program("cloudtaser-bridge"),
        "--vault-addr",
        "http://127.0.0.1:9",
        "--beacon-address",
        "127.0.0.1:9",
    ]
    command += ["--beacon-info-hash", "00" * 32, "--tls-cert", str(tmp_path / "crt")]
    command += ["--tls-key", str(tmp_path / "key"), "--tls-ca", str(tmp_path / "ca")]
    command += ["--pod-cert", str(tmp_path / "crt"), "--pod-key", str(tmp_path / "key")]
    command += ["--status-socket", str(tmp_path / "socket")]
    result = await run_command(command, {"VAULT_TOKEN": "s.canary"}, check=False)
    assert result.status == 2
    assert result.errors.splitlines()[-1].startswith(f"the file holds no certificate ({tmp_path / 'ca'})")
    assert "Traceback" not in result.errors
