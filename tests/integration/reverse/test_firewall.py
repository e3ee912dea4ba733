"""The machine of OpenBao takes nothing in and lets out the broker's port and DNS: all of the chain works so.

The rules are those that are shipped, applied as they are; the network is two namespaces and a cable.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.reverse_chain import NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[3]
FIREWALL = ROOT / "deploy" / "firewall"
BRIDGE, BROKER = "10.213.7.1", "10.213.7.2"


@dataclass
class Network:
    """Two machines on one cable."""

    eu: str
    cluster: str


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture
def network() -> Iterator[Network]:
    tag = uuid.uuid4().hex[:6]
    eu, cluster = f"ct-eu-{tag}", f"ct-k8s-{tag}"
    hosts = Path("/etc/netns") / eu
    hosts.mkdir(parents=True)
    (hosts / "hosts").write_text(f"127.0.0.1 localhost\n{BROKER} {NAME}\n")
    try:
        for namespace in (eu, cluster):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        cable = ("cable", "netns", eu, "type", "veth", "peer", "name", "cable", "netns", cluster)
        ip("link", "add", *cable)
        for namespace, address in ((eu, BRIDGE), (cluster, BROKER)):
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", namespace, "link", "set", "cable", "up")
        yield Network(eu, cluster)
    finally:
        for namespace in (eu, cluster):
            subprocess.run(["ip", "netns", "del", namespace], check=False)
        shutil.rmtree(hosts)


IPTABLES = ["sh", str(FIREWALL / "bridge.iptables.sh"), BROKER]
NFT = ["nft", "-D", f"peers={{ {BROKER} }}", "-D", "port=443", "-f", str(FIREWALL / "bridge.nft")]
OPEN_IPTABLES = [
    [tool, *rest]
    for tool in ("iptables", "ip6tables")
    for rest in (["-F"], *(["-P", chain, "ACCEPT"] for chain in ("INPUT", "FORWARD", "OUTPUT")))
]


def test_everything_works_behind_firewalls_that_let_nothing_in(network: Network) -> None:
    ip("netns", "exec", network.eu, *IPTABLES)
    story = Path(__file__).with_name("firewalled.py")
    arguments = [str(story), network.eu, BROKER, BRIDGE, json.dumps([*OPEN_IPTABLES, NFT])]
    result = subprocess.run(
        ["ip", "netns", "exec", network.cluster, sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    seen = json.loads(result.stdout.splitlines()[-1])
    assert (seen["value"], seen["value later"]) == ("behind a firewall", "still")
    assert seen["value by tls"] == "by TLS"
    for when in ("", " later"):
        assert seen[f"listening{when}"] == seen["openbao"], "nothing listens but OpenBao, on loopback"
        assert seen[f"out to elsewhere{when}"] == "silence"
        assert seen[f"in to openbao{when}"] == "silence"
    assert any("cloudtaser-reviewer GET /openid/v1/jwks" in line for line in seen["asked"]), seen["asked"]
    assert any("cloudtaser-reviewer POST" in line and "tokenreviews" in line for line in seen["asked"])
