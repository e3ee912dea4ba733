"""Builds the wrapper's C extension `_cloudtaser` for the interpreter that runs this, into its site-packages.

tools/prepare calls it with .venv's Python; it does nothing when neither a source, the interpreter nor the
compiler's flags changed. The payload has its own build of the same sources (images/wrapper/).

Usage: python tools/native.py [--if-possible]
--if-possible: where compiler or headers are missing, say so and leave the wrapper without it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src/cloudtaser/wrapper/native"
FLAGS = [
    *("-std=c11", "-O2", "-g", "-fPIC", "-shared", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"),
    *("-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Werror"),
    *("-Wl,-z,relro", "-Wl,-z,now"),
]
LIBRARIES = ["-lcrypto"]
DIRECTORY = "cloudtaser_native"  # of its own, so that a test can have it without all other packages
LIBCRYPTO = "/usr/include/openssl/evp.h"


def sources() -> list[Path]:
    """The module's files, in order."""
    return [SOURCE / name for name in (SOURCE / "SOURCES").read_text().split()]


def interposer() -> tuple[list[Path], list[str]]:
    """The interposer's files and its flags, which are the same wherever it is built."""
    words = (SOURCE / "INTERPOSER").read_text().split()
    files = [SOURCE / word for word in words if word.endswith(".c")]
    return files, [word for word in words if not word.endswith(".c")]


def wanted_stamp(include: str) -> str:
    """What the built files depend on, as one digest."""
    digest = hashlib.sha256(repr((sys.version, include, FLAGS, LIBRARIES, interposer())).encode())
    for path in [*sources(), *interposer()[0], *sorted(SOURCE.glob("*.h"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def build() -> None:
    """Compile and put in place at once, so that nobody imports half a file. Raises OSError, ValueError."""
    include = sysconfig.get_paths()["include"]
    packages = Path(sysconfig.get_paths()["platlib"])
    target = packages / DIRECTORY / f"_cloudtaser{sysconfig.get_config_var('EXT_SUFFIX')}"
    stamp = target.with_suffix(".stamp")
    wanted = wanted_stamp(include)
    if target.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise OSError("no C compiler (gcc)")
    for header, package in ((f"{include}/Python.h", "python3-dev"), (LIBCRYPTO, "libssl-dev")):
        if not Path(header).exists():
            raise OSError(f"no {header} ({package})")
    print(f"native: building {target.name}", flush=True)
    target.parent.mkdir(exist_ok=True)
    (packages / f"{DIRECTORY}.pth").write_text(f"{DIRECTORY}\n")
    stamp.unlink(missing_ok=True)
    files, flags = interposer()
    _compile([*compiler.split(), *flags, *map(str, files)], target.with_name("libcloudtaser.so"))
    _compile([*compiler.split(), *FLAGS, f"-I{include}", *map(str, sources()), *LIBRARIES], target)
    stamp.write_text(wanted)


def _compile(command: list[str], target: Path) -> None:
    fresh = target.with_suffix(f".{os.getpid()}.new")
    try:
        subprocess.run([*command, "-o", str(fresh)], check=True)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def main() -> int:
    """The program; its exit code."""
    try:
        build()
    except OSError as error:
        print(f"native: {error}; the wrapper goes without secret memory", file=sys.stderr)
        return 0 if sys.argv[1:] == ["--if-possible"] else 1
    except subprocess.CalledProcessError as error:
        print(f"native: the compiler failed with {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
