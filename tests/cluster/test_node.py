"""The node's surroundings: names, the registry, and nothing left behind by a cluster that was killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster import leftovers
from tests.cluster.applications import static_image
from tests.cluster.network import Network
from tests.cluster.node import Cluster
from tests.cluster.pods import Pods, container, exit_code, pod

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

PORT = 8080


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def image(cluster: Cluster) -> AsyncIterator[str]:
    yield await cluster.registry.push("tests/static:1", static_image())


async def test_a_pod_reaches_another_by_a_services_name_with_an_image_from_the_registry(
    cluster: Cluster, image: str
) -> None:
    pods = Pods(cluster.control_plane)
    service = {"selector": {"app": "greeter"}, "ports": [{"port": 80, "targetPort": PORT}]}
    await cluster.control_plane.apply(
        pod("greeter", container(image, "serve", str(PORT)), hostname="one", subdomain="each"),
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "greeter"}, "spec": service},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "each"},
            "spec": service | {"clusterIP": "None"},
        },
        pod(
            "guest",
            container(
                image, "fetch", "greeter", "80", "resolve", "one.each.default.svc.cluster.local",
                "resolve", "registry.cloud.test", "resolve", "kubernetes.default",
            ),
        ),
    )  # fmt: skip
    assert exit_code(await pods.ended("guest")) == 0
    address = (await pods.ready("greeter"))["status"]["podIP"]
    assert (await pods.log("guest")).splitlines() == [
        "hello",
        address,
        cluster.network.host_address,
        "10.96.0.1",
    ]
    assert not cluster.names.knows("elsewhere.default.svc.cluster.local")


async def test_what_a_killed_cluster_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    # a keeper without the programs: a namespace, a mount, and a process that outlives it
    script = """
import os, subprocess, sys
from pathlib import Path
from tests.cluster.network import Network
directory = Path(sys.argv[1])
network = Network(directory)
network.start()
subprocess.run(["mount", "-t", "tmpfs", "none", str(directory / "mounted")], check=True)
command = [*network.inside, "sh", "-c", "echo inside; exec sleep 1000 >/dev/null 2>&1"]
left = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
left.stdout.readline()
print(network.name, network.here, left.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    (tmp_path / "mounted").mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    name, cable, process = killed.stdout.split()
    assert f"/run/netns/{name}" in leftovers.mounts_below(Path("/run/netns"))
    left = os.pidfd_open(int(process))

    with Network(tmp_path / "next"):
        assert leftovers.mounts_below(tmp_path) == []
        assert f"/run/netns/{name}" not in leftovers.mounts_below(Path("/run/netns"))
        assert not Path("/sys/class/net", cable).exists()
        assert select.select([left], [], [], 0)[0], "the process has not ended"
    os.close(left)
