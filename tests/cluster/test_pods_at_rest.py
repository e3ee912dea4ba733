"""While pods have their secrets, the cluster has none: no Secret object, nothing in etcd's files."""

from __future__ import annotations

import asyncio
import base64
import gzip
from pathlib import Path

import pytest

from cloudtaser.demo.search import occurrences
from tests.cluster.node import Cluster
from tests.cluster.pods import Pods
from tests.cluster.shop import SHOP, Shop, canary

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

HELM = "helm.sh/release.v1"
"""What Helm keeps of a release, chart and values: Helm's own, where it is not told to use ConfigMaps."""


async def test_no_secret_object_is_ours(cluster: Cluster, shop: Shop) -> None:
    await Pods(cluster.control_plane).ready("static", namespace=SHOP)
    found = (await cluster.control_plane.get("secrets", "-A"))["items"]
    assert [one["metadata"]["name"] for one in found if one.get("type") != HELM] == []
    for one in found:
        release = gzip.decompress(base64.b64decode(base64.b64decode(one["data"]["release"])))
        assert occurrences(release, shop.canaries) == []


async def test_etcds_files_hold_no_secret_and_would_show_one(cluster: Cluster, shop: Shop) -> None:
    await Pods(cluster.control_plane).ready("static", namespace=SHOP)
    planted = canary("planted")
    await cluster.control_plane.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "planted", "namespace": SHOP},
            "stringData": {"password": planted},
        }
    )
    try:
        wanted = shop.canaries | {"planted": planted.encode()}
        assert await asyncio.to_thread(found_in, cluster.control_plane.etcd_data, wanted) == {"planted"}
    finally:
        await cluster.control_plane.kubectl("delete", "secret", "-n", SHOP, "planted")


def found_in(directory: Path, wanted: dict[str, bytes]) -> set[str]:
    """Which of them some file below `directory` holds, in whatever form."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert any(path.name == "db" for path in files), "this is etcd's directory"
    return {hit.rpartition(" as ")[0] for path in files for hit in occurrences(path.read_bytes(), wanted)}
