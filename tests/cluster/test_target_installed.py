"""`cloudtaser-cli target` where the product is installed: what it says of a cluster, well or broken."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloudtaser.demo.openbao import bao_binary
from cloudtaser.wire.names import SYSTEM_NAMESPACE
from tests.chain_tools import eventually
from tests.cluster.europe import Europe
from tests.cluster.installation import Installation
from tests.cluster.node import Cluster
from tests.cluster.pods import container, is_ready, pod
from tests.cluster.test_target import cli

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

NAMESPACE = "target"
VALUE = "canary-of-target-7b0d6a"
PATH = f"secret/data/{NAMESPACE}/db"
ASKS = {
    "cloudtaser.io/inject": "true",
    "cloudtaser.io/secret-paths": PATH,
    "cloudtaser.io/env-map": "password=DB_PASSWORD",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plane(cluster: Cluster, europe: Europe, installation: Installation) -> AsyncIterator[Any]:
    """The control plane, with one injected pod and one that does not ask."""
    control_plane = cluster.control_plane
    await europe.write(f"{NAMESPACE}/db", {"password": VALUE})
    await control_plane.kubectl("create", "namespace", NAMESPACE)
    words = ("show", "DB_PASSWORD", ",", "wait")
    image = container(installation.probe_image, *words)
    await control_plane.apply(
        pod("web", image, namespace=NAMESPACE, annotations=ASKS),
        pod("plain", container(installation.probe_image, "wait"), namespace=NAMESPACE),
    )

    async def are_ready() -> bool:
        found = [await control_plane.get("pod", name, "-n", NAMESPACE) for name in ("web", "plain")]
        return all(map(is_ready, found))

    await eventually(are_ready, "both pods are ready", timeout=240, every=0.5)
    yield control_plane
    await control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


async def answer(plane: Any, *arguments: str, status: int = 0) -> Any:
    """The JSON that a command prints."""
    done = await cli(plane, "target", *arguments, "-o", "json")
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


async def test_an_injected_pod_is_explained_on_one_screen(plane: Any) -> None:
    told = await answer(plane, "explain", "web", "-n", NAMESPACE)
    (app,) = told["containers"]
    assert told["injected"]
    assert app["command"][-4:] == ["show", "DB_PASSWORD", ",", "wait"]
    assert (app["role"], app["method"], app["paths"], app["secrets"]) == ("default", "kubernetes", [PATH], 1)
    assert app["fetched_at"]
    shown = await cli(plane, "target", "explain", "web", "-n", NAMESPACE)
    assert len(shown.stdout.splitlines()) <= 24
    assert VALUE not in shown.stdout + json.dumps(told)


async def test_a_pod_that_was_not_injected_is_told_why(plane: Any) -> None:
    told = await answer(plane, "explain", "plain", "-n", NAMESPACE, status=3)
    assert not told["injected"]
    assert "it does not ask" in told["reasons"][0]["what"]
    await plane.kubectl("annotate", "pod", "plain", "-n", NAMESPACE, "cloudtaser.io/inject=true")
    told = await answer(plane, "explain", "plain", "-n", NAMESPACE, status=3)
    assert "nothing stands in the way now" in told["reasons"][0]["what"]
    await plane.kubectl("annotate", "pod", "plain", "-n", NAMESPACE, "cloudtaser.io/inject-")


async def test_status_counts_what_is_there(plane: Any) -> None:
    told = await answer(plane, "status")
    assert [one["ready"] for one in told["operator"]] == [True]
    assert told["needs"] == []
    assert {"namespace": NAMESPACE, "pods": 1} in told["injected"]


async def test_every_hop_to_a_secret_is_tried(plane: Any) -> None:
    told = await answer(plane, "validate", "-n", NAMESPACE)
    assert told["works"]
    steps = {one["name"]: one for one in told["steps"]}
    tried = ("API server", "operator", "webhook", "broker", "beacon", "bridge", "OpenBao", "logins")
    assert [steps[name]["ok"] for name in (*tried, "TLS to the bridge", "login", "read")] == [True] * 11
    assert steps["read"]["milliseconds"] > 0
    assert VALUE not in json.dumps(told)


async def test_a_bridge_that_is_away_is_the_broken_hop(plane: Any, europe: Europe) -> None:
    bridge = europe.chain.bridge
    assert bridge is not None
    await bridge.stop()
    try:

        async def is_noticed() -> bool:
            done = await cli(plane, "target", "validate", "-n", NAMESPACE, "-o", "json")
            told = json.loads(done.stdout)
            return bool(done.returncode == 1 and told["broken"] == "beacon")

        await eventually(is_noticed, "validate names the hop", timeout=120, every=1.0)
        shown = await cli(plane, "target", "validate", "-n", NAMESPACE)
        assert "beacon: no bridge comes" in shown.stdout
    finally:
        bridge.start()

    async def is_back() -> bool:
        return (await cli(plane, "target", "validate", "-n", NAMESPACE)).returncode == 0

    await eventually(is_back, "everything works again", timeout=180, every=1.0)


async def test_a_report_is_printed_saved_and_removed(plane: Any, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    told = await answer(plane, "debug", "--save", str(file))
    assert told == json.loads(file.read_text())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert all(hop["ok"] for hop in told["report"]["hops"])
    assert told["report"]["webhook"]["caBundleTrusts"]
    assert (await plane.get("debugreports", "-n", SYSTEM_NAMESPACE))["items"] == []
    refused = await cli(plane, "target", "debug", "--check", "everything")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)


async def test_an_administrators_client_reaches_openbao_with_a_token_of_its_own(
    plane: Any, europe: Europe
) -> None:
    policy = f'path "{PATH}" {{ capabilities = ["read"] }}'
    async with europe.administrator() as openbao:
        await openbao.request("POST", "sys/policies/acl/target-reader", body={"policy": policy})
        made = await openbao.request(
            "POST", "auth/token/create", body={"policies": ["target-reader"], "ttl": "5m", "no_parent": True}
        )
    token = made["auth"]["client_token"]
    command = [str(bao_binary()), "kv", "get", "-mount=secret", "-field=password", f"{NAMESPACE}/db"]
    done = await cli(plane, "target", "openbao", "--", "/usr/bin/env", f"VAULT_TOKEN={token}", *command)
    assert (done.returncode, done.stdout.strip()) == (0, VALUE), done.stderr
    nobody = await cli(plane, "target", "openbao", "--", "/usr/bin/env", "VAULT_TOKEN=none", *command)
    assert nobody.returncode != 0
    assert VALUE not in nobody.stdout + nobody.stderr


async def test_the_node_is_looked_at_by_a_pod_that_is_gone_afterwards(plane: Any) -> None:
    done = await cli(plane, "target", "check", "-o", "json")
    assert done.stderr == ""
    told = json.loads(done.stdout)
    checks = {one["name"]: one["verdict"] for one in told[0]["checks"]}
    assert checks["node"] == checks["runtime"] == checks["BTF"] == "pass"
    assert checks["swap"] in ("pass", "warn")
    blind = (await answer(plane, "check", "--no-pods"))[0]["checks"]
    unknown = {one["name"] for one in blind if one["verdict"] == "unknown"}
    assert {"swap", "BTF", "memfd_secret", "BPF LSM"} <= unknown
    left = await plane.get("pods", "-n", SYSTEM_NAMESPACE, "-l", "cloudtaser.io/node-probe=true")
    assert left["items"] == []
