"""Guard: the object in the kernel; loaded for one tier, attached, told its configuration, pinned.

Used by `agent`. All writing to the kernel's maps happens here. With `pins` the attachments outlive the
process, and a guard made anew takes the maps over and replaces each attachment after its successor is in
place: there is no gap.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cloudtaser.ebpf import layout, libbpf, processes, tiers, vectors
from cloudtaser.ebpf.libbpf import BpfError, Map, Object
from cloudtaser.ebpf.vectors import Tier
from cloudtaser.errors import RefusedError

OBJECT: Final = Path(__file__).with_name("guard.bpf.o")
PINS: Final = Path("/sys/fs/bpf/cloudtaser")
_CONSTANTS: Final = (".rodata.watched", ".rodata.compat", ".rodata.probes")
_NAME_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class Identity:
    """The agent, as the kernel's programs know it."""

    tgid: int
    start: int  # clock ticks, as in /proc/PID/stat

    @classmethod
    def of_this_process(cls) -> Identity:
        """As /proc has it."""
        return cls(os.getpid(), processes.start_ticks(os.getpid()))


class Guard:
    """The programs of one tier, in the kernel."""

    def __init__(self, path: str = str(OBJECT), *, pins: Path | None = None) -> None:
        self._path, self._pins = path, pins
        self._object: Object | None = None
        self.tier = Tier.NONE
        self.attached: frozenset[str] = frozenset()
        self.refused: dict[str, str] = {}  # program to the kernel's reason
        self.logs: dict[str, str] = {}  # and all that the verifier said, for developers
        self.config = layout.Config()

    def load(self, tier: Tier) -> None:
        """Load and attach what the kernel takes of `tier`; raises `BpfError` when it lacks what the tier is
        made of.
        """
        if self._pins is not None:
            self._make_pin_folders(self._pins)
            self.claim()
        refused: dict[str, str] = {}
        while True:  # each turn leaves out one program more
            object_ = Object(self._path)
            wanted = tiers.programs(tier, object_.sections, self._functions(object_)) - set(refused)
            missing = tiers.lacks(tier, wanted)
            if missing:
                object_.close()
                reasons = "; ".join(
                    f"{name}: {refused.get(name, 'not in this kernel')}" for name in sorted(missing)
                )
                raise BpfError(95, f"tier {tier}: {reasons}")
            try:
                self._prepare(object_, wanted)
                object_.load()
                break
            except BpfError as error:
                object_.close()
                name = tiers.refused_program(error.log)
                if not name or name in refused:
                    raise
                refused[name] = os.strerror(error.errno or 0)
                self.logs[name] = error.log
        self._attach(object_, tier, wanted, refused)

    @staticmethod
    def _functions(object_: Object) -> frozenset[str]:
        needed = {tiers.kernel_function(section) for section in object_.sections.values()}
        return libbpf.functions_of_kernel(frozenset(name for name in needed if name))

    def _prepare(self, object_: Object, wanted: frozenset[str]) -> None:
        object_.choose(wanted)
        for name, value in zip(_CONSTANTS, (*vectors.watched(), tiers.probe_types()), strict=True):
            object_.initialise(name, value)
        if self._pins is not None:
            for name in object_.map_names:
                if not name.startswith("."):
                    object_.pin_map(name, str(self._pins / "maps" / name))

    def _attach(self, object_: Object, tier: Tier, wanted: frozenset[str], refused: dict[str, str]) -> None:
        self._object, self.tier = object_, tier
        self._tell_tables()
        attached = set()
        for name in sorted(wanted, key=lambda name: not name.startswith("life_")):  # inheritance first
            if name in tiers.ITERATORS:
                attached.add(name)
                continue
            try:
                object_.attach(name)
                attached.add(name)
            except BpfError as error:
                refused[name] = error.strerror or ""
        self.refused, self.attached = refused, frozenset(attached)
        missing = tiers.lacks(tier, self.attached)
        if missing:
            self.close()
            raise BpfError(95, f"tier {tier}: not attached: {', '.join(sorted(missing))}")

    def _tell_tables(self) -> None:
        names, calls = self.map("names"), self.map("syscalls")
        for name, vector in vectors.NAMES.items():
            names.put(name.encode().ljust(_NAME_SIZE, b"\0"), layout.U32.pack(vector))
        for number, vector in vectors.syscall_numbers().items():
            calls.put(layout.U32.pack(number), layout.U32.pack(vector))

    @property
    def hooks(self) -> frozenset[str]:
        """What is attached, without the tiers' prefixes."""
        return frozenset(tiers.hook(name) for name in self.attached)

    def map(self, name: str) -> Map:
        """A map of the loaded object."""
        assert self._object is not None
        return self._object.map(name)

    def configure(self, config: layout.Config) -> None:
        """In force with the next access."""
        self.map("config").put(layout.ZERO, config.pack())
        self.config = config

    def counter(self, name: str) -> int:
        """One of `layout.COUNTERS`."""
        value = self.map("counters").get(layout.U32.pack(layout.COUNTERS.index(name)))
        return layout.U64.unpack(value or bytes(8))[0]  # type: ignore[no-any-return]

    def ask(self, action: int, tgid: int, pid_fd: int, registration: int = 0) -> list[layout.Found]:
        """Mark, release or look at one process; a record for each of its threads, none when it is gone."""
        self._request(action, tgid, registration)
        assert self._object is not None
        return layout.parse_found(self._object.iterate("iter_mark", pid_fd=pid_fd))

    def protected(self) -> list[layout.Found]:
        """All threads that are protected now."""
        self._request(layout.ACTION_LOOK, 0, 0)
        assert self._object is not None
        return layout.parse_found(self._object.iterate("iter_mark", limit=64 << 20))

    def host_mounts(self) -> int:
        """The inode number of the host's mount namespace: that of process 1. Raises `OSError`."""
        pid_fd = os.pidfd_open(1)
        try:
            found = self.ask(layout.ACTION_LOOK, 1, pid_fd)
        finally:
            os.close(pid_fd)
        return found[0].mounts if found else 0

    def handles(self, tgid: int) -> list[layout.Handle]:
        """Open files of others on the memory of the process that was marked last."""
        mm = layout.REQUEST.unpack(self.map("request").get(layout.ZERO) or bytes(layout.REQUEST.size))[4]
        self._request(layout.ACTION_LOOK, tgid, 0, mm)
        assert self._object is not None
        return layout.parse_handles(self._object.iterate("iter_handles"))

    def _request(self, action: int, tgid: int, registration: int, mm: int = 0) -> None:
        self.map("request").put(layout.ZERO, layout.REQUEST.pack(action, tgid, registration, 0, mm))

    def inode(self, path: str | Path) -> layout.Inode:
        """A file as the kernel knows it. Raises `OSError`."""
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        pid_fd = os.pidfd_open(os.getpid())
        try:
            self._request(layout.ACTION_LOOK, os.getpid(), fd)
            assert self._object is not None
            data = self._object.iterate("iter_identity", pid_fd=pid_fd)
        finally:
            os.close(fd)
            os.close(pid_fd)
        if len(data) < layout.IDENTITY.size:
            raise BpfError(2, str(path))
        inode, size, device, _ = layout.IDENTITY.unpack_from(data)
        return layout.Inode(inode, size, device)

    def trust(self, path: str, trust: int) -> None:
        """What an executable may, known by its inode and size."""
        found = self.inode(path)
        self.map("executables").put(found.key, layout.TRUSTED.pack(found.size, trust, 0))

    def scope(self, cgroup: int, scope: int) -> None:
        """Add a meaning to a cgroup."""
        scopes, key = self.map("scopes"), layout.U64.pack(cgroup)
        known = layout.U32.unpack(scopes.get(key) or layout.ZERO)[0]
        scopes.put(key, layout.U32.pack(known | scope))

    def unscope(self, cgroup: int) -> None:
        """Forget a cgroup that is gone."""
        self.map("scopes").remove(layout.U64.pack(cgroup))

    def own_namespace(self, number: int) -> None:
        """A namespace that protected processes have to themselves."""
        self.map("namespaces").put(layout.U32.pack(number), layout.U32.pack(1))

    def keep_namespaces(self, wanted: set[int]) -> None:
        """Forget all others: their processes are gone."""
        namespaces = self.map("namespaces")
        for key in list(namespaces.keys()):
            if layout.U32.unpack(key)[0] not in wanted:
                namespaces.remove(key)

    def fix(self, path: Path, how: int) -> None:
        """Nobody but the agent removes or renames it, or what is in it."""
        self.map("fixed").put(self.inode(path).key, layout.U32.pack(how))

    # --- pins

    def _make_pin_folders(self, pins: Path) -> None:
        for folder in ("maps", "links"):
            (pins / folder).mkdir(mode=0o700, parents=True, exist_ok=True)

    def claim(self) -> None:
        """Become the agent in the eyes of the programs that a former one left behind; refused while it
        lives.
        """
        if self._pins is None or not (path := self._pins / "maps" / "config").exists():
            return
        try:
            old = libbpf.open_pinned_map(str(path), "config", 4, layout.CONFIG.size, 1)
        except BpfError as error:
            if error.errno != errno.EPERM:
                raise
            raise RefusedError(
                "the programs of a former agent are in force, and do not take this process for its successor",
                on=str(self._pins),
                fix="stop the other agent; one with another executable succeeds within its HANDOVER_SECONDS",
            ) from None
        try:
            me = Identity.of_this_process()
            config = layout.Config.parse(old.get(layout.ZERO) or bytes(layout.CONFIG.size))
            config = replace(config, agent_tgid=me.tgid, agent_start=me.start, agent_dead=0)
            old.put(layout.ZERO, config.pack())
            self.config = config
        finally:
            os.close(old.fd)

    def pin(self) -> None:
        """Keep all of it beyond this process; what a former guard pinned and this one has not goes last."""
        assert self._object is not None
        if self._pins is None:
            return
        links = self._pins / "links"
        names = sorted(self.attached - tiers.ITERATORS)
        for name in names:
            fresh = links / f"{name}_new"  # bpf file systems allow no dot
            with suppress(FileNotFoundError):
                fresh.unlink()
            self._object.pin_link(name, str(fresh))
            fresh.rename(links / name)  # the former attachment ends here, its successor is at work
        for former in links.iterdir():
            if former.name not in names:
                former.unlink()
        self._own_all(names)
        for folder in (self._pins, links, self._pins / "maps"):
            self.fix(folder, layout.FIXED_ITSELF | layout.FIXED_CHILDREN)

    def _own_all(self, links: list[str]) -> None:
        """Tell the programs which objects are ours, and which are no longer."""
        assert self._object is not None
        object_ = self._object
        maps = (name for name in object_.map_names if not name.startswith("."))
        ids = {layout.OWN_MAP | libbpf.object_id(object_.map(name).fd) for name in maps}
        ids |= {layout.OWN_PROGRAM | libbpf.object_id(object_.program_fd(name)) for name in self.attached}
        ids |= {layout.OWN_LINK | libbpf.object_id(object_.link_fd(name)) for name in links}
        own = self.map("own")
        for key in list(own.keys()):
            if layout.U64.unpack(key)[0] not in ids:
                own.remove(key)
        for each in ids:
            own.put(layout.U64.pack(each), layout.U32.pack(1))

    def unpin(self) -> None:
        """End protection: every pin goes, links first, and with them their folders."""
        if self._pins is None:
            return
        for folder in (self._pins / "links", self._pins / "maps"):
            with suppress(FileNotFoundError):
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
        with suppress(OSError):
            self._pins.rmdir()

    def close(self) -> None:
        """Let go; what is pinned stays at work."""
        if self._object is not None:
            self._object.close()
            self._object = None
        self.tier, self.attached = Tier.NONE, frozenset()
