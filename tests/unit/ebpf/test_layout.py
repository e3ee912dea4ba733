"""Both sides of what the kernel and the agent share are the same, by the object's own types."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.ebpf import layout
from cloudtaser.ebpf.guard import OBJECT

_STRUCT, _ENUM = 4, 6
_EXTRA = {1: 4, 3: 12, 14: 4, 17: 4}  # INT, ARRAY, VAR, DECL_TAG: bytes after the header
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}  # STRUCT, UNION, ENUM, FUNC_PROTO, DATASEC, ENUM64


def section(data: bytes, wanted: str) -> bytes:
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + n * size) for n in range(count)]
    table = headers[names]
    for header in headers:
        start = table[4] + header[0]
        if data[start : data.index(b"\0", start)].decode() == wanted:
            return data[header[4] : header[4] + header[5]]
    raise AssertionError(wanted)


def types(btf: bytes) -> tuple[dict[str, tuple[int, list[tuple[str, int]]]], dict[str, int]]:
    """Structures as size and (member, offset in bytes); enumerators as values."""
    header, type_offset, type_length, string_offset, _ = struct.unpack_from("<IIIII", btf, 4)
    strings = btf[header + string_offset :]
    at, end = header + type_offset, header + type_offset + type_length

    def name(offset: int) -> str:
        return strings[offset : strings.index(b"\0", offset)].decode()

    structures: dict[str, tuple[int, list[tuple[str, int]]]] = {}
    enumerators: dict[str, int] = {}
    while at < end:
        name_offset, info, size = struct.unpack_from("<III", btf, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        at += 12
        if kind == _STRUCT:
            members = [struct.unpack_from("<III", btf, at + n * 12) for n in range(count)]
            structures[name(name_offset)] = size, [(name(m[0]), (m[2] & 0xFFFFFF) // 8) for m in members]
        if kind == _ENUM:
            for n in range(count):
                enumerator, value = struct.unpack_from("<Ii", btf, at + n * 8)
                enumerators[name(enumerator)] = value
        at += _EXTRA.get(kind, 0) + _EACH.get(kind, 0) * count
    return structures, enumerators


@pytest.fixture(scope="module")
def btf() -> Any:
    return types(section(Path(OBJECT).read_bytes(), ".BTF"))


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("guard", layout.GUARD),
        ("config", layout.CONFIG),
        ("request", layout.REQUEST),
        ("found", layout.FOUND),
        ("handle", layout.HANDLE),
        ("identity", layout.IDENTITY),
        ("event", layout.EVENT),
        ("inode_key", layout.INODE_KEY),
        ("trusted", layout.TRUSTED),
    ],
)
def test_a_structure_has_the_same_members_on_both_sides(btf: Any, name: str, packed: struct.Struct) -> None:
    size, members = btf[0][name]
    assert packed.size == size
    offsets, at = [], 0
    for part in packed.format.lstrip("<").replace("16s", "S").replace("32s", "L"):
        offsets.append(at)
        at += {"Q": 8, "I": 4, "i": 4, "S": 16, "L": 32}[part]
    assert offsets == [offset for _, offset in members]


def test_the_configuration_has_the_kernels_names(btf: Any) -> None:
    assert [member for member, _ in btf[0]["config"][1]] == list(layout.Config.__dataclass_fields__)


def test_enumerations_have_the_same_values(btf: Any) -> None:
    enumerators = btf[1]
    for verdict in layout.Verdict:
        assert enumerators[verdict.name] == verdict
    assert enumerators["MODE_DETECT"] == layout.Mode.DETECT
    assert enumerators["MODE_ENFORCE"] == layout.Mode.ENFORCE
    for prefix in ("SCOPE_", "TRUST_", "ACTION_"):
        theirs = {name: value for name, value in enumerators.items() if name.startswith(prefix)}
        assert theirs == {name: getattr(layout, name) for name in theirs}
        assert len(theirs) == 3
    assert [enumerators[name] for name in ("TRACED", "SUPERVISED", "NO_ROOM")] == [1, 2, 4]
    assert (layout.TRACED, layout.SUPERVISED, layout.NO_ROOM) == (1, 2, 4)
    assert [enumerators[f"C_{name.upper()}"] for name in layout.COUNTERS] == list(range(len(layout.COUNTERS)))


def test_a_record_is_read_as_it_was_written() -> None:
    texts = (b"head", b"app\0zz", b"head", b"environ")
    event = layout.RawEvent.parse(layout.EVENT.pack(5, 6, 1, 1, -1, 10, 11, 0, 20, 3, 9, *texts))
    assert (event.verdict, event.syscall, event.target_comm, event.name) == (
        layout.Verdict.DENIED,
        -1,
        "app",
        "environ",
    )
