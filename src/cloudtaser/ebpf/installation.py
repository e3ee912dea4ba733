"""Installation: the programs put into this node's kernel, told of the node, and pinned; used by `agent` at
start.

What they are told changes while the agent runs in one point: cgroups come and go (`tell_scopes`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from cloudtaser.ebpf import layout
from cloudtaser.ebpf.config import Config
from cloudtaser.ebpf.guard import Guard, Identity
from cloudtaser.ebpf.output import log
from cloudtaser.ebpf.probe import Outcome, probe
from cloudtaser.errors import ConfigError

AGENT: Final = 0xFFFF_FFFE  # the registration of the agent itself
_CGROUPS: Final = Path("/sys/fs/cgroup")
_BELOW: Final = ("kubepods", "kubepods.slice", "*/kubepods", "*/kubepods.slice")


def install(config: Config) -> tuple[Guard | None, Outcome]:
    """The strongest tier that works, in force and pinned; None where this kernel takes no program.

    Forks, and so needs to be alone in its process. Raises `ConfigError` when there is no object.
    """
    if not os.path.exists(config.object_path):
        raise ConfigError(
            "there is no such file",
            on=f"EBPF_OBJECT_PATH: {config.object_path}",
            fix="build it with tools/guard.py, which needs clang and libbpf-dev",
        )
    pins = config.pins
    if pins is not None and not _is_bpf_file_system(pins.parent):
        log("no bpf file system there: protection ends with the agent", path=str(pins.parent))
        pins = None
    guard, outcome = probe(
        config.object_path,
        pins,
        mode=config.mode,
        kills=config.reactive_kill,
        base=lambda guard: _base(guard, config),
    )
    if guard is None:
        log("this kernel takes none of the programs", refused=outcome.refused)
        return None, outcome
    guard.pin()
    _tell_executables(guard, config)
    tell_scopes(guard, config)
    _tell_own_cgroups(guard)
    return guard, outcome


def _base(guard: Guard, config: Config) -> layout.Config:
    """What does not depend on the tier."""
    me = Identity.of_this_process()
    pins = config.pins
    executable = guard.inode("/proc/self/exe")
    return replace(
        guard.config,
        everyone=int(config.everyone),
        log_all=int(config.log_all),
        agent_tgid=me.tgid,
        agent_start=me.start,
        agent_dead=0,
        agent_inode=executable.inode,
        agent_device=executable.device,
        host_mounts=guard.host_mounts(),
        open_until=0,
        networks=int(config.pods),
        pins_device=guard.inode(pins).device if pins is not None and pins.exists() else 0,
    )


def _tell_executables(guard: Guard, config: Config) -> None:
    for paths, trust in ((config.runtimes, layout.TRUST_RUNTIME), (config.tracers, layout.TRUST_TRACER)):
        for executable in paths:
            try:
                guard.trust(executable, trust)
            except OSError as error:
                log("an executable is not there", path=executable, reason=error.strerror)


def tell_scopes(guard: Guard, config: Config) -> None:
    """Which cgroups are of pods and of the container runtime, as far as they are there now."""
    for pattern in _BELOW:
        for path in _CGROUPS.glob(pattern):
            with suppress(OSError):
                guard.scope(path.stat().st_ino, layout.SCOPE_SUBJECT)
    for each in config.runtime_cgroups:
        with suppress(OSError):
            guard.scope(os.stat(each).st_ino, layout.SCOPE_RUNTIME)


def _tell_own_cgroups(guard: Guard) -> None:
    """Those that this process is in: who freezes or kills one of them does so to the agent."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        if line.startswith("0::/"):
            path = _CGROUPS / line[4:]
            while path != _CGROUPS and path.is_relative_to(_CGROUPS):
                with suppress(OSError):
                    guard.scope(path.stat().st_ino, layout.SCOPE_AGENT)
                path = path.parent


def protect_this_process(guard: Guard) -> None:
    """The agent is protected as its wards are."""
    pid_fd = os.pidfd_open(os.getpid())
    try:
        guard.ask(layout.ACTION_MARK, os.getpid(), pid_fd, AGENT)
    finally:
        os.close(pid_fd)


def _is_bpf_file_system(path: Path) -> bool:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            types = {line.split()[4]: line.partition(" - ")[2].split()[0] for line in file}
        return types.get(str(path)) == "bpf"
    except (OSError, IndexError):
        return False
