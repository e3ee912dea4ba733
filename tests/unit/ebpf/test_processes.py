"""Who is who."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from cloudtaser.ebpf.processes import Measurer, Place, lives, namespaces, peer, place_of_cgroup

UID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
CONTAINER = "ab" * 32


@pytest.mark.parametrize(
    "path",
    [
        f"0::/kubepods/burstable/pod{UID}/{CONTAINER}",
        f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-{CONTAINER}.scope",
        f"12:memory:/kubepods/pod{UID}/{CONTAINER}\n0::/",
    ],
)
def test_a_pod_is_known_by_its_cgroup(path: str) -> None:
    assert place_of_cgroup(path) == Place(UID, CONTAINER)


def test_a_pods_sandbox_without_container_and_a_service() -> None:
    assert place_of_cgroup(f"0::/kubepods/pod{UID}") == Place(UID, "")
    assert place_of_cgroup("0::/system.slice/sshd.service\n") == Place()


def test_an_executable_is_measured_by_content_and_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(b"one")
    measurer = Measurer(limit=1)
    first = measurer.measure(str(path))
    assert first.digest == hashlib.sha256(b"one").hexdigest()
    assert measurer.measure(str(path)) == first
    path.write_bytes(b"two")
    assert measurer.measure(str(path)).digest == hashlib.sha256(b"two").hexdigest()


def test_a_peer_is_known_by_the_kernel_and_its_end_is_seen() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid, pid_fd = peer(ours)
        assert pid == os.getpid()
        assert lives(pid_fd)
        os.close(pid_fd)
    child = os.fork()
    if child == 0:
        os._exit(0)
    pid_fd = os.pidfd_open(child)
    os.waitpid(child, 0)
    assert not lives(pid_fd)
    os.close(pid_fd)


def test_namespaces_are_numbers() -> None:
    assert set(namespaces("self")) == {"mnt", "pid", "user"}
