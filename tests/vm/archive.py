"""The Debian archive as this machine reaches it, asked for kernels of suites that the machine does not use.

`kernels` calls `packages`. Nothing of the machine's own apt changes: lists, state and cache are in a folder
of ours, and only the archive's address and the machine's general settings (a proxy, say) are taken over.
"""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SECONDS = 900  # a slow mirror; the largest package has 110 MB


class ArchiveError(Exception):
    """apt could not give what was asked for."""


def _apt(arguments: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(
        arguments,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise ArchiveError(
            f"{' '.join(arguments[:1])} failed: {said[-1]}; check the machine's package sources"
        )
    return done.stdout


def address() -> str:
    """Where this machine gets its Debian packages from."""
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    listed = _apt(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"])
    for line in listed.splitlines():
        uri, _, release = line.partition(" ")
        if release == codename:
            return uri
    raise ArchiveError(
        "no package source of this machine names Debian's archive; the kernels come from there"
    )


class Suite:
    """One suite of the archive, with apt state of its own under `folder`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        sources = folder / "sources.list"
        sources.write_text(f"deb [signed-by={KEYRING}] {address()} {name} main\n")
        settings = {
            "Dir::State": folder / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "-",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Sandbox::User": "",
        }
        self._options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def update(self) -> None:
        """Fetch the suite's list of packages."""
        _apt(["apt-get", *self._options, "update", "-qq"])

    def kernel_packages(self) -> list[str]:
        """What `linux-image-amd64` of this suite consists of: an image, or binary and modules."""
        listed = _apt(
            [
                *("apt-cache", *self._options, "depends", "--recurse", "--no-recommends", "--no-suggests"),
                *("--no-conflicts", "--no-breaks", "--no-replaces", "linux-image-amd64"),
            ]
        )
        named = set(re.findall(r"^(linux-(?:image|binary|modules)-\d\S*-amd64)$", listed, re.MULTILINE))
        if not named:
            raise ArchiveError(f"{self.name} has no linux-image-amd64")
        return sorted(named)

    def download(self, packages: list[str], into: Path) -> list[Path]:
        """Fetch these packages, checked against the archive's signature."""
        _apt(["apt-get", *self._options, "download", "-qq", *packages], into)
        return sorted(into.glob("*.deb"))
