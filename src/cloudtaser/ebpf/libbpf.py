"""libbpf: a thin binding to libbpf.so.1 by ctypes; used by `guard`, which loads and attaches, and by `probe`.

Only what these need: objects, programs, links, maps, pins, iterators. Errors are `BpfError`, an `OSError`
whose text says what failed on what. libbpf 1.1 (Debian 12) or newer. The ring buffer is read without it, in
`ring`.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

LIBRARY: Final = "libbpf.so.1"
_KIND_FUNC: Final = 12  # BTF_KIND_FUNC
_LOG_LIMIT: Final = 64 * 1024

_pointer, _int, _string = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
_size, _u32, _u64 = ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint64
_printer = ctypes.CFUNCTYPE(_int, _int, _string, _pointer)

_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "libbpf_set_print": (_pointer, _printer),
    "bpf_object__open_file": (_pointer, _string, _pointer),
    "bpf_object__load": (_int, _pointer),
    "bpf_object__close": (None, _pointer),
    "bpf_object__next_program": (_pointer, _pointer, _pointer),
    "bpf_object__next_map": (_pointer, _pointer, _pointer),
    "bpf_program__name": (_string, _pointer),
    "bpf_program__section_name": (_string, _pointer),
    "bpf_program__set_autoload": (_int, _pointer, ctypes.c_bool),
    "bpf_program__attach": (_pointer, _pointer),
    "bpf_program__attach_iter": (_pointer, _pointer, _pointer),
    "bpf_program__fd": (_int, _pointer),
    "bpf_map__name": (_string, _pointer),
    "bpf_map__fd": (_int, _pointer),
    "bpf_map__key_size": (_u32, _pointer),
    "bpf_map__value_size": (_u32, _pointer),
    "bpf_map__max_entries": (_u32, _pointer),
    "bpf_map__set_pin_path": (_int, _pointer, _string),
    "bpf_map__initial_value": (_pointer, _pointer, ctypes.POINTER(_size)),
    "bpf_map_update_elem": (_int, _int, _pointer, _pointer, _u64),
    "bpf_map_lookup_elem": (_int, _int, _pointer, _pointer),
    "bpf_map_delete_elem": (_int, _int, _pointer),
    "bpf_map_get_next_key": (_int, _int, _pointer, _pointer),
    "bpf_link__destroy": (_int, _pointer),
    "bpf_link__disconnect": (None, _pointer),
    "bpf_link__pin": (_int, _pointer, _string),
    "bpf_link__fd": (_int, _pointer),
    "bpf_iter_create": (_int, _int),
    "bpf_obj_get": (_int, _string),
    "bpf_obj_get_info_by_fd": (_int, _int, _pointer, ctypes.POINTER(_u32)),
    "btf__load_vmlinux_btf": (_pointer,),
    "btf__find_by_name_kind": (ctypes.c_int32, _pointer, _string, _u32),
    "btf__free": (None, _pointer),
}


class BpfError(OSError):
    """The kernel, or libbpf, refused; `log` has what libbpf said about it."""

    def __init__(self, number: int, what: str, log: str = "") -> None:
        super().__init__(number, f"{what}: {os.strerror(number)}")
        self.log = log


class Library:
    """libbpf.so.1 with its functions' types, and what it printed last."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError as error:
            raise BpfError(2, f"{LIBRARY} cannot be loaded (Debian: apt-get install libbpf1)") from error
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._format = ctypes.CDLL(None).vsnprintf
        self._format.argtypes = [_pointer, _size, _string, _pointer]
        self.log = ""
        self._keep = _printer(self._print)  # ctypes does not keep it alive
        self._library.libbpf_set_print(self._keep)

    def _print(self, level: int, format_: bytes, arguments: int) -> int:
        if level > 1:  # LIBBPF_DEBUG
            return 0
        text = ctypes.create_string_buffer(_LOG_LIMIT)
        self._format(text, len(text), format_, arguments)
        self.log = (self.log + text.value.decode(errors="replace"))[-_LOG_LIMIT:]
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def check(self, result: int, what: str) -> int:
        """`result` when it is no error."""
        if result < 0:
            raise BpfError(-result if result > -4096 else ctypes.get_errno(), what, self.log)
        return result

    def pointer(self, result: int | None, what: str) -> int:
        """`result` when it is no null pointer."""
        if not result:
            raise BpfError(ctypes.get_errno() or 22, what, self.log)
        return result


