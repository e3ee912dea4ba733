"""Platforms: what a node can run, best first."""

from __future__ import annotations

import pytest

from cloudtaser.kube.registry.image import Platform
from cloudtaser.kube.registry.platforms import acceptable, normal


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Platform("linux", "amd64"), ["linux/amd64/v1", "linux/386"]),
        (Platform("linux", "amd64", "v3"), [*(f"linux/amd64/v{n}" for n in (3, 2, 1)), "linux/386"]),
        (
            Platform("linux", "arm64"),
            ["linux/arm64/v8", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
        ),
        (Platform("linux", "arm"), ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        (Platform("linux", "arm", "6"), ["linux/arm/v6", "linux/arm/v5"]),
        (Platform("linux", "armhf"), ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        (Platform("linux", "s390x"), ["linux/s390x"]),
        (Platform("windows", "AMD64"), ["windows/amd64/v1", "windows/386"]),
    ],
)
def test_a_node_runs_its_own_architecture_first(wanted: Platform, expected: list[str]) -> None:
    assert [str(each) for each in acceptable(wanted)] == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Platform("linux", "x86_64"), Platform("Linux", "amd64")),
        (Platform("linux", "aarch64"), Platform("linux", "arm64", "v8")),
        (Platform("linux", "arm64", "8"), Platform("linux", "arm64")),
        (Platform("linux", "armel"), Platform("linux", "arm", "v6")),
    ],
)
def test_a_platform_has_one_spelling(one: Platform, other: Platform) -> None:
    assert normal(one) == normal(other)
