"""Which doors lead to a cluster: its own brokers before those of any cluster, beacons always."""

from __future__ import annotations

import asyncio
import base64
import re
import sys

import pytest

from cloudtaser.bridge.config_brokers import Brokers
from cloudtaser.bridge.doors import BeaconDoor, GrpcDoor, TlsDoor, Ways, reachable
from cloudtaser.errors import ConfigError, UnavailableError
from cloudtaser.net.dial import Address
from cloudtaser.net.grpc_client import outer_credentials
from cloudtaser.net.proxy import Proxies, Proxy
from cloudtaser.net.rendezvous import BEACON, BROKER
from cloudtaser.net.tls import beacon_client
from cloudtaser.openbao.records import Registered
from tests.unit.net.forward_proxy import forward_proxy

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"
OTHER = "1bd50c05-1153-4508-9237-4cb2912e2c23"


def registered(*brokers: str, fingerprint: str = FINGERPRINT) -> Registered:
    return Registered(fingerprint, "", "", "", "", "", "", "", "", "", "", broker_addresses=brokers)


def texts(ways: Ways, record: Registered) -> list[str]:
    return [f"{door.kind} {door}" for door in ways.to(record)]


def test_brokers_given_for_the_cluster_come_before_recorded_ones_and_those_before_any() -> None:
    beacon = BeaconDoor(Address("beacon", 443), beacon_client(None, insecure=True))
    given = ((FINGERPRINT, Address("own", 1)), ("", Address("any", 2)))
    ways = Ways([beacon], Brokers(given, "tls"))
    assert texts(ways, registered("recorded:3")) == ["beacon beacon:443", "broker own:1"]
    assert texts(ways, registered("recorded:3", "other:4", fingerprint=OTHER)) == [
        "beacon beacon:443",
        "broker recorded:3",
        "broker other:4",
    ]
    assert texts(ways, registered(fingerprint=OTHER)) == ["beacon beacon:443", "broker any:2"]


def test_another_clusters_broker_never_hears_of_this_one() -> None:
    ways = Ways([], Brokers(((FINGERPRINT, Address("own", 1)),), "tls"))
    assert texts(ways, registered(fingerprint=OTHER)) == []


def test_the_same_doors_are_the_same_objects_at_the_next_look() -> None:
    ways = Ways([], Brokers((), "tls"))
    assert ways.to(registered("a:1")) == ways.to(registered("a:1"))
    assert ways.to(registered("a:1")) != ways.to(registered("a:2"))


def test_the_transport_decides_the_kind_of_door() -> None:
    assert isinstance(Ways([], Brokers((), "tls")).to(registered("a:1"))[0], TlsDoor)
    assert isinstance(Ways([], Brokers((), "grpc")).to(registered("a:1"))[0], GrpcDoor)


def test_a_bad_address_in_the_record_is_told() -> None:
    with pytest.raises(ConfigError, match=r"broker_addresses.*source register"):
        Ways([], Brokers((), "tls")).to(registered("nowhere"))


def test_the_status_tells_which_answered() -> None:
    doors = Ways([], Brokers((), "tls")).to(registered("a:1", "b:2"))
    assert reachable(doors, {"a:1"}, BROKER) == {"a:1": False, "b:2": True}
    assert reachable(doors, {"a:1"}, BEACON) == {}


async def test_grpc_shows_a_proxy_the_password_whatever_is_in_it_and_nobody_else() -> None:
    async with forward_proxy() as proxy:
        proxy.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
        url = f"http://user:canary%2Fa%40b%3Ac%23%3F%25%20@127.0.0.1:{proxy.port}"
        door = GrpcDoor(
            Address("broker.example.com", 443), outer_credentials(None), Proxies.read({"HTTPS_PROXY": url})
        )
        with pytest.raises(UnavailableError) as raised:
            await door.meet(b"r" * 32, asyncio.Protocol(), lambda: None)
        asked = proxy.requests[0]
    assert "canary" not in str(raised.value)
    assert asked.startswith(b"CONNECT broker.example.com:443 ")
    shown = re.search(rb"(?i)proxy-authorization: basic (\S+)", asked)
    assert shown is not None
    assert base64.b64decode(shown[1]) == b"user:canary/a@b:c#?% "


async def test_an_https_proxy_is_refused_by_grpc_with_what_to_do() -> None:
    proxies = Proxies(Proxy("proxy", 3128, beacon_client(None, insecure=True)))
    door = GrpcDoor(Address("broker.example.com", 443), outer_credentials(None), proxies)
    with pytest.raises(UnavailableError, match="--transport tls"):
        await door.meet(bytes(32), asyncio.Protocol(), lambda: None)


async def test_grpc_is_loaded_only_for_a_broker_to_dial_by_it() -> None:
    code = (
        "import sys; from cloudtaser.bridge.config_brokers import Brokers;"
        "from cloudtaser.bridge import service; from cloudtaser.bridge.doors import Ways;"
        "Ways([], Brokers((), 'tls')); Ways([], Brokers()); import cloudtaser.operator.standalone;"
        "sys.exit('grpc' in sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
