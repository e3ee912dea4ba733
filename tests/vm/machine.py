"""A throw-away virtual machine: another kernel over this machine's own files, for one command.

Tests, `bench/ebpf` and `python -m tests.vm` call `run`. The VM's root is this machine's, read-only over 9p
under a tmpfs, so the command finds the checkout, its `.venv` and every tool under the usual paths, and
nothing that it does outlasts it. QEMU emulates the processor (TCG): no KVM, no rights beyond those of the
caller, no network.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.vm import initramfs, kernels

OUT = Path("/run/out")  # in the VM: a folder that the command shares with the host, writable
BOOTS = 3  # an emulated machine's clocks may fail a kernel's checks while the host is busy
OURS = ("run", "started", "output", "status", "late")  # what this module itself puts there
BOOT_SECONDS = 300  # a boot takes 5, on a busy machine 60
LSMS = ("lockdown", "capability", "landlock", "yama")


class MachineError(Exception):
    """The VM did not come to the end of its command."""


@dataclass(frozen=True, slots=True)
class Boot:
    """With what the kernel starts."""

    lsm_bpf: bool = True  # `bpf` among the security modules, without which no LSM program is asked
    secretmem: bool = True  # memfd_secret(2)
    btf: bool = True  # False: the kernel's type information is blanked and /sys/kernel/btf is empty
    memory_mib: int = 2048
    extra: tuple[str, ...] = ()  # further words of the kernel command line

    def command_line(self) -> str:
        lsms = [*LSMS, "bpf"] if self.lsm_bpf else LSMS
        words = [
            *(
                "console=ttyS0",
                "quiet",
                "panic=-1",
                "mitigations=off",
                "tsc=reliable",
                "no_timer_check",
                "audit=0",
            ),
            f"lsm={','.join(lsms)}",
            f"secretmem.enable={int(self.secretmem)}",
            *self.extra,
        ]
        if not self.btf:
            words.append("hide=/sys/kernel/btf")
        return " ".join(words)


BOOT = Boot()


@dataclass(frozen=True, slots=True)
class Result:
    """What the command said and how it ended."""

    status: int
    output: str
    files: dict[str, bytes]  # what it left in OUT


def run(
    kernel: kernels.Kernel,
    command: list[str],
    *,
    seconds: float,
    boot: Boot = BOOT,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
) -> Result:
    """Boot, run `command` as root in `folder` (default: the current one), switch off.

    Standard output and error come back together. Raises `MachineError`, with what there was of both and the
    console's end, when the command is not done in `seconds`, by the machine's own clock, or the kernel fell
    over. Root's capabilities in there are whole.
    """
    with tempfile.TemporaryDirectory(prefix="cloudtaser-vm-") as made:
        scratch = Path(made)
        out = scratch / "out"
        out.mkdir()
        (out / "run").write_text(_script(command, seconds, folder or Path.cwd(), environment or {}))
        vmlinux = kernel.vmlinux
        if not boot.btf:
            vmlinux = scratch / "vmlinux"
            vmlinux.write_bytes(kernels.without_btf(kernel.vmlinux.read_bytes()))
        initrd = scratch / "initrd"
        initrd.write_bytes(initramfs.build(kernel.modules))
        console = scratch / "console"
        for attempt in range(BOOTS):
            if attempt:
                _emptied(out)
            problem = _qemu(vmlinux, initrd, boot, out, console, seconds)
            if (out / "started").exists() and not died_of_emulation(_text(console)):
                break
        output = _text(out / "output")
        status = _text(out / "status").strip()
        if status == str(128 + signal.SIGKILL) and (out / "late").exists():
            problem = f"the command was not done after {seconds:.0f} s"
        if problem or not status:
            end = "\n".join(_text(console).splitlines()[-60:])
            why = problem or "the machine stopped before the command had ended"
            raise MachineError(f"kernel {kernel.release}: {why}\n--- output\n{output}\n--- console\n{end}")
        left = {
            str(file.relative_to(out)): file.read_bytes()
            for file in sorted(out.rglob("*"))
            if file.is_file() and not file.is_symlink() and file.name not in OURS
        }
        return Result(status=int(status), output=output, files=left)


def died_of_emulation(console: str) -> bool:
    """Whether the kernel met a breakpoint of its own that was gone already.

    It puts one where it changes its code, and other processors wait there. QEMU before 8.1 translates code
    without a lock on its page: what another processor changes meanwhile is not seen, and the stale
    translation stays. An agent attaches where nothing else runs (`agent.alone`); what is left of this is
    worth another try.
    """
    return re.search(r"int3: 0000|Oops: int3", console) is not None and "Kernel panic" in console


def _emptied(out: Path) -> None:
    for file in out.iterdir():
        if file.name != "run":
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()


def _script(command: list[str], seconds: float, folder: Path, environment: dict[str, str]) -> str:
    settings = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        **environment,
    }
    exported = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in settings.items())
    return f"""touch {OUT}/started
{exported}
echo 1 > /proc/sys/kernel/printk  # nothing but how a kernel dies
/bin/busybox ip link set lo up
cd {shlex.quote(str(folder))}
set -m  # else what runs in the background ignores SIGINT and SIGQUIT, and so do its children
{shlex.join(command)} > {OUT}/output 2>&1 < /dev/null &
command=$!
( sleep {seconds} && touch {OUT}/late && kill -KILL -- -$command ) > /dev/null 2>&1 &
wait $command
echo $? > {OUT}/status
/bin/busybox poweroff -f  # not by sysrq, which an agent of the command's may refuse to everybody
sleep 60
"""


def _qemu(vmlinux: Path, initrd: Path, boot: Boot, out: Path, console: Path, seconds: float) -> str | None:
    """Run QEMU until the machine switches itself off; what went wrong, if anything did."""
    share = "security_model=none,multidevs=remap"
    arguments = [
        # the VM must not outlive a test run that is killed
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *(
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            f"{boot.memory_mib}M",
        ),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{console}"),
        *("-kernel", str(vmlinux), "-initrd", str(initrd), "-append", boot.command_line()),
        *("-virtfs", f"local,path=/,mount_tag=rootfs,readonly=on,{share}"),
        *("-virtfs", f"local,path={out},mount_tag=out,{share}"),
    ]
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=dict(os.environ),
    )
    try:
        try:
            _, said = process.communicate(timeout=BOOT_SECONDS)
        except subprocess.TimeoutExpired:
            if not (out / "started").exists():
                return f"not booted after {BOOT_SECONDS:.0f} s"
            _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"not done after {BOOT_SECONDS + seconds:.0f} s"
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return f"QEMU failed: {said.decode(errors='replace').strip()}" if process.returncode else None


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
