"""A new certificate is taken up, a bad one is told once and the old one stays."""

from __future__ import annotations

import io
from pathlib import Path

from cloudtaser.beacon.config import BeaconConfig
from cloudtaser.beacon.dev import self_signed
from cloudtaser.beacon.log import Log
from cloudtaser.beacon.metrics import Counts
from cloudtaser.beacon.renewal import Renewal
from cloudtaser.beacon.tls import Certificate


def write(folder: Path) -> tuple[str, str]:
    files = folder / "c.pem", folder / "k.pem"
    for file, data in zip(files, self_signed(["localhost"]), strict=True):
        file.write_bytes(data)
    return str(files[0]), str(files[1])


def test_a_bad_certificate_is_told_once_and_the_old_one_stays_in_use(tmp_path: Path) -> None:
    certificate = Certificate(*write(tmp_path))
    first, counts, said = certificate.context, Counts(), io.StringIO()
    renewal = Renewal(certificate, 10.0, counts, Log(stream=said))
    (tmp_path / "k.pem").write_text("no key")
    for now in (100.0, 105.0, 111.0):
        renewal.poll(now)
    renewal.reload()
    assert certificate.context is first
    assert (counts.reloads["failed"], counts.reloads["ok"]) == (3, 0)
    assert said.getvalue().count("the old one stays") == 1
    write(tmp_path)
    renewal.poll(119.0)
    assert certificate.context is first
    renewal.poll(121.0)
    assert certificate.context is not first
    assert counts.reloads["ok"] == 1
    second = certificate.context
    renewal.reload()  # asked for: read again, changed or not
    assert certificate.context is not second


def test_nothing_is_overdue_for_longer_than_a_part_of_its_own_time() -> None:
    assert BeaconConfig(linger=5.0).sweep_interval == 1.0
    assert BeaconConfig(hello_timeout=0.4).sweep_interval == 0.1
    assert BeaconConfig(linger=0.001).sweep_interval == 0.02
