"""The payload's first layer: OpenSSL and CPython from Debian's sources, as static libraries for musl.

`build` asks for it and keeps it by the hash of what went in, this file included, so that a change in the
wrapper's own code never compiles an interpreter. What the wrapper does not use is left out. Both are
configured by the name of a compiler on PATH and by relative directories, so that no path of the machine gets
into them.
"""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from steps import BuildError, run

COMPILER = "payload-cc"
COMMON = [
    *("-O2", "-fstack-protector-strong", "-ffunction-sections", "-fdata-sections", "-fno-pie"),
    *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
]
# A thread of musl's gets 128 KiB; the one that looks up names runs Python.
THREAD_STACK = "-DTHREAD_STACK_SIZE=0x100000"
# CPython takes it that only glibc has extended attributes.
ATTRIBUTES = "-DUSE_XATTRS -include linux/limits.h"

OPENSSL_TARGETS = {"x86_64": "linux-x86_64", "aarch64": "linux-aarch64"}
VERSION = "3.11"  # of the Python that helps to build one for another architecture
# No file, variable or module of the machine changes how it works (autoload-config, dso, module, engine); TLS
# 1.2 and 1.3 only; no cipher, digest or format that neither uses; no table of error texts, as Python has one.
OPENSSL_OPTIONS = [
    *("no-shared", "no-pic", "no-dso", "no-module", "no-engine", "no-legacy", "no-autoload-config"),
    *("no-async", "no-tests", "no-makedepend", "no-filenames", "no-autoerrinit", "no-err", "no-ui-console"),
    *("no-ssl-trace", "no-ssl3", "no-tls1", "no-tls1_1", "no-dtls", "no-sctp", "no-srtp", "no-nextprotoneg"),
    *(
        "no-comp",
        "no-zlib",
        "no-srp",
        "no-psk",
        "no-ct",
        "no-cms",
        "no-ts",
        "no-cmp",
        "no-ocsp",
        "no-rfc3779",
    ),
    *("no-camellia", "no-seed", "no-idea", "no-bf", "no-cast", "no-des", "no-rc2", "no-rc4", "no-rc5"),
    *("no-aria", "no-sm2", "no-sm3", "no-sm4", "no-gost", "no-md4", "no-mdc2", "no-whirlpool", "no-rmd160"),
    *("no-blake2", "no-siphash", "no-cmac", "no-scrypt", "no-dsa", "no-ec2m", "no-multiblock"),
]

# Python's C modules. `build` stops where the wrapper imports one that is missing here.
MODULES = """\
*static*
_operator _operator.c
_sha256 sha256module.c
_signal signalmodule.c
_socket socketmodule.c
_ssl _ssl.c
_thread _threadmodule.c
_tracemalloc _tracemalloc.c
_weakref _weakref.c
atexit atexitmodule.c
binascii binascii.c
errno errnomodule.c
faulthandler faulthandler.c
posix posixmodule.c
select selectmodule.c
time timemodule.c
"""
# What the Makefile lists, without the frozen library and the search for one that is not (Modules/getpath.c).
LIBRARY_RULE = """\
include Makefile
libpython.a: $(LIBRARY_OBJS_OMIT_FROZEN)
\trm -f $@
\t$(AR) rcsD $@ $^
"""
IMPORTLIB = "Lib/importlib/_bootstrap.py"
TRIPLET_CHECK = (
    'as_fn_error $? "internal configure error for the platform triplet, please file a bug report" "$LINENO" 5'
)


@dataclass(frozen=True, slots=True)
class Workshop:
    """An empty directory to build in, and how. `tools`: what the names of compiler and linker begin with."""

    directory: Path
    architecture: str
    jobs: int
    log: Path
    tools: str = ""

    def prepare_compiler(self) -> None:
        """`payload-cc`: musl's compiler, with Linux's own headers beside musl's. Raises BuildError."""
        headers = self.directory / "linux-headers"
        headers.mkdir(parents=True)
        for name, source in (
            ("linux", "/usr/include/linux"),
            ("asm-generic", "/usr/include/asm-generic"),
            ("asm", f"/usr/include/{self.architecture}-linux-gnu/asm"),
        ):
            if not Path(source).is_dir():
                raise BuildError(f"{source} is not there; install linux-libc-dev")
            (headers / name).symlink_to(source)
        compiler = self.directory / "bin" / COMPILER
        compiler.parent.mkdir()
        renamed = f"-ffile-prefix-map={self.directory}=."
        compiler.write_text(f'#!/bin/sh\nexec musl-gcc -isystem {headers} {renamed} "$@"\n')
        compiler.chmod(0o755)

    def tool(self, name: str) -> str:
        """The compiler, or one of the programs about objects, for the payload's architecture."""
        return self.tools + name

    def run(self, arguments: list[str], directory: Path | None = None) -> None:
        """One step, with the compiler on PATH. Raises BuildError."""
        run(arguments, directory or self.directory, self.log, programs=self.directory / "bin")

    def compile_program(self, sources: list[Path], output: Path, base: Path, *options: str) -> None:
        """Compile and link a program on the libraries in `base`, the result of `build`. Raises BuildError."""
        include = base / "include"
        self.run(
            [
                *(COMPILER, *COMMON, "-std=gnu11", "-Wall", "-DNDEBUG", "-DPy_BUILD_CORE", *options),
                *(f"-I{include}", f"-I{include / 'python'}", f"-I{include / 'python' / 'internal'}"),
                *(f"-ffile-prefix-map={base}=interpreter", *map(str, sources)),
                *("-static", "-no-pie", "-Wl,--gc-sections,--build-id=none,-z,noexecstack,-z,relro,-z,now"),
                *(f"-L{base / 'lib'}", "-lpython", "-lssl", "-lcrypto", "-lm", "-o", str(output)),
            ]
        )


