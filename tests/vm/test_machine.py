"""The machine that kernel tests run in does what they rely on, under each kernel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.vm import kernels, machine
from tests.vm.machine import Boot, MachineError

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1800)]

SECONDS = 600  # a machine that has the processor to itself takes one

LOOK = """
import ctypes, os, pathlib
libc = ctypes.CDLL(None, use_errno=True)
print("release", os.uname().release)
print("bpf", "bpf" in pathlib.Path("/sys/kernel/security/lsm").read_text().split(","))
print("secretmem", libc.syscall(447, 0) >= 0)
print("btf", os.path.exists("/sys/kernel/btf/vmlinux"))
pathlib.Path("/run/out/left").write_text("behind")
raise SystemExit(7)
"""


def seen(boot: Boot, name: str) -> tuple[machine.Result, dict[str, str]]:
    result = machine.run(kernels.kernel(name), [sys.executable, "-c", LOOK], seconds=SECONDS, boot=boot)
    return result, dict(line.split(" ", 1) for line in result.output.splitlines())


@pytest.mark.parametrize("name", kernels.SUITES)
def test_a_command_runs_under_the_kernel_and_its_status_and_files_come_back(name: str) -> None:
    result, said = seen(Boot(), name)
    assert said == {
        "release": kernels.kernel(name).release,
        "bpf": "True",
        "secretmem": "True",
        "btf": "True",
    }
    assert (result.status, result.files) == (7, {"left": b"behind"})


def test_a_kernel_can_boot_without_bpf_without_secret_memory_and_without_type_information() -> None:
    _, said = seen(Boot(lsm_bpf=False, secretmem=False, btf=False), "6.1")
    assert (said["bpf"], said["secretmem"], said["btf"]) == ("False", "False", "False")


def test_a_command_that_hangs_is_ended_what_it_said_is_told_and_nothing_reaches_the_host() -> None:
    mark = Path.cwd() / ".cache" / "written-in-a-vm"
    script = f"mkdir -p {mark.parent}; echo hello > {mark} && cat {mark}; sleep 600"
    with pytest.raises(MachineError, match=r"not done after 20 s\n--- output\nhello"):
        machine.run(kernels.kernel("6.1"), ["sh", "-c", script], seconds=20)
    assert not mark.exists()
