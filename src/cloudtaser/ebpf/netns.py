"""Network namespaces: a listening socket inside each pod's, without a mount into the pod; used by `agent`.

A pod's namespace is found by its processes. The abstract socket lives as long as somebody holds it, so it is
closed when the namespace has no process left.
"""

from __future__ import annotations

import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from cloudtaser.ebpf import processes
from cloudtaser.ebpf.socket import bind

_CLONE_NEWNET: Final = 0x40000000


def pods() -> dict[int, int]:
    """Network namespaces (inode numbers) of pods, each with the number of a process in it; the host's too,
    where a pod shares it.
    """
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            space = os.stat(f"/proc/{name}/ns/net").st_ino
        except OSError:
            continue  # gone, or a protected process: another one of its pod shows the same
        if space not in found and processes.place(int(name)).pod:
            found[space] = int(name)
    return found


def listen_in(pid: int, name: str) -> socket.socket:
    """`bind(name)` in the network namespace of a process. Raises `OSError`, `UnavailableError`.

    Done by a thread of its own that ends with it: only a thread can be in another namespace, and none goes
    back.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(_enter_and_bind, pid, name).result()


def _enter_and_bind(pid: int, name: str) -> socket.socket:
    space = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.setns(space, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(space)
    return bind(name)
