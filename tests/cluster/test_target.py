"""`cloudtaser-cli target` against a real API server, and through it to pods."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.kubeconfig import load
from cloudtaser.kube.portforward import PortForward
from tests.chain_tools import eventually
from tests.cluster.control_plane import ControlPlane
from tests.cluster.images import image_archive
from tests.cluster.node import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

CLI = Path(sys.executable).parent / "cloudtaser-cli"
ECHO_IMAGE = "tests.invalid/echo:1"
ECHO = """
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(7000)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listening = socket(AF_INET, SOCK_STREAM, 0);
    signal(SIGCHLD, SIG_IGN);
    if (bind(listening, (struct sockaddr *)&at, sizeof at) || listen(listening, 8)) return 1;
    for (;;) {
        int one = accept(listening, 0, 0);
        if (fork() == 0) {
            char piece[65536];
            for (ssize_t n; (n = read(one, piece, sizeof piece)) > 0;)
                for (ssize_t sent = 0, m; sent < n; sent += m)
                    if ((m = write(one, piece + sent, n - sent)) <= 0) return 1;
            return 0;
        }
        close(one);
    }
}
"""


async def cli(plane: ControlPlane, *arguments: str, kubeconfig: str = "") -> subprocess.CompletedProcess[str]:
    """What the command prints, as the cluster's administrator."""
    environment = os.environ | {"KUBECONFIG": kubeconfig or str(plane.kubeconfig)}
    return await asyncio.to_thread(
        subprocess.run, [str(CLI), *arguments], capture_output=True, text=True, env=environment, timeout=120
    )


@pytest.mark.anywhere
async def test_the_fingerprint_is_told_in_the_four_lines_that_people_know(
    control_plane: ControlPlane,
) -> None:
    uid = (await control_plane.get("namespace", "kube-system"))["metadata"]["uid"]
    shown = await cli(control_plane, "target", "fingerprint")
    assert shown.stdout.splitlines() == [
        "CloudTaser Cluster Fingerprint",
        f"Cluster ID: {uid}",
        "Register this cluster on your secret store:",
        f"cloudtaser source register --fingerprint {uid}",
    ]
    assert (await cli(control_plane, "target", "fingerprint", "-q")).stdout == f"{uid}\n"
    assert json.loads((await cli(control_plane, "target", "fingerprint", "-o", "json")).stdout) == {
        "fingerprint": uid
    }


async def test_who_is_nobody_here_is_told_so_in_one_line(control_plane: ControlPlane, tmp_path: Path) -> None:
    stranger = control_plane.identities.kubeconfig("stranger", control_plane.server, "stranger", ())
    refused = await cli(control_plane, "target", "fingerprint", kubeconfig=str(stranger))
    assert (refused.returncode, refused.stdout) == (4, "")
    assert refused.stderr.startswith("cloudtaser-cli: not permitted to get namespaces kube-system")
    absent = await cli(control_plane, "target", "fingerprint", kubeconfig=str(tmp_path / "absent"))
    assert (absent.returncode, len(absent.stderr.splitlines())) == (2, 1)


async def test_a_port_of_a_pod_that_no_network_shows_is_reached(cluster: Cluster, tmp_path: Path) -> None:
    plane = cluster.control_plane
    source, binary = tmp_path / "echo.c", tmp_path / "echo"
    source.write_text(ECHO)
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", str(binary), str(source)], check=True)
    await cluster.runtime.load(image_archive(ECHO_IMAGE, {"echo": binary.read_bytes()}, entrypoint=["/echo"]))
    await plane.kubectl("run", "echo", f"--image={ECHO_IMAGE}", "--image-pull-policy=Never")

    async def runs() -> bool:
        return bool((await plane.get("pod", "echo"))["status"]["phase"] == "Running")

    await eventually(runs, "the pod echo runs", timeout=120, every=0.3)
    sent = os.urandom(3_000_000)
    async with KubeApi.of(load({}, kubeconfig=str(plane.kubeconfig)), timeout=30) as kube:
        async with PortForward(kube, "default", "echo", 7000) as forward:
            echoes = [_echo(forward.address, sent[number:]) for number in range(3)]
            assert await asyncio.gather(*echoes) == [sent[number:] for number in range(3)]
            assert forward.complaint == ""
        async with PortForward(kube, "default", "echo", 7001) as forward:
            reader, writer = await asyncio.open_connection(*forward.address)
            assert await _rest(reader) == b""
            writer.close()
            assert "refused" in forward.complaint
        async with PortForward(kube, "default", "absent", 7000) as forward:
            reader, writer = await asyncio.open_connection(*forward.address)
            assert await _rest(reader) == b""
            writer.close()
            assert "pods/portforward default/absent" in forward.complaint


async def _echo(address: tuple[str, int], sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    sending = asyncio.create_task(_send(writer, sent))
    received = await asyncio.wait_for(reader.readexactly(len(sent)), 60)
    await sending
    writer.close()
    return received


async def _send(writer: asyncio.StreamWriter, sent: bytes) -> None:
    writer.write(sent)
    await writer.drain()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionResetError:
        return b""
