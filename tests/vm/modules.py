"""Kernel modules and what each needs, read from the modules themselves.

`kernels` calls `gather`. A package brings no modules.dep (depmod writes it on installation); each module
names what it depends on in its `.modinfo` section.
"""

from __future__ import annotations

import lzma
import re
from pathlib import Path


def gather(tree: Path, wanted: tuple[str, ...], into: Path) -> list[str]:
    """Copy the wanted modules of `tree` and all they need, unpacked; their file names in loading order.

    A name without a module is built into the kernel.
    """
    found = {file.name.partition(".ko")[0].replace("-", "_"): file for file in tree.rglob("*.ko*")}
    order: list[str] = []

    def add(name: str) -> None:
        file = found.get(name)
        if file is None or f"{name}.ko" in order:
            return
        content = lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()
        for needed in depends(content):
            add(needed)
        (into / f"{name}.ko").write_bytes(content)
        order.append(f"{name}.ko")

    for name in wanted:
        add(name)
    return order


def depends(module: bytes) -> list[str]:
    """The modules that this one needs, by its `depends=` entry."""
    match = re.search(rb"\0depends=([\w,-]*)\0", module)
    return [name.replace("-", "_") for name in match.group(1).decode().split(",") if name] if match else []