@cache
def library() -> Library:
    """The library, loaded at the first use."""
    return Library()


class Map:
    """A map of the kernel, by descriptor; keys and values are bytes."""

    def __init__(self, fd: int, name: str, key_size: int, value_size: int, entries: int) -> None:
        self.fd, self.name = fd, name
        self.key_size, self.value_size, self.entries = key_size, value_size, entries

    def put(self, key: bytes, value: bytes) -> None:
        """Set one entry; raises `BpfError`, E2BIG when the map is full."""
        assert len(key) == self.key_size, (self.name, len(key))
        assert len(value) == self.value_size, (self.name, len(value))
        library().check(library().bpf_map_update_elem(self.fd, key, value, 0), f"map {self.name}: update")

    def get(self, key: bytes) -> bytes | None:
        """One entry, or None."""
        value = ctypes.create_string_buffer(self.value_size)
        return value.raw if library().bpf_map_lookup_elem(self.fd, key, value) == 0 else None

    def remove(self, key: bytes) -> bool:
        """Whether there was such an entry, which is gone now."""
        return bool(library().bpf_map_delete_elem(self.fd, key) == 0)

    def keys(self) -> Iterator[bytes]:
        """All keys; entries may come and go meanwhile, so no more than the map can hold are given."""
        key: bytes | None = None
        for _ in range(self.entries):
            after = ctypes.create_string_buffer(self.key_size)
            if library().bpf_map_get_next_key(self.fd, key, after) != 0:
                return
            key = after.raw
            yield key


