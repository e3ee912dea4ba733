"""The cluster's DNS: Services and the pods behind headless ones, as `NAME.NAMESPACE.svc.cluster.local`.

`node` starts it. dnsmasq answers at Service `kube-dns`, whose address the kubelet writes into each pod's
resolv.conf; this module watches Services and EndpointSlices and keeps dnsmasq's list of hosts. `outside` are
names that the cluster does not own: the registry, the EU site. Any other name does not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from cloudtaser.demo.process import PartProcess
from tests.cluster.control_plane import DNS_SERVICE, ControlPlane
from tests.cluster.network import Network

DOMAIN: Final = "cluster.local"
_SERVICES: Final = "/api/v1/services"
_SLICES: Final = "/apis/discovery.k8s.io/v1/endpointslices"
_SERVICE_OF: Final = "kubernetes.io/service-name"
_FIRST: Final = f"kubernetes.default.svc.{DOMAIN}"
_BUFFER: Final = 4 * 1024 * 1024  # bytes; a watched object is one line
_AGAIN: Final = 0.5  # seconds after the API server ended a watch
_TIMEOUT: Final = 60.0

Objects = dict[str, dict[str, Any]]


class Names:
    """One dnsmasq, and the two watches that feed it."""

    def __init__(self, directory: Path, network: Network, control_plane: ControlPlane) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._hosts = directory / "hosts"
        self._network = network
        self._control_plane = control_plane
        self._outside: dict[str, str] = {}
        self._seen: dict[str, Objects] = {_SERVICES: {}, _SLICES: {}}
        self._tasks: list[asyncio.Task[None]] = []
        self._dnsmasq = PartProcess(
            "dnsmasq",
            [
                *network.inside, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=",
                "--user=root", "--log-facility=-", "--no-resolv", "--no-hosts", "--local=/#/",
                f"--addn-hosts={self._hosts}", f"--listen-address={network.cluster_address}",
                "--bind-interfaces",
            ],
            directory / "dnsmasq.log",
        )  # fmt: skip

    async def start(self) -> None:
        """Until the API server's own Service can be looked up."""
        self._write()
        self._dnsmasq.start()
        await self._control_plane.apply(*_service(self._network.cluster_address))
        self._tasks = [asyncio.create_task(self._follow(path)) for path in self._seen]
        await self._dnsmasq.wait_until(self._has_first, "answering for the API server", _TIMEOUT)

    async def stop(self) -> None:
        """End it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._dnsmasq.stop()

    def add(self, name: str, address: str) -> None:
        """Let pods look up a name outside the cluster."""
        self._outside[name] = address
        self._write()

    def knows(self, name: str) -> bool:
        """Whether pods can look it up."""
        return any(known == name for _, known in self._records())

    async def _has_first(self) -> bool:
        return self.knows(_FIRST)

    def _records(self) -> Iterator[tuple[str, str]]:
        yield from ((address, name) for name, address in self._outside.items())
        yield from records(self._seen[_SERVICES].values(), self._seen[_SLICES].values())

    def _write(self) -> None:
        new = self._hosts.with_suffix(".new")
        new.write_text("".join(f"{address} {name}\n" for address, name in self._records()))
        new.rename(self._hosts)
        if self._dnsmasq.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._dnsmasq.pid, signal.SIGHUP)  # dnsmasq(8): reads its hosts anew

    async def _follow(self, path: str) -> None:
        """List and watch, again and again: the API server is restarted in some tests."""
        context = ssl.create_default_context(cafile=str(self._control_plane.identities.ca))
        context.load_cert_chain(*self._control_plane.identities.client("names", "names", ("system:masters",)))
        address = self._control_plane.server + path
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
            read_bufsize=_BUFFER,
        ) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    await self._watch(session, address, path)
                await asyncio.sleep(_AGAIN)

    async def _watch(self, session: aiohttp.ClientSession, address: str, path: str) -> None:
        async with session.get(address, raise_for_status=True) as answer:
            found = await answer.json()
        self._seen[path] = {_key(one): one for one in found["items"]}
        self._write()
        parameters = {"watch": "1", "resourceVersion": found["metadata"]["resourceVersion"]}
        async with session.get(address, params=parameters, raise_for_status=True) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                if event["type"] == "DELETED":
                    self._seen[path].pop(_key(event["object"]), None)
                else:
                    self._seen[path][_key(event["object"])] = event["object"]
                self._write()


def records(
    services: Iterable[Mapping[str, Any]], slices: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Address and name of every Service, and of the pods behind those that have no address (Kubernetes
    DNS-Based Service Discovery 1.1, sections 2.3 and 2.4)."""
    headless: dict[tuple[str, str], bool] = {}
    for service in services:
        namespace, name = _place(service)
        address = service["spec"].get("clusterIP", "")
        if address == "None":
            headless[namespace, name] = bool(service["spec"].get("publishNotReadyAddresses"))
        elif address:
            yield address, f"{name}.{namespace}.svc.{DOMAIN}"
    for piece in slices:
        namespace, name = _place(piece)[0], piece["metadata"].get("labels", {}).get(_SERVICE_OF, "")
        if (namespace, name) not in headless:
            continue
        for endpoint in piece.get("endpoints") or ():
            if not (endpoint.get("conditions", {}).get("ready", True) or headless[namespace, name]):
                continue
            for address in endpoint["addresses"]:
                yield address, f"{name}.{namespace}.svc.{DOMAIN}"
                if endpoint.get("hostname"):
                    yield address, f"{endpoint['hostname']}.{name}.{namespace}.svc.{DOMAIN}"


def _place(thing: Mapping[str, Any]) -> tuple[str, str]:
    return thing["metadata"]["namespace"], thing["metadata"]["name"]


def _key(thing: Mapping[str, Any]) -> str:
    return "/".join(_place(thing))


def _service(address: str) -> list[dict[str, Any]]:
    """Service `kube-dns`, with what answers for it."""
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    metadata = {"name": "kube-dns", "namespace": "kube-system"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"clusterIP": DNS_SERVICE, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata | {"labels": {_SERVICE_OF: "kube-dns"}},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [address]}],
        },
    ]
