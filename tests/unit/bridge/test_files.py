"""Certificates in files: each thing that does not fit is named, and only what fits is swapped in."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from pathlib import Path

import pytest

from cloudtaser.bridge.authorities import Authority as Ca
from cloudtaser.bridge.config_files import PairFiles
from cloudtaser.bridge.files import FilePairs, load
from cloudtaser.errors import CloudtaserError, ConfigError
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.wire.names import BRIDGE_NAME, bridge_uri
from tests.unit.operator.parties import (
    CLIENT,
    FINGERPRINT,
    OTHER_FINGERPRINT,
    SERVER,
    Authority,
    Leaf,
)

TUNNEL, POD, STRANGER = Authority("tunnel"), Authority("pod"), Authority("stranger")


def pod_leaf(ca: Authority = POD, **more: object) -> Leaf:
    return ca.issue([], SERVER, dns=(BRIDGE_NAME,), **more)  # type: ignore[arg-type]  # passed through


class Place:
    """Six settings, and the five files in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        info_hash = hashlib.sha256(Ca.of(TUNNEL.pem).der).hexdigest()
        names = ("tls.crt", "tls.key", "ca.crt", "pod.crt", "pod.key")
        self.files = PairFiles(info_hash, *(str(directory / name) for name in names))
        self.write("ca.crt", TUNNEL.pem)
        self.tunnel(TUNNEL.bridge("pregenerated"))
        self.pod(pod_leaf())

    def write(self, name: str, content: str) -> None:
        fresh = self.directory / f"{name}.new"
        fresh.write_text(content)
        fresh.replace(self.directory / name)

    def tunnel(self, leaf: Leaf) -> Leaf:
        self.write("tls.crt", leaf.pem)
        self.write("tls.key", leaf.identity.key.reveal_text())
        return leaf

    def pod(self, leaf: Leaf) -> Leaf:
        self.write("pod.crt", leaf.pem)
        self.write("pod.key", leaf.identity.key.reveal_text())
        return leaf


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def fault(place: Place) -> str:
    with pytest.raises(ConfigError) as refused:
        load(place.files, time.time())
    line = refused.value.diagnostic()
    assert "PRIVATE" not in line
    assert place.files.beacon_info_hash not in line
    return line


def test_the_cluster_is_the_one_that_the_certificate_names(place: Place) -> None:
    pairs = load(place.files, time.time())
    assert pairs.fingerprint == FINGERPRINT
    assert pairs.tunnel_ca == TUNNEL.pem


def test_a_ca_of_another_hash_is_refused(place: Place) -> None:
    place.write("ca.crt", STRANGER.pem)
    assert "not the one of --beacon-info-hash" in fault(place)


def test_a_certificate_of_another_ca_is_refused(place: Place) -> None:
    place.tunnel(STRANGER.bridge())
    assert f"not signed by the CA in {place.files.tls_ca} ({place.files.tls_cert})" in fault(place)


def test_a_key_of_another_certificate_is_refused(place: Place) -> None:
    place.write("tls.key", TUNNEL.bridge().identity.key.reveal_text())
    assert f"not that of the certificate in {place.files.tls_cert} ({place.files.tls_key})" in fault(place)
    place.tunnel(TUNNEL.bridge())
    place.write("pod.key", pod_leaf().identity.key.reveal_text())
    assert f"not that of the certificate in {place.files.pod_cert} ({place.files.pod_key})" in fault(place)


def test_a_certificate_that_names_no_bridge_or_two_is_refused(place: Place) -> None:
    bad = [
        TUNNEL.broker(),
        TUNNEL.issue([], CLIENT, dns=("bridge",)),
        TUNNEL.issue([bridge_uri(FINGERPRINT, "a"), bridge_uri(OTHER_FINGERPRINT, "a")], CLIENT),
    ]
    for leaf in bad:
        place.tunnel(leaf)
        assert f"names no bridge of a cluster ({place.files.tls_cert})" in fault(place)
    place.tunnel(TUNNEL.issue([bridge_uri(FINGERPRINT, "a")], SERVER))
    assert "not made for a bridge's tunnel" in fault(place)