class Object:
    """A compiled object file: opened, then loaded with the chosen programs, then attached program by
    program.
    """

    def __init__(self, path: str) -> None:
        self._library = library()
        self._library.log = ""
        handle = self._library.bpf_object__open_file(os.fsencode(path), None)
        self._handle: int | None = self._library.pointer(handle, f"{path}: open")
        self.sections: dict[str, str] = {}
        self._programs: dict[str, int] = {}
        self._maps: dict[str, int] = {}
        self._links: dict[str, int] = {}
        self._walk("bpf_object__next_program", self._add_program)
        self._walk("bpf_object__next_map", self._add_map)

    def _walk(self, function: str, add: Callable[[int], None]) -> None:
        item = getattr(self._library, function)(self._handle, None)
        while item:
            add(item)
            item = getattr(self._library, function)(self._handle, item)

    def _add_program(self, program: int) -> None:
        name = self._library.bpf_program__name(program).decode()
        self._programs[name] = program
        self.sections[name] = self._library.bpf_program__section_name(program).decode().lstrip("?")

    def _add_map(self, map_: int) -> None:
        self._maps[self._library.bpf_map__name(map_).decode()] = map_

    def choose(self, names: frozenset[str]) -> None:
        """Load exactly these programs."""
        for name, program in self._programs.items():
            self._library.bpf_program__set_autoload(program, name in names)

    def initialise(self, name: str, value: bytes) -> None:
        """The contents of a constant section, before the load."""
        size = _size()
        place = self._library.bpf_map__initial_value(self._maps[name], ctypes.byref(size))
        if not place or len(value) > size.value:
            raise BpfError(22, f"section {name}: initial value of {len(value)} bytes")
        ctypes.memmove(place, value, len(value))

    def pin_map(self, name: str, path: str) -> None:
        """At the load, take the map that is pinned there, or make it and pin it there."""
        result = self._library.bpf_map__set_pin_path(self._maps[name], os.fsencode(path))
        self._library.check(result, f"map {name}: pin path")

    def load(self) -> None:
        """Load the chosen programs, all or none; raises `BpfError` with libbpf's log."""
        self._library.log = ""
        self._library.check(self._library.bpf_object__load(self._handle), "load")

    def map(self, name: str) -> Map:
        """A map of the loaded object."""
        map_, api = self._maps[name], self._library
        sizes = (api.bpf_map__key_size(map_), api.bpf_map__value_size(map_), api.bpf_map__max_entries(map_))
        return Map(api.bpf_map__fd(map_), name, *sizes)

    @property
    def map_names(self) -> tuple[str, ...]:
        """All maps, sections of constants included."""
        return tuple(self._maps)

    def attach(self, name: str) -> None:
        """Attach one program; it stays attached until `close`, or while its link is pinned."""
        self._library.log = ""
        link = self._library.bpf_program__attach(self._programs[name])
        self._links[name] = self._library.pointer(link, f"program {name}: attach")

    def pin_link(self, name: str, path: str) -> None:
        """Keep the attachment under this path of a bpf file system."""
        self._library.check(
            self._library.bpf_link__pin(self._links[name], os.fsencode(path)), f"link {name}: pin"
        )

    def program_fd(self, name: str) -> int:
        """The descriptor of a loaded program."""
        return self._library.check(self._library.bpf_program__fd(self._programs[name]), f"program {name}")

    def link_fd(self, name: str) -> int:
        """The descriptor of an attachment."""
        return self._library.check(self._library.bpf_link__fd(self._links[name]), f"link {name}")

    def iterate(self, name: str, *, pid_fd: int = 0, limit: int = 1 << 20) -> bytes:
        """What an iterator program writes, for one process (by `pid_fd`) or all; `limit` bytes at most."""
        # union bpf_iter_link_info with task.{tid, pid, pid_fd}; struct bpf_iter_attach_opts
        info = ctypes.create_string_buffer(struct.pack("<III4x", 0, 0, pid_fd), 16)
        options = ctypes.create_string_buffer(24)
        struct.pack_into("<QQI4x", options, 0, 24, ctypes.addressof(info), 16)
        wanted = ctypes.addressof(options) if pid_fd else None
        link = self._library.bpf_program__attach_iter(self._programs[name], wanted)
        self._library.pointer(link, f"iterator {name}: attach")
        try:
            fd = self._library.bpf_iter_create(self._library.bpf_link__fd(link))
            self._library.check(fd, f"iterator {name}: create")
            with os.fdopen(fd, "rb", buffering=0) as stream:
                parts: list[bytes] = []
                while limit > 0 and (part := stream.read(min(limit, 65536))):
                    parts.append(part)
                    limit -= len(part)
                return b"".join(parts)
        finally:
            self._library.bpf_link__destroy(link)

    def close(self) -> None:
        """Detach what is not pinned, and let go."""
        for link in self._links.values():
            self._library.bpf_link__destroy(link)
        self._links.clear()
        if self._handle is not None:
            self._library.bpf_object__close(self._handle)
            self._handle = None


def object_id(fd: int) -> int:
    """The id of a map, program or link: the second word of each kind's info (for links too)."""
    info = ctypes.create_string_buffer(256)
    size = _u32(len(info))
    library().check(library().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(size)), "object info")
    return int(struct.unpack_from("<II", info)[1])


def open_pinned(path: str) -> int:
    """A descriptor of the object pinned at `path`."""
    return library().check(library().bpf_obj_get(os.fsencode(path)), path)


def open_pinned_map(path: str, name: str, key_size: int, value_size: int, entries: int) -> Map:
    """The map that is pinned at `path`."""
    return Map(open_pinned(path), name, key_size, value_size, entries)


def functions_of_kernel(names: frozenset[str]) -> frozenset[str]:
    """Those of `names` that this kernel's BTF has as functions; none where it has no BTF."""
    api = library()
    api.log = ""
    btf = api.btf__load_vmlinux_btf()
    if not btf:
        return frozenset()
    try:
        return frozenset(n for n in names if api.btf__find_by_name_kind(btf, n.encode(), _KIND_FUNC) > 0)
    finally:
        api.btf__free(btf)
