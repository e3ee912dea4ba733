"""Platforms: which entry of an index a node would run.

Used by `manifests`. The order is that of containerd's `platforms.Only`: the architecture itself with the
highest variant that the node has, then what it runs besides.
"""

from __future__ import annotations

import platform
import re
from typing import Final

from cloudtaser.kube.registry.image import Platform

_ALIASES: Final = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "aarch64": ("arm64", None),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", None),
    "i686": ("386", None),
}
_PLAIN: Final = {"arm64": "v8", "amd64": "v1", "arm": "v7"}
"""The variant that an architecture means when it names none."""
_VARIANT: Final = re.compile(r"v?([0-9]{1,2})", re.ASCII)
_LEAST: Final = {"arm64": 8, "amd64": 1, "arm": 5}


def local() -> Platform:
    """This machine's own: the guess where nothing says on which node a pod will run."""
    return normal(Platform("linux", platform.machine().lower()))


def normal(wanted: Platform) -> Platform:
    """The one spelling of a platform: Go's names, and a variant where an architecture has any."""
    architecture = wanted.architecture.lower()
    variant = wanted.variant.lower() if wanted.variant else None
    if architecture in _ALIASES:
        architecture, implied = _ALIASES[architecture]
        variant = variant or implied
    variant = variant or _PLAIN.get(architecture)
    number = _VARIANT.fullmatch(variant) if variant else None
    return Platform(wanted.os.lower(), architecture, f"v{number[1]}" if number else variant)


def acceptable(wanted: Platform) -> tuple[Platform, ...]:
    """What a node of that platform can run, best first, each in its one spelling."""
    node = normal(wanted)
    found = list(_variants(node))
    if node.architecture == "amd64":
        found.append(Platform(node.os, "386"))
    if node.architecture == "arm64":
        found.extend(_variants(Platform(node.os, "arm", "v8")))
    return tuple(found)


def _variants(node: Platform) -> list[Platform]:
    number = _VARIANT.fullmatch(node.variant) if node.variant else None
    least = _LEAST.get(node.architecture)
    if number is None or least is None:
        return [node]
    return [Platform(node.os, node.architecture, f"v{n}") for n in range(int(number[1]), least - 1, -1)]