def test_a_certificate_that_pods_would_not_take_is_refused(place: Place) -> None:
    place.pod(POD.issue([], SERVER, dns=("other.internal",)))
    assert f"not one of {BRIDGE_NAME} for pods ({place.files.pod_cert})" in fault(place)
    place.pod(POD.issue([], CLIENT, dns=(BRIDGE_NAME,)))
    assert f"not one of {BRIDGE_NAME} for pods" in fault(place)
    place.pod(pod_leaf(TUNNEL))
    assert "signed by the tunnel CA" in fault(place)


def test_what_is_out_of_time_is_refused(place: Place) -> None:
    day = dt.timedelta(days=1)
    place.tunnel(TUNNEL.issue([bridge_uri(FINGERPRINT, "a")], CLIENT, start=-2 * day, lifetime=day))
    assert f"expired at 20{dt.datetime.now(dt.UTC):%y}" in fault(place)
    place.tunnel(TUNNEL.bridge())
    place.pod(pod_leaf(start=day))
    assert f"not valid yet ({place.files.pod_cert})" in fault(place)


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt", "pod.crt", "pod.key"])
def test_a_file_that_holds_something_else_is_named(place: Place, name: str) -> None:
    for content in ("", "canary", "x" * 70_000):
        place.write(name, content)
        line = fault(place)
        assert str(place.directory / name) in line
        assert "canary" not in line
    (place.directory / name).unlink()
    assert f"cannot be read: no such file or directory ({place.directory / name})" in fault(place)


# Watching


@pytest.fixture
def troubles() -> list[CloudtaserError]:
    return []


@pytest.fixture
def pairs(place: Place, troubles: list[CloudtaserError]) -> FilePairs:
    return FilePairs(place.files, on_failed=troubles.append)


async def serial(pairs: FilePairs) -> bytes:
    leaf = await pairs.look(PkiRole.BRIDGE, Ca.of(TUNNEL.pem), time.time())
    assert leaf is not None
    return leaf.certificate_pem


async def test_a_pair_is_shown_under_its_own_ca_only(pairs: FilePairs) -> None:
    now = time.time()
    tunnel, pod, stranger = (Ca.of(ca.pem) for ca in (TUNNEL, POD, STRANGER))
    assert await pairs.look(PkiRole.BRIDGE, tunnel, now) == pairs.pairs.tunnel
    assert await pairs.look(PkiRole.BRIDGE_POD, pod, now) == pairs.pairs.pod
    assert await pairs.look(PkiRole.BRIDGE, stranger, now) is None
    assert await pairs.look(PkiRole.BRIDGE_POD, stranger, now) is None


async def test_new_files_are_taken_up_once_they_fit(
    place: Place, pairs: FilePairs, troubles: list[CloudtaserError]
) -> None:
    before = await serial(pairs)
    fresh = TUNNEL.bridge("pregenerated")
    place.write("tls.crt", fresh.pem)
    assert await serial(pairs) == before  # its key is not there yet
    place.write("tls.key", fresh.identity.key.reveal_text())
    assert await serial(pairs) == fresh.pem.encode()
    assert troubles == []


async def test_broken_files_are_refused_the_old_pair_stays_and_it_is_said_once(
    place: Place, pairs: FilePairs, troubles: list[CloudtaserError]
) -> None:
    before = await serial(pairs)
    place.write("tls.crt", "broken")
    for _ in range(4):
        assert await serial(pairs) == before
    assert ["holds no certificate" in error.diagnostic() for error in troubles] == [True]
    place.write("tls.crt", "otherwise broken")
    for _ in range(4):
        await pairs.refresh()
    assert len(troubles) == 2
    fresh = place.tunnel(TUNNEL.bridge("pregenerated"))
    assert await serial(pairs) == fresh.pem.encode()


async def test_neither_another_cluster_nor_another_ca_slips_in(
    place: Place, pairs: FilePairs, troubles: list[CloudtaserError]
) -> None:
    before = await serial(pairs)
    place.tunnel(TUNNEL.bridge("pregenerated", OTHER_FINGERPRINT))
    for _ in range(2):
        assert await serial(pairs) == before
    place.write("ca.crt", STRANGER.pem)
    place.tunnel(STRANGER.bridge("pregenerated"))
    for _ in range(2):
        assert await serial(pairs) == before
    assert "another cluster's" in troubles[0].diagnostic()
    assert "--beacon-info-hash" in troubles[1].diagnostic()
    assert pairs.fingerprint == FINGERPRINT
