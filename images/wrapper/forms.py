"""The payload's forms: which C library the one program is linked with.

`build` asks for a workshop by the form's name. `musl` is the payload; `glibc` is what to fall back on where
musl is in the way: the same recipe, linked with the static glibc of the machine that builds it.
"""

from interpreter import COMPILER, Workshop


class GlibcWorkshop(Workshop):
    """Builds with the machine's own compiler and C library."""

    __slots__ = ()

    def prepare_compiler(self) -> None:
        """`payload-cc`: gcc, which needs no headers but its own."""
        compiler = self.directory / "bin" / COMPILER
        compiler.parent.mkdir(parents=True)
        compiler.write_text(f'#!/bin/sh\nexec gcc -ffile-prefix-map={self.directory}=. "$@"\n')
        compiler.chmod(0o755)


WORKSHOPS: dict[str, type[Workshop]] = {"musl": Workshop, "glibc": GlibcWorkshop}
OWN_SOURCES = {"musl": ["musl.c", "heap.c"], "glibc": ["glibc.c"]}  # beside main.c
LIBRARIES = {"musl": "musl-dev", "glibc": "libc6-dev"}  # Debian's packages
