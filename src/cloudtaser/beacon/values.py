"""How settings are written: times, sizes, addresses, counts, rates.

Used by `config`. Every reader takes the text and raises ValueError with a phrase that says what it should be.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

Endpoint = tuple[str, int]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES: Final = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def duration(text: str) -> float:
    """`250ms`, `5s`, `10m`, `24h`, `7d`, or a number of seconds; more than none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", text.strip())
    if not found or float(found[1]) <= 0:
        raise ValueError(f"{text!r} is not a time; write 250ms, 5s, 10m or 24h")
    return float(found[1]) * _UNITS[found[2] or "s"]


def size(text: str) -> int:
    """`65536`, `256KiB`, `1MiB`."""
    found = re.fullmatch(r"(\d+)\s*(?:([KMG])(?:iB|B)?|B)?", text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a size; write 65536, 256KiB or 1MiB")
    return int(found[1]) * _SIZES[found[2] or ""]


def endpoint(text: str) -> Endpoint:
    """`host:port`, `[address]:port`, or `:port` for every address of the machine."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is not an address; write an IPv6 address as [::1]:443")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address; write host:port or :port")
    return host, int(port)


def endpoints(text: str) -> tuple[Endpoint, ...]:
    """Several of them, comma separated."""
    return tuple(endpoint(part) for part in text.split(",") if part.strip())


def endpoint_or_off(text: str) -> Endpoint | None:
    """One of them, or `off`."""
    return None if text == "off" else endpoint(text)


def networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, comma separated: `10.0.0.7, 2001:db8::/48`."""
    found: list[Network] = []
    for part in text.split(","):
        if part.strip():
            try:
                found.append(ipaddress.ip_network(part.strip()))
            except ValueError:
                raise ValueError(
                    f"{part.strip()!r} is not a network; write 10.0.0.7, 10.0.0.0/24 or 2001:db8::/48"
                ) from None
    return tuple(found)


def between(low: int, high: int, read: Callable[[str], int] = int) -> Callable[[str], int]:
    """A reader of numbers in a range, both ends included."""

    def parse(text: str) -> int:
        try:
            number = read(text)
        except ValueError as error:
            raise ValueError(str(error) if read is size else f"{text!r} is not a whole number") from None
        if not low <= number <= high:
            raise ValueError(f"{text!r} is not between {low} and {high}")
        return number

    return parse


def rate(text: str) -> float:
    """`50` or `50/s`; more than none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/s)?", text.strip())
    if not found or float(found[1]) <= 0:
        raise ValueError(f"{text!r} is not a rate; write a number a second, such as 50")
    return float(found[1])


def one_of(*choices: str) -> Callable[[str], str]:
    """A reader of one of these words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return parse


def yes(text: str) -> bool:
    """`true`, `false` and their kin."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError(f"{text!r} is neither true nor false")