def build(sources: dict[str, Path], shop: Workshop, freeze: Path, result: Path) -> None:
    """Compile both into `result`. `sources` are the unpacked packages, `freeze` is the compiler of modules.

    Raises BuildError.
    """
    shop.prepare_compiler()
    prefix = shop.directory / "prefix"
    (prefix / "lib").mkdir(parents=True)
    _openssl(sources["openssl"], shop, prefix)
    python, source = _python(sources["python3.11"], shop, prefix), sources["python3.11"]
    (result / "lib").mkdir(parents=True)
    (result / "include").mkdir()
    for library in (python / "libpython.a", prefix / "lib" / "libssl.a", prefix / "lib" / "libcrypto.a"):
        shutil.copy(library, result / "lib")
    shutil.copytree(prefix / "include" / "openssl", result / "include" / "openssl")
    shutil.copytree(source / "Include", result / "include" / "python")
    shutil.copy(python / "pyconfig.h", result / "include" / "python")
    shutil.copy(source / IMPORTLIB, result / "importlib_bootstrap.py")
    if not shop.tools:  # one that can be started here: what it makes is the same for all architectures
        shop.compile_program([freeze], result / "freeze", result)


def _openssl(source: Path, shop: Workshop, prefix: Path) -> None:
    directory = shop.directory / "openssl"
    directory.mkdir()
    target = OPENSSL_TARGETS[shop.architecture]
    configure = [os.path.relpath(source / "Configure", directory), target, "--release", f"CC={COMPILER}"]
    configure += [f"AR={shop.tool('ar')}", f"RANLIB={shop.tool('ranlib')}"]
    configure += [*OPENSSL_OPTIONS, "--prefix=/usr", "--openssldir=/etc/ssl", "--libdir=lib", *COMMON]
    shop.run(configure, directory)
    shop.run(["make", f"-j{shop.jobs}", "build_libs"], directory)
    for name in ("libssl.a", "libcrypto.a"):
        shutil.copy(directory / name, prefix / "lib" / name)
    shutil.copytree(source / "include" / "openssl", prefix / "include" / "openssl")
    shutil.copytree(directory / "include" / "openssl", prefix / "include" / "openssl", dirs_exist_ok=True)


def _python(source: Path, shop: Workshop, prefix: Path) -> Path:
    """The directory with `libpython.a` and `pyconfig.h`."""
    directory = shop.directory / "python"
    directory.mkdir()
    configure = source / "configure"
    text = configure.read_text()
    if TRIPLET_CHECK not in text:
        raise BuildError(f"{configure} is not the one that images/wrapper/interpreter.py knows")
    # musl's compiler names Debian's glibc triplet, which configure takes for a fault of its own
    configure.write_text(text.replace(TRIPLET_CHECK, "PLATFORM_TRIPLET=$MULTIARCH"))
    relative = os.path.relpath(prefix, directory)
    shop.run(
        [
            *(os.path.relpath(configure, directory), f"CC={COMPILER}", f"CPPFLAGS=-I{relative}/include"),
            *(
                f"CFLAGS={' '.join(COMMON)} {THREAD_STACK} {ATTRIBUTES}",
                "OPT=-DNDEBUG",
                "LDFLAGS=-static -no-pie",
            ),
            *("LINKFORSHARED= ", "MODULE_BUILDTYPE=static", "--disable-shared", "--without-ensurepip"),
            *(
                "--without-doc-strings",
                "--disable-test-modules",
                "--without-readline",
                "--prefix=/cloudtaser",
            ),
            *(f"--with-openssl={relative}", "ac_cv_file__dev_ptmx=yes", "ac_cv_file__dev_ptc=no"),
            *_for_another_architecture(shop),
        ],
        directory,
    )
    modules = directory / "Modules"
    (modules / "Setup.bootstrap").write_text(MODULES)
    for name in ("Setup.local", "Setup.stdlib", "Setup"):
        (modules / name).write_text("")
    (directory / "library.mk").write_text(LIBRARY_RULE)
    shop.run(["make", "Makefile", "Modules/config.c"], directory)
    # without zlib, binascii has a checksum of its own
    without = "MODULE_BINASCII_CFLAGS="
    shop.run(["make", "-f", "library.mk", f"-j{shop.jobs}", "libpython.a", without], directory)
    return directory


def _for_another_architecture(shop: Workshop) -> list[str]:
    """What configure cannot find out by running programs."""
    if not shop.tools:
        return []
    python = shutil.which(f"python{VERSION}")
    if python is None:
        raise BuildError(f"python{VERSION} not found, which helps to build one for {shop.architecture}")
    machines = [f"--build={platform.machine()}-linux-gnu", f"--host={shop.architecture}-linux-gnu"]
    return [*machines, f"--with-build-python={python}", "ac_cv_buggy_getaddrinfo=no"]
