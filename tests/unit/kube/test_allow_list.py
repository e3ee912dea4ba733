"""Which OpenBao a pod may name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ConfigError, RefusedError
from cloudtaser.kube.allow_list import AllowList

EVERYTHING = AllowList(
    [
        f"{scheme}://{place}:{port}"
        for scheme in ("https", "http")
        for place in ("0.0.0.0/0", "[::/0]", "*.com", "*.internal", "localhost", "metadata.google.internal")
        for port in (80, 443, 8200)
        if place not in ("localhost", "metadata.google.internal")
    ]
)


def refusal(allowed: AllowList, address: str) -> str:
    with pytest.raises(RefusedError) as caught:
        allowed.check(address)
    assert "\n" not in caught.value.diagnostic()
    return caught.value.what


@pytest.mark.parametrize(
    ("entry", "address", "becomes"),
    [
        ("https://vault.example.com", "https://vault.example.com", "https://vault.example.com:443"),
        ("https://vault.example.com", "https://VAULT.example.com/", "https://vault.example.com:443"),
        ("vault.example.com:8200", "https://vault.example.com:8200", "https://vault.example.com:8200"),
        ("https://*.example.com", "https://a.b.example.com", "https://a.b.example.com:443"),
        ("https://10.1.2.3:8200", "https://10.1.2.3:8200", "https://10.1.2.3:8200"),
        ("https://10.1.0.0/16:8200", "https://10.1.2.3:8200", "https://10.1.2.3:8200"),
        ("https://[fd00:1::/32]:8200", "https://[fd00:1::5]:8200", "https://[fd00:1::5]:8200"),
        ("https://[fd00:1::5]", "https://[FD00:1:0::5]", "https://[fd00:1::5]:443"),
        ("http://vault.internal", "http://vault.internal:8200", "http://vault.internal:8200"),
    ],
)
def test_an_address_on_the_list_is_taken_in_one_spelling(entry: str, address: str, becomes: str) -> None:
    assert str(AllowList([entry]).check(address)) == becomes


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("https://vault.example.com", "https://vault.example.com:8200"),
        ("https://vault.example.com", "http://vault.example.com:443"),
        ("https://vault.example.com", "https://vault.example.com.evil.com"),
        ("https://vault.example.com", "https://evilvault.example.com"),
        ("https://*.example.com", "https://example.com"),
        ("https://*.example.com", "https://evilexample.com"),
        ("https://10.1.0.0/16", "https://10.2.0.1"),
        ("https://*.example.com", "https://10.1.0.1"),
    ],
)
def test_what_is_not_on_the_list_is_refused(entry: str, address: str) -> None:
    assert "is not on the operator's list" in refusal(AllowList([entry]), address)


def test_without_a_list_nothing_is_allowed() -> None:
    assert "is not on the operator's list" in refusal(AllowList([]), "https://vault.example.com")


@pytest.mark.parametrize(
    "address", ["https://10.1.2.3", "https://192.168.0.1", "https://100.64.0.1", "https://[fd12::1]"]
)
def test_private_addresses_need_the_list_and_are_called_so(address: str) -> None:
    assert refusal(AllowList(["https://8.8.8.8"]), address).startswith("the private address")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "169.254.1.1", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]",
        "100.100.100.200", "168.63.129.16", "metadata.google.internal", "127.0.0.1", "127.8.8.8", "[::1]",
        "localhost", "x.localhost", "0.0.0.0", "[::]", "224.0.0.1", "255.255.255.255", "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    ],
)  # fmt: skip
def test_places_that_are_never_an_openbao_are_refused_whatever_the_list_says(host: str) -> None:
    assert "which is never allowed" in refusal(EVERYTHING, f"https://{host}:443")


@pytest.mark.parametrize(
    "address",
    [
        "https://user@vault.example.com", "https://user:pw@vault.example.com", "https://vault.example.com?x=1",
        "https://vault.example.com#x", "https://vault.example.com/v1", "https://2130706433", "https://0x7f.0.0.1",
        "https://0177.0.0.1", "https://127.1", "https://0x7f000001", "https://[::1%eth0]", "https://a b.com",
        "https://vault.example.com:0", "https://vault.example.com:65536", "https://vault.example.com:x",
        "https://", "vault.example.com", "ftp://vault.example.com", "file:///etc", "https:///x", "https://[1.2.3.4]",
        "https://väult.example.com", "https://vault.example.com\\@evil.com", "https://vault.example.com.",
        "https://%6c%6f%63alhost", "broker://vault.example.com:1", "https://vault.example.com\n.evil.com",
        "https://" + "a" * 600,
    ],
)  # fmt: skip
def test_other_spellings_are_refused(address: str) -> None:
    refusal(EVERYTHING, address)


@given(
    st.text(max_size=60),
    st.sampled_from(["", "https://", "https://vault.example.com", "http://[", "https://127."]),
)
def test_any_text_is_taken_or_refused_in_one_line(text: str, before: str) -> None:
    address, said = None, ""
    try:
        address = EVERYTHING.check(before + text)
    except RefusedError as error:
        said = error.diagnostic()
    assert len(said.splitlines()) == (address is None)
    assert address is None or EVERYTHING.check(str(address)) == address


@pytest.mark.parametrize(
    "entry", ["ftp://x.com", "https://user@x.com", "*.10.1.2.3", "https://x.com/path", "10.0.0.0/33", "*"]
)
def test_an_entry_that_is_none_is_named(entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AllowList([entry], source="--allowed-addresses")
    assert entry in str(caught.value)
    assert "--allowed-addresses" in str(caught.value)
