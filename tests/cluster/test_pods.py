"""Pods of every kind get their secrets by two annotations, from an OpenBao outside the cluster; neither they
nor their images know of it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.node import Cluster
from tests.cluster.pods import Pods, exit_code
from tests.cluster.shop import CLOSED, JOB_EXIT, ORDERS, PREFIX, SHOP, Shop

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]


async def test_an_unmodified_postgresql_client_logs_in(cluster: Cluster, shop: Shop) -> None:
    pods = Pods(cluster.control_plane)
    found = await pods.ended("client", namespace=SHOP)
    log = await pods.log("client", namespace=SHOP)
    assert exit_code(found) == 0, log
    assert f"shop|{ORDERS}" in log.splitlines()
    check_injected(found, shop)


async def test_a_static_program_without_a_shell_gets_its_secret(cluster: Cluster, shop: Shop) -> None:
    pods = Pods(cluster.control_plane)
    check_injected(await pods.ready("static", namespace=SHOP), shop)
    await pods.says("static", f"DB_PASSWORD={shop.password}", namespace=SHOP)


async def test_a_pod_that_names_no_command_runs_the_one_of_its_image(cluster: Cluster, shop: Shop) -> None:
    pods = Pods(cluster.control_plane)
    found = await pods.ready("speaking", namespace=SHOP)
    await pods.says("speaking", f"DB_PASSWORD={shop.password}", namespace=SHOP)
    check_injected(found, shop)
    assert found["metadata"]["annotations"][f"{PREFIX}image-digest"]


async def test_each_pod_of_a_stateful_set_gets_its_secret_and_keeps_its_name(
    cluster: Cluster, shop: Shop
) -> None:
    pods = Pods(cluster.control_plane)
    for name in ("ledger-0", "ledger-1"):
        check_injected(await pods.ready(name, namespace=SHOP), shop)
        log = await pods.says(name, f"HOSTNAME={name}", namespace=SHOP)
        assert f"DB_PASSWORD={shop.password}" in log


async def test_a_job_ends_with_the_exit_code_of_its_program(cluster: Cluster, shop: Shop) -> None:
    for job, condition, code in (("failing", "Failed", JOB_EXIT), ("succeeding", "Complete", 0)):
        await cluster.control_plane.kubectl(
            "wait", "-n", SHOP, f"job/{job}", f"--for=condition={condition}", "--timeout=180s"
        )
        (found,) = (
            await cluster.control_plane.get("pods", "-n", SHOP, "-l", f"batch.kubernetes.io/job-name={job}")
        )["items"]
        assert exit_code(found) == code
        log = await Pods(cluster.control_plane).log(found["metadata"]["name"], namespace=SHOP)
        assert f"DB_PASSWORD={shop.password}" in log.splitlines()
        check_injected(found, shop)


async def test_exec_probes_and_hooks_go_on_to_work(cluster: Cluster, shop: Shop) -> None:
    pods = Pods(cluster.control_plane)
    check_injected(await pods.ready("probed", namespace=SHOP), shop)


async def test_a_probe_sees_the_secrets_where_the_pod_asks_for_it(cluster: Cluster, shop: Shop) -> None:
    check_injected(await Pods(cluster.control_plane).ready("asking", namespace=SHOP), shop)


async def test_an_init_container_gets_its_secret_before_the_application_starts(
    cluster: Cluster, shop: Shop
) -> None:
    pods = Pods(cluster.control_plane)
    await pods.ready("migrated", namespace=SHOP)
    assert "migrated by shop" in (await pods.log("migrated", "migrate", namespace=SHOP)).splitlines()
    await pods.says("migrated", f"PGPASSWORD={shop.password}", namespace=SHOP)


async def test_two_containers_of_one_pod_get_their_secrets(cluster: Cluster, shop: Shop) -> None:
    pods = Pods(cluster.control_plane)
    check_injected(await pods.ready("two", namespace=SHOP), shop)
    for container in ("first", "second"):
        await pods.says("two", f"DB_PASSWORD={shop.password}", container, namespace=SHOP)


async def test_a_pod_under_the_restricted_level_is_admitted_and_gets_its_secret(
    cluster: Cluster, shop: Shop
) -> None:
    pods = Pods(cluster.control_plane)
    check_injected(await pods.ready("quiet", namespace=CLOSED), shop)
    await pods.says("quiet", f"DB_PASSWORD={shop.closed_password}", namespace=CLOSED)


def check_injected(found: dict[str, Any], shop: Shop) -> None:
    """Every container runs under the wrapper, two annotations asked for it (or one more for a probe's sake),
    and nothing that the API server knows of the pod holds a secret."""
    for container in found["spec"]["containers"]:
        assert container["command"][0] == "/cloudtaser/wrapper"
    applied = json.loads(
        found["metadata"]["annotations"].get("kubectl.kubernetes.io/last-applied-configuration", "{}")
    )
    asked = [name for name in applied.get("metadata", {}).get("annotations", {}) if name.startswith(PREFIX)]
    assert len(asked) in (0, 2, 3)
    text = json.dumps(found)
    assert [name for name, value in shop.canaries.items() if value.decode() in text] == []
