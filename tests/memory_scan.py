"""Searches the whole memory of a process, from outside and as root, for traces of secrets.

It reads what /proc/PID/mem gives, mapping by mapping; memfd_secret's pages answer EIO, which is the point
of them. A trace is any piece of a secret as it is, in base64 (at each of the three alignments, in both
alphabets), in hex, or as JSON writes it.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

PIECE = 24  # bytes: long enough to be nobody else's
_TOKEN = re.compile(rb"\bs\.([A-Za-z0-9]{24})\b")
_PIECES = 5  # of a long secret: its beginning, its end and places between


@dataclass(frozen=True)
class Trace:
    """Where a form of a secret was found. Shows no byte of it."""

    secret: str
    form: str
    mapping: str
    address: int
    content: bytes = field(repr=False)


def random_text(length: int) -> str:
    """Letters that occur nowhere else. In a long one every 32 begin with the same 24, so that a search for
    those finds any part of it. Not secret: a test's canary.
    """
    mark = _letters(PIECE)
    if length <= 2 * len(mark):
        return _letters(length)
    return "".join(mark + _letters(8) for _ in range(length // 32 + 1))[:length]


def _letters(count: int) -> str:
    return "".join(random.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789", k=count))


def forms(secret: str) -> dict[str, bytes]:
    """The ways in which a copy of the secret, or of a piece of it, may lie in memory, by name."""
    raw = secret.encode()
    found: dict[str, bytes] = {}
    last = max(0, len(raw) - PIECE)
    for number in range(_PIECES):
        start = last * number // (_PIECES - 1)
        piece = raw[start : start + PIECE]
        found[f"raw at {start}"] = piece
        found[f"hex at {start}"] = piece.hex().encode()
        found[f"HEX at {start}"] = piece.hex().upper().encode()
        for shift in range(3):
            for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
                found[f"{name} at {start}+{shift}"] = _inner(encode(bytes(shift) + piece), shift)
    escaped = json.dumps(secret)[1:-1].encode()
    found["json"] = escaped[-PIECE:] if len(escaped) > PIECE else escaped
    escaped = json.dumps(secret, ensure_ascii=False)[1:-1].encode()
    found["json in utf-8"] = escaped[-PIECE:] if len(escaped) > PIECE else escaped
    return {name: form for name, form in found.items() if len(form) >= 8}


def _inner(text: bytes, shift: int) -> bytes:
    """The letters that do not depend on what stands before or behind."""
    text = text.rstrip(b"=")
    return text[0 if shift == 0 else shift + 1 : len(text) - 1]


def scan(pid: int, secrets: dict[str, str]) -> list[Trace]:
    """Every trace of the secrets, given by name, in the process's memory.

    What is gone at once was on its way: OpenSSL has what it sends in clear for microseconds.
    """
    needles = {
        form: (name, how) for name, secret in secrets.items() for how, form in forms(secret).items() if form
    }
    found: list[Trace] = []
    for mapping, start, content in memory_of(pid):
        for needle, (name, how) in needles.items():
            at = content.find(needle)
            while at >= 0:
                found.append(Trace(name, how, mapping, start + at, needle))
                at = content.find(needle, at + 1)
    return [trace for trace in found if _is_there(pid, trace.address, trace.content)]


def _is_there(pid: int, address: int, content: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), len(content), address) == content
    except OSError:
        return False


def tokens_in(pid: int) -> list[str]:
    """Where something looks like a token of OpenBao's: `s.` and 24 letters of both cases and digits."""
    found: list[str] = []
    for mapping, start, content in memory_of(pid):
        for match in _TOKEN.finditer(content):
            letters = match[1].decode()
            if letters != letters.lower() and letters != letters.upper() and any(map(str.isdigit, letters)):
                found.append(f"{mapping} {start + match.start():x}")
    return found


def copies(pid: int, secret: str) -> int:
    """How often the beginning of a secret is in a process's memory."""
    needle = secret.encode()[:32]
    return sum(content.count(needle) for _, _, content in memory_of(pid))


def memory_of(pid: int) -> list[tuple[str, int, bytes]]:
    """Name, address and content of each mapping, as far as root can read it."""
    found: list[tuple[str, int, bytes]] = []
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, permissions, _, _, _, *name = line.split(maxsplit=5)
            start, end = (int(address, 16) for address in addresses.split("-"))
            if end >> 63:
                continue  # the kernel's own page, the same in every process
            label = f"{name[0] if name else 'anonymous'} {permissions}"
            content = _read(memory, start, end)
            if content:
                found.append((label, start, content))
    finally:
        os.close(memory)
    return found


def _read(memory: int, start: int, end: int) -> bytes:
    """What can be read from `start` on; nothing where the kernel refuses."""
    parts: list[bytes] = []
    while start < end:
        try:
            part = os.pread(memory, min(end - start, 1 << 24), start)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def secret_mappings(pid: int) -> list[set[str]]:
    """The kernel's flags (proc(5), VmFlags) of each of the process's memfd_secret mappings."""
    found: list[set[str]] = []
    is_secret = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        word = line.split(maxsplit=1)[0]
        if not word.endswith(":"):
            is_secret = "/secretmem" in line
        elif word == "VmFlags:" and is_secret:
            found.append(set(line.split()[1:]))
    return found
