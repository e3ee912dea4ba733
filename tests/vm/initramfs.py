"""The VM's first programs: busybox, a few modules, a script that puts the host's root under a throw-away
layer.

`machine` calls `build`. No init system: the script ends by becoming the command's shell.
"""

from __future__ import annotations

import stat
from pathlib import Path

BUSYBOX = Path("/bin/busybox")

# The kernel hands `hide=FOLDER` on its command line to this script as a variable. The last line starts the
# command that `machine` left in the folder `out`.
INIT = r"""#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc none /proc; $B mount -t sysfs none /sys; $B mount -t devtmpfs none /dev
for m in $($B cat /order); do $B insmod /$m || echo "module $m failed"; done
$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose rootfs /ro
$B mount -t tmpfs none /rw; $B mkdir /rw/upper /rw/work
$B mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work none /new
$B mount --move /proc /new/proc; $B mount --move /sys /new/sys; $B mount --move /dev /new/dev
$B mkdir -p /new/dev/shm /new/dev/pts
$B mount -t tmpfs none /new/dev/shm; $B mount -t devpts none /new/dev/pts; $B mount -t tmpfs none /new/run
$B mount -t bpf none /new/sys/fs/bpf; $B mount -t securityfs none /new/sys/kernel/security
$B mount -t tracefs none /new/sys/kernel/tracing; $B mount -t cgroup2 none /new/sys/fs/cgroup
[ -z "$hide" ] || $B mount -t tmpfs none /new$hide
$B mkdir /new/run/out
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none out /new/run/out
exec $B switch_root /new /bin/bash /run/out/run
"""


def build(modules: tuple[Path, ...]) -> bytes:
    """An initramfs image (cpio, newc format), not compressed."""
    image = _Cpio()
    for folder in ("bin", "proc", "sys", "dev", "ro", "rw", "new"):
        image.add(folder, stat.S_IFDIR | 0o755, b"")
    image.add("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes())
    image.add("init", stat.S_IFREG | 0o755, INIT.encode())
    image.add("order", stat.S_IFREG | 0o644, "\n".join(module.name for module in modules).encode())
    for module in modules:
        image.add(module.name, stat.S_IFREG | 0o644, module.read_bytes())
    # the kernel opens this before it starts /init; without it nothing the script says is seen
    image.add("dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1))
    return image.finished()


class _Cpio:
    """The one archive format that the kernel reads (its buffer-format.rst)."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._inode = 0

    def add(self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
        self._content += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._pad()
        self._content += content
        self._pad()

    def _pad(self) -> None:
        self._content += bytes(-len(self._content) % 4)

    def finished(self) -> bytes:
        self.add("TRAILER!!!", 0, b"")
        return bytes(self._content)
