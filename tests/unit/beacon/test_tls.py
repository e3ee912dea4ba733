"""The certificate: when it ends, when it has changed, what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography import x509

from cloudtaser.beacon.dev import in_memory, self_signed
from cloudtaser.beacon.tls import Certificate, not_after
from cloudtaser.errors import ConfigError


def write(folder: Path, certificate: bytes, key: bytes) -> tuple[str, str]:
    (folder / "c.pem").write_bytes(certificate)
    (folder / "k.pem").write_bytes(key)
    return str(folder / "c.pem"), str(folder / "k.pem")


def test_the_end_of_a_certificate_is_read_from_it(tmp_path: Path) -> None:
    certificate, key = self_signed(["localhost", "127.0.0.1"])
    cert_file, _ = write(tmp_path, certificate, key)
    expected = x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()
    assert not_after(cert_file) == expected


def test_what_is_no_certificate_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert not_after(str(tmp_path / "x")) == 0
    assert not_after(str(tmp_path / "missing")) == 0


def test_new_files_make_a_new_context_and_the_same_files_none(tmp_path: Path) -> None:
    files = write(tmp_path, *self_signed(["localhost"]))
    certificate = Certificate(*files)
    first = certificate.context
    assert not certificate.reload_if_changed()
    assert certificate.context is first
    write(tmp_path, *self_signed(["localhost"]))
    assert certificate.reload_if_changed()
    assert certificate.context is not first


def test_a_half_written_change_keeps_the_old_and_is_tried_again(tmp_path: Path) -> None:
    files = write(tmp_path, *self_signed(["localhost"]))
    certificate = Certificate(*files)
    first = certificate.context
    new_certificate, new_key = self_signed(["localhost"])
    Path(files[0]).write_bytes(new_certificate)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        certificate.reload_if_changed()
    assert certificate.context is first
    Path(files[1]).write_bytes(new_key)
    assert certificate.reload_if_changed()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.pem"):
        Certificate(str(tmp_path / "nowhere.pem"), str(tmp_path / "k.pem"))


def test_memory_files_leave_nothing_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with in_memory(b"one", b"two") as paths:
        assert [Path(path).read_bytes() for path in paths] == [b"one", b"two"]
    assert set(os.listdir("/proc/self/fd")) == before
