"""Namespaces whose only way out is a proxy, and a chain whose bridge and operator live in them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import secrets
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from cloudtaser.demo.apiserver import APISERVER_NAME, StandInApiServer
from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.demo.chain import BEACON_NAME, TUNNELS_METRIC, Chain, OperatorPorts
from cloudtaser.demo.exposition import sum_metric
from cloudtaser.demo.openbao import OPENBAO_NAME
from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess
from tests.integration.fleet.fleet_tools import listening, system_program, with_hosts

USER, PASSWORD = "cloudtaser", "canary-proxy-password"
FIREWALL = """
table inet only_the_proxy {{
  chain output {{
    type filter hook output priority 0; policy drop;
    oifname "lo" accept
    ct state established,related accept
    ip daddr {proxy} tcp dport {{ {ports} }} accept
    counter reject with tcp reset
  }}
}}
"""


def run(*command: str, given: str = "") -> None:
    subprocess.run(command, check=True, input=given.encode(), capture_output=True)


class Namespace:
    """A network namespace with one link to us. It has no resolver that answers, and no route beyond."""

    def __init__(self, name: str, network: ipaddress.IPv4Network) -> None:
        self.name = f"ct-{name}-{secrets.token_hex(3)}"
        self.ours, self.inside = map(str, list(network.hosts())[:2])
        link = f"ct{secrets.token_hex(4)}"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "address", "add", f"{self.ours}/30", "dev", link)
        run("ip", "link", "set", link, "up")
        run("ip", "-n", self.name, "address", "add", f"{self.inside}/30", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", self.name, "link", "set", device, "up")
        run("ip", "-n", self.name, "route", "add", "default", "via", self.ours)

    def only_out_to(self, proxy: str, ports: Sequence[int]) -> None:
        rules = FIREWALL.format(proxy=proxy, ports=", ".join(map(str, ports)))
        run(*self.prefix, "nft", "-f", "-", given=rules)

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def turned_back(self) -> int:
        """How many packets wanted out by another way."""
        rules = subprocess.run(
            [*self.prefix, "nft", "list", "ruleset"], check=True, capture_output=True
        ).stdout
        counted = re.search(rb"counter packets (\d+)", rules)
        assert counted is not None
        return int(counted[1])

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            run("ip", "netns", "delete", self.name)


@contextlib.contextmanager
def two_namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """One for the bridge, one for the operator, in a corner of 10/8 that nobody uses."""
    base = 10 << 24 | secrets.randbelow(200) + 20 << 16 | secrets.randbelow(200) + 20 << 8
    networks = [ipaddress.IPv4Network((base + offset, 30)) for offset in (0, 4)]
    bridge = Namespace("bridge", networks[0])
    try:
        operator = Namespace("operator", networks[1])
        try:
            yield bridge, operator
        finally:
            operator.close()
    finally:
        bridge.close()


class ForwardProxies:
    """tinyproxy with a password, and HAProxy that puts TLS in front of it. Only they know the names."""

    def __init__(self, directory: Path, address: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.address = address
        self.port, self.tls_port = free_port(), free_port()
        self.log = directory / "tinyproxy.log"
        hosts = directory / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {OPENBAO_NAME} {APISERVER_NAME} {BEACON_NAME}\n")
        configuration = directory / "tinyproxy.conf"
        configuration.write_text(
            f"Port {self.port}\nListen {address}\nTimeout 600\nMaxClients 200\nLogLevel Connect\n"
            f"BasicAuth {USER} {PASSWORD}\n"
        )
        command = [system_program("tinyproxy"), "-d", "-c", str(configuration)]
        self.tinyproxy = PartProcess("tinyproxy", with_hosts(hosts, command), self.log)
        self.files = write_server_certificate(directory, "proxy", [address])
        pem = directory / "proxy.pem"
        pem.touch(mode=0o600)
        pem.write_bytes(self.files.certificate.read_bytes() + self.files.key.read_bytes())
        front = directory / "front.cfg"
        front.write_text(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n"
            f"listen front\n bind {address}:{self.tls_port} ssl crt {pem}\n"
            f" server tiny {address}:{self.port}\n"
        )
        command = [system_program("haproxy"), "-db", "-f", str(front)]
        self.front = PartProcess("front", command, directory / "front.log")

    @property
    def url(self) -> str:
        return f"http://{USER}:{PASSWORD}@{self.address}:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://{USER}:{PASSWORD}@{self.address}:{self.tls_port}"

    async def start(self) -> None:
        await self.start_tinyproxy()
        self.front.start()
        await self.front.wait_until(lambda: self._listens(self.tls_port), "listening")

    async def start_tinyproxy(self) -> None:
        self.tinyproxy.start()
        await self.tinyproxy.wait_until(lambda: self._listens(self.port), "listening")

    async def _listens(self, port: int) -> bool:
        return listening(port, self.address)

    async def close(self) -> None:
        await self.front.stop()
        await self.tinyproxy.stop()


class ProxiedChain(Chain):
    """OpenBao, API server and beacon here; bridge and operator each in a namespace, with a proxy to go by."""

    def __init__(self, bridge: Namespace, operator: Namespace, proxies: ForwardProxies) -> None:
        self._bridge_home = bridge
        self._operator_home = operator
        self._proxies = proxies
        super().__init__()
        # as systemd or Kubernetes would give them: by environment, for no command line to show
        self.operator = self._part("operator", [], {"CLOUDTASER_OPERATOR_PROXY": proxies.url})

    @property
    def broker_address(self) -> str:
        return f"{self._operator_home.inside}:{self.ports.broker}"

    @property
    def beacon_address(self) -> str:
        return f"{BEACON_NAME}:{self.beacon_port}"

    async def tunnels(self, ports: OperatorPorts | None = None) -> int:
        url = f"http://{self._operator_home.inside}:{(ports or self.ports).metrics}/metrics"
        return int(sum_metric(await asyncio.to_thread(_fetch, url), TUNNELS_METRIC))

    def _beacon_command(self) -> list[str]:
        return [word.replace(BEACON_NAME, "127.0.0.1") for word in super()._beacon_command()]

    def _part(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> PartProcess:
        if name.startswith("bridge"):
            command = [*self._bridge_home.prefix, *(self.outside(word) for word in command)]
            command += ["--proxy-ca", str(self._proxies.files.ca)]
            environment = {"HTTPS_PROXY": self._proxies.tls_url}
        return super()._part(name, command, environment)

    def _operator_command(self, ports: OperatorPorts, apiserver: StandInApiServer) -> list[str]:
        command = super()._operator_command(ports, apiserver)
        inside = self._operator_home.inside
        for flag in ("--listen", "--metrics-addr"):  # what we reach from here
            position = command.index(flag) + 1
            command[position] = command[position].replace("127.0.0.1:", f"{inside}:")
        return [*self._operator_home.prefix, *(self.outside(word) for word in command)]

    def outside(self, word: str) -> str:
        """An address here by the name that only the proxy can resolve."""
        word = word.replace(self.openbao.address, self.openbao.address.replace("127.0.0.1", OPENBAO_NAME))
        return word.replace(self.apiserver.url, self.apiserver.url.replace("127.0.0.1", APISERVER_NAME))


def _fetch(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            body: bytes = answer.read()
    except OSError:
        return ""
    return body.decode()


def listeners(namespace: Namespace) -> str:
    """What listens in a namespace, as `ss` shows it."""
    return subprocess.run(
        [*namespace.prefix, "ss", "-Hlntu"], check=True, capture_output=True
    ).stdout.decode()
