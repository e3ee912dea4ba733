"""Debian's source packages, pinned: which versions, and how they are had.

`build` asks for them. `sources.json` names each file with its SHA-256; apt fetches it from whichever of this
machine's package sources has it, so that a version that an index no longer lists can still be had. What
counts is the hash.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from steps import BuildError, run

PINS = Path(__file__).resolve().parent / "sources.json"
APT_HELPER = "/usr/lib/apt/apt-helper"


def fetch(
    names: Sequence[str], directory: Path, kept: Path, log: Path, say: Callable[[str], None]
) -> dict[str, Path]:
    """The packages unpacked below `directory`, with Debian's patches, by name. `kept` is where files stay for
    the next time. Raises BuildError.
    """
    directory.mkdir(parents=True)
    kept.mkdir(parents=True, exist_ok=True)
    unpacked = {}
    for name, package in _pins(names).items():
        for file, digest in package["files"].items():
            if not (kept / file).exists() or digest_of(kept / file) != digest:
                say(f"fetching {file}")
                _download(f"{package['directory']}/{file}", kept / file, digest)
            shutil.copy(kept / file, directory)
        description = next(file for file in package["files"] if file.endswith(".dsc"))
        run(["dpkg-source", "--no-check", "-x", description, name], directory, log)
        unpacked[name] = directory / name
    return unpacked


def pinned(names: Sequence[str]) -> str:
    """What the pins of these packages say, as one text."""
    return json.dumps(_pins(names), sort_keys=True)


def _pins(names: Sequence[str]) -> dict[str, Any]:
    pins = json.loads(PINS.read_text())
    return {name: pins[name] for name in names}


def pin_newest() -> None:
    """Write `sources.json` anew, with the newest versions that can be had. Raises BuildError."""
    fresh = {}
    for name in json.loads(PINS.read_text()):
        newest = _newest(name)
        fresh[name] = newest
        print(f"{name} {newest['version']}")
    PINS.write_text(json.dumps(fresh, indent=2) + "\n")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _download(path: str, target: Path, digest: str) -> None:
    for site in _sites():
        arguments = [APT_HELPER, "-o", "APT::Sandbox::User=root", "download-file"]
        arguments += [f"{site}/{path}", str(target), f"SHA256:{digest}"]
        done = subprocess.run(arguments, capture_output=True, check=False)
        if not done.returncode and digest_of(target) == digest:
            return
        target.unlink(missing_ok=True)
    raise BuildError(
        f"none of this machine's package sources has {target.name} as it is pinned; add those of Debian 12 "
        "(deb lines will do), or take newer pins: images/wrapper/build --newest"
    )


def _sites() -> list[str]:
    return sorted({site for site, _, _ in _suites()})


def _suites() -> Iterator[tuple[str, str, str]]:
    """Address, suite and keyring of each of Debian's own sources on this machine."""
    fields = "$(REPO_URI)\t$(RELEASE)\t$(SIGNED_BY)"
    arguments = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages", "Origin: Debian"]
    listed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    for line in sorted(set(listed.splitlines())):
        site, suite, keyring = line.split("\t")
        yield site.rstrip("/"), suite, keyring if keyring.startswith("/") else ""


def _newest(name: str) -> dict[str, object]:
    """By a private apt that has deb-src lines for this machine's sources."""
    with tempfile.TemporaryDirectory(prefix="cloudtaser-") as scratch:
        root = Path(scratch)
        (root / "lists" / "partial").mkdir(parents=True)
        (root / "archives" / "partial").mkdir(parents=True)
        lines = []
        for site, suite, keyring in _suites():
            option = f"[signed-by={keyring}] " if keyring else ""
            lines.append(f"deb-src {option}{site} {suite} main\n")
        (root / "sources.list").write_text("".join(lines))
        options = [
            *("-o", f"Dir::Etc::sourcelist={root / 'sources.list'}", "-o", "Dir::Etc::sourceparts=/dev/null"),
            *("-o", f"Dir::State::lists={root / 'lists'}", "-o", f"Dir::Cache={root}"),
            *("-o", "APT::Sandbox::User=root"),
        ]
        log = root / "log"
        run(["apt-get", *options, "update"], root, log)
        shown = ["apt-cache", *options, "showsrc", "--only-source", name]
        text = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
        records = [_record(part) for part in text.split("\n\n") if part.strip()]
        for record in sorted(records, key=_VersionOrder, reverse=True):
            if all(_can_be_had(f"{record['directory']}/{file}", sha, root) for file, sha in _files(record)):
                return record
    raise BuildError(f"no version of {name} can be had from this machine's package sources")


class _VersionOrder:
    """Debian's order of versions, by dpkg."""

    def __init__(self, record: dict[str, object]) -> None:
        self._version = str(record["version"])

    def __lt__(self, other: "_VersionOrder") -> bool:
        compared = ["dpkg", "--compare-versions", self._version, "lt", other._version]
        return subprocess.run(compared, check=False).returncode == 0


def _record(text: str) -> dict[str, object]:
    record: dict[str, object] = {}
    files: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            section, _, value = line.partition(":")
            if section in ("Version", "Directory"):
                record[section.lower()] = value.strip()
        elif section == "Checksums-Sha256":
            digest, _, file = line.split()
            files[file] = digest
    return record | {"files": files}


def _files(record: dict[str, object]) -> list[tuple[str, str]]:
    files = record["files"]
    return list(files.items()) if isinstance(files, dict) else []


def _can_be_had(path: str, digest: str, directory: Path) -> bool:
    try:
        _download(path, directory / path.rsplit("/", 1)[-1], digest)
    except BuildError:
        return False
    return True
