"""Debian's kernels, unpacked for QEMU: an uncompressed vmlinux and the few modules that the VM's root needs.

`machine` boots them. A kernel is fetched once and kept in the user's cache directory; delete it there to get
a newer one. The bundle is an ELF file because QEMU starts such a one without a boot loader, and because
unpacking a compressed kernel takes an emulated processor several seconds at each boot.
"""

from __future__ import annotations

import fcntl
import lzma
import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.vm import archive, modules

# in the order in which they are named in tables; 6.1 and 6.12 are long-term kernels, sid has the newest
SUITES = {"6.1": "bookworm", "6.12": "bookworm-backports", "newest": "sid"}
WANTED = ("virtio_pci", "9pnet_virtio", "9p", "overlay")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel that is ready to boot."""

    name: str
    release: str
    vmlinux: Path
    modules: tuple[Path, ...]  # in the order in which they have to be loaded


def cache() -> Path:
    """Where kernels are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cloudtaser" / "kernels"


def kernel(name: str) -> Kernel:
    """The kernel of that name in `SUITES`, fetched when the cache has none.

    Raises `ArchiveError` when it cannot be had.
    """
    folder = cache() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _fetch(name, folder)
    order = (folder / "order").read_text().split()
    return Kernel(
        name=name,
        release=(folder / "release").read_text().strip(),
        vmlinux=folder / "vmlinux",
        modules=tuple(folder / module for module in order),
    )


def _fetch(name: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as made:
        scratch = Path(made)
        suite = archive.Suite(SUITES[name], scratch / "apt")
        suite.update()
        for package in suite.download(suite.kernel_packages(), scratch):
            subprocess.run(
                ["dpkg-deb", "-x", package, scratch / "root"], check=True, stdin=subprocess.DEVNULL
            )
        tree = next((scratch / "root").glob("**/lib/modules/*/"))
        image = next((scratch / "root").glob("**/vmlinuz*"))
        ready = scratch / "ready"
        ready.mkdir()
        (ready / "release").write_text(tree.name + "\n")
        (ready / "vmlinux").write_bytes(unpacked(image.read_bytes()))
        order = modules.gather(tree, WANTED, ready)
        (ready / "order").write_text("\n".join(order) + "\n")
        shutil.move(ready, folder)


def unpacked(image: bytes) -> bytes:
    """The ELF kernel in a bzImage (Documentation/arch/x86/boot.rst, payload_offset and payload_length).

    Debian packs with xz before 6.12 and with zstd since. Raises `ArchiveError` for anything else.
    """
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length - 4]  # the last four bytes give the size unpacked
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return subprocess.run(["zstd", "-dcq"], input=payload, capture_output=True, check=True).stdout
    raise archive.ArchiveError(
        f"a kernel packed in a way not known here (it begins with {payload[:4].hex()})"
    )


def without_btf(vmlinux: bytes) -> bytes:
    """The same kernel with its type information (BTF) blanked, as if built without it.

    The section stays in place, empty of meaning: the kernel finds it malformed and refuses every program that
    needs it.
    """
    section_offset = struct.unpack_from("<Q", vmlinux, 0x28)[0]
    entry_size, count, names_index = struct.unpack_from("<HHH", vmlinux, 0x3A)
    headers = [
        struct.unpack_from("<IIQQQQ", vmlinux, section_offset + number * entry_size)
        for number in range(count)
    ]
    names = headers[names_index][4]
    blanked = bytearray(vmlinux)
    for name, _type, _flags, _address, offset, size in headers:
        if vmlinux[names + name : names + name + 5] == b".BTF\0":
            blanked[offset : offset + size] = bytes(size)
            return bytes(blanked)
    raise ValueError("this kernel has no BTF to take away")
