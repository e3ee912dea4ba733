"""The payload's forms: which C library the one program is linked with, and for which architecture.

`build` asks for a workshop by the form's name. `musl` is the payload; `glibc` is what to fall back on where
musl is in the way: the same recipe, linked with the static glibc of the machine that builds it. For another
architecture than this machine's both are built by Debian's compiler for that one, and musl, which Debian has
for its own architectures only, from its source first.
"""

import platform
from dataclasses import dataclass
from pathlib import Path

from interpreter import COMPILER, Workshop
from steps import BuildError, run

OWN_SOURCES = {"musl": ["musl.c", "heap.c"], "glibc": ["glibc.c"]}  # beside main.c
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}  # Debian's name, and the compiler's
SPECS = "musl-gcc.specs.sh"  # of musl's source: writes what makes a compiler one for musl
# gcc's own library asks for a function of glibc to find out which of two ways of an atomic operation to go.
ATOMICS = {"aarch64": "-mno-outline-atomics", "x86_64": ""}


@dataclass(frozen=True, slots=True)
class GlibcWorkshop(Workshop):
    """Builds with a compiler that needs no headers or library but its own."""

    def prepare_compiler(self) -> None:
        """`payload-cc`: gcc."""
        _write_compiler(self, f"{self.tool('gcc')} -ffile-prefix-map={self.directory}=.")


@dataclass(frozen=True, slots=True)
class CrossWorkshop(Workshop):
    """Builds for musl and another architecture, with what `build_musl` left in the directory `musl`."""

    musl: Path = Path()

    def prepare_compiler(self) -> None:
        """`payload-cc`: Debian's compiler for that architecture, told about musl. Raises BuildError."""
        include = Path(f"/usr/{self.architecture}-linux-gnu/include")
        headers = self.directory / "linux-headers"
        headers.mkdir(parents=True)
        for name in ("linux", "asm-generic", "asm"):
            if not (include / name).is_dir():
                raise BuildError(f"{include / name} is not there; install {needs(self.architecture)}")
            (headers / name).symlink_to(include / name)
        specs = self.directory / "musl.specs"
        arguments = [str(self.musl / "include"), str(self.musl / "lib"), "/lib/ld-musl.so.1"]
        self.run(["sh", "-c", f'exec sh "$@" >{specs}', "sh", str(self.musl / SPECS), *arguments])
        command = f"{self.tool('gcc')} -specs {specs} -isystem {headers} {ATOMICS[self.architecture]}"
        _write_compiler(
            self, f"{command} -ffile-prefix-map={self.directory}=. -ffile-prefix-map={self.musl}=musl"
        )


def build_musl(source: Path, tools: str, architecture: str, jobs: int, log: Path, result: Path) -> None:
    """musl's headers and its static library into `result`. Raises BuildError."""
    options = [f"--target={architecture}", f"CROSS_COMPILE={tools}", "--prefix=/", "--disable-shared"]
    renamed = f"CFLAGS=-ffile-prefix-map={source}=. {ATOMICS[architecture]}"
    run(["./configure", *options, "--disable-wrapper", renamed], source, log)
    run(["make", f"-j{jobs}", "install", f"DESTDIR={result}"], source, log)
    (result / SPECS).write_bytes((source / "tools" / SPECS).read_bytes())


def tools_for(architecture: str) -> str:
    """What the names of compiler and linker begin with; "" for this machine's own architecture."""
    return "" if architecture == platform.machine() else f"{architecture}-linux-gnu-"


def needs(architecture: str) -> str:
    """Debian's packages with a compiler for another architecture."""
    debian = next(name for name, other in ARCHITECTURES.items() if other == architecture)
    return f"gcc-{architecture.replace('_', '-')}-linux-gnu libc6-dev-{debian}-cross"


def libraries(form: str, architecture: str) -> list[str]:
    """Debian's packages whose content gets into the payload."""
    if not tools_for(architecture):
        return [{"musl": "musl-dev", "glibc": "libc6-dev"}[form], "linux-libc-dev"]
    debian = next(name for name, other in ARCHITECTURES.items() if other == architecture)
    return [f"libc6-dev-{debian}-cross", f"linux-libc-dev-{debian}-cross"]


def _write_compiler(shop: Workshop, command: str) -> None:
    compiler = shop.directory / "bin" / COMPILER
    compiler.parent.mkdir(parents=True, exist_ok=True)
    compiler.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    compiler.chmod(0o755)
