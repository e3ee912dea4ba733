"""Addresses from others: no spelling of a forbidden place passes for another one."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ConfigError, ProtocolError
from cloudtaser.net.addresses import Scope, parse_host, parse_network, permitted, scope, scope_of_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.8.8.8", Scope.PUBLIC),
        ("2a00:1450:4001:82f::200e", Scope.PUBLIC),
        ("10.1.2.3", Scope.PRIVATE),
        ("172.31.255.255", Scope.PRIVATE),
        ("192.168.0.1", Scope.PRIVATE),
        ("100.64.0.1", Scope.PRIVATE),
        ("fd12::1", Scope.PRIVATE),
        ("127.0.0.1", Scope.LOOPBACK),
        ("127.255.0.9", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("0.0.0.0", Scope.LOOPBACK),
        ("0.1.2.3", Scope.LOOPBACK),
        ("::", Scope.LOOPBACK),
        ("169.254.1.1", Scope.LINK_LOCAL),
        ("fe80::1", Scope.LINK_LOCAL),
        ("169.254.169.254", Scope.METADATA),
        ("169.254.170.2", Scope.METADATA),
        ("100.100.100.200", Scope.METADATA),
        ("168.63.129.16", Scope.METADATA),
        ("fd00:ec2::254", Scope.METADATA),
        ("::ffff:169.254.169.254", Scope.METADATA),
        ("::ffff:127.0.0.1", Scope.LOOPBACK),
        ("::127.0.0.1", Scope.LOOPBACK),
        ("2002:7f00:1::", Scope.LOOPBACK),
        ("64:ff9b::a9fe:a9fe", Scope.METADATA),
        ("64:ff9b:1::a00:1", Scope.PRIVATE),
        ("64:ff9b::808:808", Scope.PUBLIC),
        ("224.0.0.1", Scope.OTHER),
        ("ff02::1", Scope.OTHER),
        ("255.255.255.255", Scope.OTHER),
        ("192.0.2.7", Scope.OTHER),
        ("240.0.0.1", Scope.OTHER),
        ("2001:db8::1", Scope.OTHER),
    ],
)
def test_every_address_is_known_for_what_it_is(text: str, expected: Scope) -> None:
    assert scope(ipaddress.ip_address(text)) is expected


@pytest.mark.parametrize(
    "text",
    [
        *("2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "1.2.3.4.5"),
        *("256.0.0.1", "01.2.3.4", "host.0x1", "foo.1", "0x", "１２７.0.0.1", "fe80::1%eth0"),
        *("::ffff:1.2.3.256", "[::1]", "host.", "", ".", "a..b", "-a.b", "a" * 64, "lоcalhost"),
        *("user@host", "ho st", "host/x", "host?x", "host#x"),
    ],
)
def test_a_spelling_that_readers_differ_on_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_host(text)


def test_plain_names_and_addresses_are_understood() -> None:
    assert parse_host("Registry.Example.com") == "registry.example.com"
    assert parse_host("10.0.0.1") == ipaddress.ip_address("10.0.0.1")
    assert parse_host("2A00::1") == ipaddress.ip_address("2a00::1")
    assert parse_host("xn--bcher-kva.example") == "xn--bcher-kva.example"


@given(st.integers(0, 2**32 - 1))
def test_an_address_inside_another_is_no_better_than_alone(number: int) -> None:
    plain = ipaddress.IPv4Address(number)
    mapped = ipaddress.IPv6Address(0xFFFF00000000 | number)
    nat64 = ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | number)
    assert scope(mapped) is scope(plain)
    assert scope(nat64) is scope(plain)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("localhost", Scope.LOOPBACK),
        ("x.localhost", Scope.LOOPBACK),
        ("Metadata.Google.Internal", Scope.METADATA),
        ("example.com", None),
    ],
)
def test_names_that_mean_a_place_are_known(name: str, expected: Scope | None) -> None:
    assert scope_of_name(name) is expected


@pytest.mark.parametrize(
    ("address", "networks", "allowed"),
    [
        ("8.8.8.8", [], True),
        ("10.0.0.1", [], False),
        ("10.0.0.1", ["10.0.0.0/8"], True),
        ("10.0.0.1", ["0.0.0.0/0"], True),
        ("::ffff:10.0.0.1", ["10.0.0.0/8"], True),
        ("fd12::1", ["::/0"], True),
        ("127.0.0.1", ["0.0.0.0/0"], False),
        ("127.0.0.1", ["126.0.0.0/7"], False),
        ("127.0.0.1", ["127.0.0.0/8"], True),
        ("::1", ["::/0"], False),
        ("::1", ["::1/128"], True),
        ("0.0.0.0", ["0.0.0.0/0"], False),
        ("169.254.7.7", ["0.0.0.0/0"], False),
        ("169.254.7.7", ["169.254.0.0/16"], True),
        ("fe80::1", ["fe80::/10"], True),
        ("169.254.169.254", ["169.254.0.0/16"], False),
        ("169.254.169.254", ["169.254.169.254/32"], True),
        ("::ffff:169.254.169.254", ["::/0", "0.0.0.0/0"], False),
        ("100.100.100.200", ["100.64.0.0/10"], False),
        ("fd00:ec2::254", ["fd00::/8"], False),
        ("224.0.0.1", ["224.0.0.1/32"], False),
    ],
)
def test_only_public_and_listed_addresses_are_permitted_and_special_ones_need_a_list_of_their_own(
    address: str, networks: list[str], allowed: bool
) -> None:
    listed = [parse_network(text, source="test") for text in networks]
    assert permitted(ipaddress.ip_address(address), listed) is allowed


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "example.com", "2130706433.0"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no network"):
        parse_network(text, source="test")
