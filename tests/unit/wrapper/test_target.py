"""Which programs take the interposer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cloudtaser.wrapper.handover import library
from cloudtaser.wrapper.target import refusal

LIBRARY = library()
PATH = b"/usr/bin:/bin"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One C program, built in the ways there are."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "main.c").write_text("int main(void) { return 0; }\n")
    for name, command in {
        "glibc": ["gcc"],
        "no-pie": ["gcc", "-no-pie"],
        "static": ["gcc", "-static"],
        "static-pie": ["gcc", "-static-pie"],
        "musl": ["musl-gcc"],
    }.items():
        subprocess.run([*command, "-o", name, "main.c"], cwd=folder, check=True)
    return folder


def why(file: Path | str) -> str:
    return refusal(str(file).encode(), PATH, LIBRARY)


@pytest.mark.parametrize("name", ["glibc", "no-pie", "musl"])
def test_a_dynamic_program_takes_it(programs: Path, name: str) -> None:
    assert why(programs / name) == ""


def test_a_name_is_found_as_a_shell_finds_it() -> None:
    assert why("sh") == ""
    assert why("no-such-program") == "it is not there"


@pytest.mark.parametrize("name", ["static", "static-pie"])
def test_a_static_one_does_not(programs: Path, name: str) -> None:
    assert why(programs / name).endswith("is statically linked")


@pytest.mark.parametrize(("mode", "refused"), [(0o4755, True), (0o2755, True), (0o2745, False)])
def test_one_with_more_rights_does_not(programs: Path, tmp_path: Path, mode: int, refused: bool) -> None:
    file = Path(shutil.copy(programs / "glibc", tmp_path / "copy"))
    file.chmod(mode)
    assert bool(why(file)) == refused


@pytest.mark.slow  # root alone gives capabilities
def test_one_with_file_capabilities_does_not(programs: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(programs / "glibc", tmp_path / "copy"))
    # version 2, effective, CAP_NET_BIND_SERVICE permitted (capabilities(7))
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(file, "security.capability", capability)
    assert why(file).endswith("has file capabilities")


def test_one_of_another_architecture_does_not(programs: Path, tmp_path: Path) -> None:
    content = bytearray((programs / "glibc").read_bytes())
    content[18:20] = (183 if content[18] != 183 else 62).to_bytes(2, "little")
    (tmp_path / "other").write_bytes(content)
    (tmp_path / "other").chmod(0o755)
    assert why(tmp_path / "other").endswith("is of another architecture")
    content[4] = 1
    (tmp_path / "other").write_bytes(content)
    assert why(tmp_path / "other").endswith("is of another architecture")


def test_a_script_is_judged_by_its_interpreter(programs: Path, tmp_path: Path) -> None:
    def script(name: str, interpreter: object) -> Path:
        file = tmp_path / name
        file.write_text(f"#! {interpreter} -x\n")
        file.chmod(0o755)
        return file

    assert why(script("good", programs / "glibc")) == ""
    assert why(script("chain", script("inner", programs / "musl"))) == ""
    assert why(script("bad", programs / "static")).endswith("static is statically linked")
    assert "cannot be looked into" in why(script("gone", tmp_path / "nowhere"))
    assert "interpreters" in why(script("loop", tmp_path / "loop"))


def test_a_file_without_a_format_is_the_shells(tmp_path: Path) -> None:
    file = tmp_path / "plain"
    file.write_text("echo hello\n")
    file.chmod(0o755)
    assert why(file) == ""


def test_a_broken_program_is_refused_and_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "broken"
    file.write_bytes(b"\x7fELF\x02\x01\x01" + b"\0" * 11 + b"\x3e\0")
    file.chmod(0o755)
    assert why(file)
