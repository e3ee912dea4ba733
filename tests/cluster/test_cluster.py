"""The tests' cluster is a real one: it admits, schedules and runs pods, and its API server's word on a
token counts.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from tests.chain_tools import eventually
from tests.cluster.accounts import namespace
from tests.cluster.binaries import KUBERNETES
from tests.cluster.images import image_archive
from tests.cluster.node import Cluster
from tests.cluster.pods import Pods, container, exit_code, pod

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

IMAGE = "tests.invalid/hello:1"
PROGRAM = """
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("process %d, user %d\\n", getpid(), getuid()); return 7; }
"""


async def test_it_is_the_release_that_it_says(cluster: Cluster) -> None:
    version = json.loads(await cluster.control_plane.kubectl("get", "--raw", "/version"))
    assert version["gitVersion"] == f"v{KUBERNETES}"


async def test_a_restricted_pod_runs_and_its_exit_code_is_told(cluster: Cluster, tmp_path: Path) -> None:
    source, binary = tmp_path / "hello.c", tmp_path / "hello"
    source.write_text(PROGRAM)
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", str(binary), str(source)], check=True)
    await cluster.runtime.load(image_archive(IMAGE, {"hello": binary.read_bytes()}, entrypoint=["/hello"]))
    walled = await namespace(
        cluster.control_plane, "walled", {"pod-security.kubernetes.io/enforce": "restricted"}
    )
    pods = Pods(cluster.control_plane)
    await cluster.control_plane.apply(
        pod("hello", container(IMAGE, imagePullPolicy="Never"), namespace=walled)
    )
    assert exit_code(await pods.ended("hello", namespace=walled)) == 7
    assert await pods.log("hello", namespace=walled) == "process 1, user 65532\n"


async def test_a_token_is_bound_to_its_audience_and_reviewed(cluster: Cluster) -> None:
    plane = cluster.control_plane
    token = await plane.kubectl("create", "token", "default", "--audience", "cloudtaser:test")
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["aud"] == ["cloudtaser:test"]
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token.strip(), "audiences": ["cloudtaser:test"]},
    }
    answer = json.loads(await plane.kubectl("create", "-f", "-", "-o", "json", given=json.dumps(review)))
    assert answer["status"]["user"]["username"] == "system:serviceaccount:default:default"


async def test_every_request_is_in_the_audit_log(cluster: Cluster) -> None:
    await cluster.control_plane.kubectl("get", "secrets", "-A")

    async def told() -> bool:
        return any(
            event["objectRef"].get("resource") == "secrets" and event["verb"] == "list"
            for event in cluster.control_plane.audited()
            if event["user"]["username"] == "admin" and "objectRef" in event
        )

    await eventually(told, "the request is in the audit log")
