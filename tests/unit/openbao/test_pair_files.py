"""Files of stored pairs: whole, keys for their owner alone, nothing of somebody else's overwritten."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cloudtaser.errors import UsageError
from cloudtaser.openbao import pair_files
from cloudtaser.openbao.pair_files import write_files
from tests.unit.operator.parties import FINGERPRINT, OTHER_FINGERPRINT, Authority

TUNNEL = Authority("tunnel")


def files(fingerprint: str = FINGERPRINT) -> dict[str, str]:
    bridge = TUNNEL.bridge("pregenerated", fingerprint)
    key = bridge.identity.key.reveal_text()
    return {
        pair_files.CLIENT_CERTIFICATE: bridge.pem,
        pair_files.CLIENT_KEY: key,
        pair_files.POD_CERTIFICATE: bridge.pem,
        pair_files.POD_KEY: key,
        pair_files.TUNNEL_CA: TUNNEL.pem,
        pair_files.POD_CA: TUNNEL.pem,
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_six_files_are_written_and_keys_are_their_owners_alone(tmp_path: Path) -> None:
    place, written = tmp_path / "new" / "bridge", files()
    assert {path.name for path in write_files(place, written, FINGERPRINT)} == set(written)
    assert {path.name: path.read_text() for path in place.iterdir()} == written
    assert mode(place / "client.key") == mode(place / "pod.key") == 0o600
    assert mode(place / "client.crt") == 0o644
    assert mode(place) == 0o700


def test_a_second_run_changes_nothing_and_new_pairs_take_the_place_of_old_ones(tmp_path: Path) -> None:
    first, second = files(), files()
    write_files(tmp_path, first, FINGERPRINT)
    assert write_files(tmp_path, first, FINGERPRINT) == ()
    (tmp_path / "pod.key").unlink()
    assert write_files(tmp_path, first, FINGERPRINT) == (tmp_path / "pod.key",)
    changed = {path.name for path in write_files(tmp_path, second, FINGERPRINT)}
    assert changed == {"client.crt", "client.key", "pod.crt", "pod.key"}
    assert (tmp_path / "client.key").read_text() == second["client.key"]
    assert mode(tmp_path / "client.key") == 0o600


@pytest.mark.parametrize("there", ["client.crt", "client.key", "ca.crt"])
@pytest.mark.parametrize("content", ["mine", "", None])
def test_what_is_not_of_this_cluster_is_left_alone(tmp_path: Path, there: str, content: str | None) -> None:
    foreign = files(OTHER_FINGERPRINT)[there] if content is None else content
    (tmp_path / there).write_text(foreign)
    with pytest.raises(UsageError, match=f"in the way: {there}") as refused:
        write_files(tmp_path, files(), FINGERPRINT)
    assert str(tmp_path) in refused.value.diagnostic()
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == foreign


def test_a_link_or_a_directory_in_the_way_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("precious")
    place = tmp_path / "bridge"
    place.mkdir()
    (place / "client.key").symlink_to(target)
    with pytest.raises(UsageError, match=r"client\.key"):
        write_files(place, files(), FINGERPRINT)
    assert target.read_text() == "precious"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written") as refused:
        write_files(tmp_path / "file" / "bridge", files(), FINGERPRINT)
    assert "PRIVATE" not in refused.value.diagnostic()
