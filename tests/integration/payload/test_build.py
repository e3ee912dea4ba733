"""The build: the same bytes each time, small, and nothing in it that the wrapper does not need."""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.payload.built import BUILD, ROOT

# where nothing is cached, the first test waits for the payload to be built
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MEBIBYTE = 1 << 20


def user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cloudtaser"


def test_our_code_is_linked_to_the_same_bytes_from_another_place_and_cache(
    payload: Path, tmp_path: Path
) -> None:
    # The interpreter's own layer is taken over; how it is compared: CONTRIBUTING.md.
    cache, elsewhere = tmp_path / "cache", tmp_path / "a checkout elsewhere"
    shutil.copytree(user_cache() / "interpreter", cache / "interpreter")
    for part in ("images/wrapper", "src/cloudtaser/wrapper"):
        shutil.copytree(ROOT / part, elsewhere / part)
    for file in ("__init__.py", "version.py"):
        shutil.copy(ROOT / "src/cloudtaser" / file, elsewhere / "src/cloudtaser" / file)
    command = [str(elsewhere / "images/wrapper/build"), "--cache", str(cache), str(tmp_path / "again")]
    subprocess.run(command, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin", "CFLAGS": "-O0"})
    for file in ("wrapper", "libcloudtaser.so"):
        assert (tmp_path / "again" / file).read_bytes() == (payload / file).read_bytes()


def test_it_is_found_in_the_cache_and_a_change_of_ours_is_seen(payload: Path, tmp_path: Path) -> None:
    def key(build: Path) -> str:
        done = subprocess.run([str(build), "--hash"], capture_output=True, text=True, check=True)
        return done.stdout

    shutil.copytree(ROOT / "images/wrapper", tmp_path / "images/wrapper")
    shutil.copytree(ROOT / "src/cloudtaser/wrapper", tmp_path / "src/cloudtaser/wrapper")
    for file in ("__init__.py", "version.py"):
        shutil.copy(ROOT / "src/cloudtaser" / file, tmp_path / "src/cloudtaser" / file)
    copied = tmp_path / "images/wrapper/build"
    assert key(copied) == key(BUILD)
    for changed in ("src/cloudtaser/wrapper/native/module.c", "src/cloudtaser/wrapper/app.py"):
        before = key(copied)
        with (tmp_path / changed).open("a") as source:
            source.write("\n")
        assert key(copied) != before


def test_the_payload_is_small(payload: Path) -> None:
    packed = lzma.compress(
        b"".join(file.read_bytes() for file in sorted(payload.iterdir())), preset=9 | lzma.PRESET_EXTREME
    )
    assert len(packed) <= 3 * MEBIBYTE


def test_it_is_static_and_names_no_directory_of_the_machine_it_was_built_on(payload: Path) -> None:
    headers = subprocess.run(
        ["readelf", "-lW", str(payload / "wrapper")], capture_output=True, text=True, check=True
    ).stdout
    assert "INTERP" not in headers
    assert "DYNAMIC" not in headers
    for file in payload.iterdir():
        content = file.read_bytes()
        for place in (b"/tmp/", str(ROOT).encode(), str(Path.home()).encode() + b"/"):
            assert place not in content


def test_without_a_compiler_the_build_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).resolve()), str(BUILD), str(tmp_path / "out")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "install musl-tools" in done.stderr


def test_a_wheel_carries_it_and_tells_where_it_is(payload: Path, tmp_path: Path) -> None:
    for where in ("one", "two"):
        subprocess.run([str(BUILD), "--wheel", str(tmp_path / where)], check=True, capture_output=True)
    (wheel,), (again,) = (tmp_path / "one").iterdir(), (tmp_path / "two").iterdir()
    assert wheel.read_bytes() == again.read_bytes()
    install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target"]
    subprocess.run([*install, str(tmp_path / "packages"), str(wheel)], check=True, capture_output=True)
    code = "import cloudtaser_payload; print(cloudtaser_payload.path())"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path / "packages")},
        capture_output=True,
        text=True,
        check=True,
    )
    directory = Path(told.stdout.strip())
    assert {file.name for file in directory.iterdir()} == {file.name for file in payload.iterdir()}
    assert (directory / "wrapper").read_bytes() == (payload / "wrapper").read_bytes()
    assert subprocess.run([str(directory / "wrapper"), "/bin/true"], check=False).returncode == 0
