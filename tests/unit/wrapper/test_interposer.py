"""The interposer by itself, with segments made here: checked builds, hostile segments, loaders' corners."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import _cloudtaser
from cloudtaser.wrapper.buffers import span_of
from cloudtaser.wrapper.handover import library
from cloudtaser.wrapper.segment import Segment

NATIVE = Path(__file__).parents[3] / "src/cloudtaser/wrapper/native"
PROGRAMS = Path(__file__).parents[2] / "integration/delivery/programs"
SECRET = b"CANARY-0c5b"
WAYS = [
    "execve", "execvp", "execvpe", "execl", "execle", "fexecve", "vfork", "become", "spawn", "spawnp",
    "spawn-closefrom", "system", "popen",
]  # fmt: skip


def segment(*, rotates: bool = False) -> bytes:
    """The bytes of a segment with SECRET in it."""
    spans = {b"SECRET": span_of(SECRET), b"OTHER": span_of(b"")}
    made = Segment(spans, rotates=rotates, strict=False)
    return b"".join(bytes(piece) for piece in made.pieces(spans))


def start(
    command: Sequence[str | Path],
    content: bytes,
    *,
    preload: str = "",
    size: int | None = None,
    secret: bool = True,
    variables: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program as the wrapper would start it, with `content` for a segment."""
    descriptor, _ = _cloudtaser.descriptor([content], secret)
    environment = {"PATH": os.environ["PATH"], "SECRET": "", "LD_PRELOAD": preload or library().decode()}
    environment |= variables or {}
    environment["CLOUDTASER_SEGMENT"] = f"{descriptor}:{len(content) if size is None else size}"
    try:
        return subprocess.run(
            [str(word) for word in command],
            env=environment,
            pass_fds=[descriptor],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test programs; the interposer with a trap for undefined behaviour; a library that asks early."""
    made = tmp_path_factory.mktemp("interposer")
    words = (NATIVE / "INTERPOSER").read_text().split()
    checks = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-fno-sanitize=alignment"]
    subprocess.run(["gcc", *words, *checks, "-o", made / "libchecked.so"], cwd=NATIVE, check=True)
    (made / "early.c").write_text("""
        #include <stdlib.h>
        const char *seen = "not asked";
        __attribute__((constructor)) static void ask(void) { seen = getenv("SECRET"); }
    """)
    (made / "late.c").write_text("""
        #include <dlfcn.h>
        #include <stdio.h>
        extern const char *seen;
        int main(int count, char **arguments) {
            void *loaded = dlopen(arguments[1], RTLD_NOW);
            const char **in_loaded = dlsym(loaded, "seen");
            return printf("%s %s\\n", seen, *in_loaded) < 0;
        }
    """)
    shared = ["gcc", "-shared", "-fPIC", "early.c", "-o"]
    subprocess.run([*shared, "early.so"], cwd=made, check=True)
    subprocess.run([*shared, "loaded.so", "-Wl,-Bsymbolic"], cwd=made, check=True)
    subprocess.run(["gcc", "-o", "late", "late.c", str(made / "early.so"), "-ldl"], cwd=made, check=True)
    for name in ("show", "children"):
        subprocess.run(["gcc", "-o", made / name, PROGRAMS / f"{name}.c", "-ldl"], check=True)
    return made


@pytest.mark.parametrize("rotates", [False, True])
def test_no_way_to_start_a_program_has_undefined_behaviour(folder: Path, rotates: bool) -> None:
    for way in WAYS:
        done = start(
            [folder / "children", way, "echo $SECRET"],
            segment(rotates=rotates),
            preload=str(folder / "libchecked.so"),
        )
        assert (way, done.stdout, done.returncode) == (way, SECRET.decode() + "\n", 0)


@pytest.mark.slow
def test_no_way_to_start_a_program_touches_foreign_memory(folder: Path) -> None:
    for way in ("system", "popen", "spawn-closefrom", "vfork", "execvp"):
        checked = ["valgrind", "-q", "--error-exitcode=99"]
        done = start([*checked, folder / "children", way, "echo $SECRET"], segment())
        assert (way, done.stdout, done.returncode) == (way, SECRET.decode() + "\n", 0), done.stderr


def test_a_library_that_asks_as_it_is_loaded_finds_it(folder: Path) -> None:
    done = start([folder / "late", folder / "loaded.so"], segment())
    assert done.stdout == f"{SECRET.decode()} {SECRET.decode()}\n", done.stderr


def test_a_sealed_memfd_does_as_well(folder: Path) -> None:
    assert start([folder / "show"], segment(), secret=False).stdout.split()[0] == SECRET.decode()


def test_a_program_may_overwrite_what_it_has_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "wipe.c").write_text("""
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        int main(void) {
            char *value = getenv("SECRET");
            memset(value, 'x', strlen(value));
            return puts(getenv("SECRET")) < 0;
        }
    """)
    subprocess.run(["gcc", "-o", "wipe", "wipe.c"], cwd=tmp_path, check=True)
    for secret in (True, False):
        assert start([tmp_path / "wipe"], segment(), secret=secret).stdout == "x" * len(SECRET) + "\n"


@pytest.mark.slow  # root alone gives files away
def test_a_program_with_more_rights_takes_nothing_and_shows_nothing(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "show"
    file.write_bytes((folder / "show").read_bytes())
    os.chown(file, 65534, 65534)
    file.chmod(0o6755)
    tmp_path.chmod(0o755)
    done = start([file], segment())
    assert SECRET.decode() not in done.stdout + done.stderr
    assert done.stdout.endswith("done\n")


def numbered(content: bytes, at: int, number: int, size: int = 8) -> bytes:
    return content[:at] + number.to_bytes(size, "little") + content[at + size :]


ODD = [0, 1, 7, 63, 64, 4095, 4096, 1 << 31, (1 << 32) - 1, 1 << 47, (1 << 64) - 64, (1 << 64) - 1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.sampled_from([16, 24, 32, 40]), st.one_of(st.sampled_from(ODD), st.integers(0, (1 << 64) - 1)))
def test_a_segment_with_odd_numbers_harms_no_program(folder: Path, at: int, number: int) -> None:
    done = start([folder / "show"], numbered(segment(), at, number), preload=str(folder / "libchecked.so"))
    assert done.returncode == 0
    assert done.stdout.endswith("done\n")
    assert "left over" not in done.stdout


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 64, b"\xff" * 5000, segment()[:70]])
def test_what_is_no_segment_harms_no_program(folder: Path, content: bytes) -> None:
    for size in (None, 0, 64, 1 << 40):
        done = start([folder / "show"], content, size=size, preload=str(folder / "libchecked.so"))
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "done")


@pytest.mark.parametrize(
    "text", ["", ":", "x", "99999999999999999999:1", "-1:4096", "3", "1000:4096", "0:64:9"]
)
def test_an_odd_variable_harms_no_program(folder: Path, text: str) -> None:
    environment = {"LD_PRELOAD": library().decode(), "CLOUDTASER_SEGMENT": text, "SECRET": "plain"}
    done = subprocess.run(
        [folder / "show"], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.stdout == "plain plain plain plain\ndone\n"


def test_the_arguments_stand_before_the_first_variable_as_programs_that_change_their_title_expect(
    tmp_path: Path,
) -> None:
    (tmp_path / "title.c").write_text("""
        #include <stdio.h>
        #include <string.h>
        extern char **environ;
        int main(int count, char **arguments) {
            char *last = arguments[count - 1];
            return puts(environ[0] == last + strlen(last) + 1 ? "behind" : "elsewhere") < 0;
        }
    """)
    subprocess.run(["gcc", "-o", "title", "title.c"], cwd=tmp_path, check=True)
    variables = "{'SECRET': os.environ['SECRET'], 'Z': 'z'}"
    code = f"import os; os.execve({str(tmp_path / 'title')!r}, ['a'], {variables})"
    done = start(["/usr/bin/python3", "-c", code], segment())
    assert done.stdout == "behind\n", done.stderr


def test_theirs_stays_in_the_preload_and_ours_goes(folder: Path) -> None:
    both = f"{library().decode()}:{folder}/loaded.so"
    assert start([folder / "show"], segment(), preload=both).stdout.splitlines()[1:] == [
        f"left over: LD_PRELOAD={folder}/loaded.so",
        "done",
    ]
