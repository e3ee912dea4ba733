"""Measuring another wrapper from outside, by what the kernel shows of it.

`scoring` does it for `score --pid` where the wrapper itself does not answer: it is in another container, or
stuck. A wrapper's /proc is root's, because it is not dumpable: whoever is not root sees little, and is told.
"""

import posix

from cloudtaser.wrapper.measure import INTERPOSER, of_machine, read_environment, read_text
from cloudtaser.wrapper.score import FAIL, PASS, SKIP, Score, Verdicts, passed

_INSIDE = "only the wrapper itself knows; it did not answer"


class Mapping:
    """One mapping of a process: addresses, permissions, the file it is of, and the kernel's flags for it."""

    __slots__ = ("end", "flags", "path", "permissions", "start")

    def __init__(self, start: int, end: int, permissions: str, path: str) -> None:
        self.start = start
        self.end = end
        self.permissions = permissions
        self.path = path
        self.flags: tuple[str, ...] = ()


def measure_outside(pid: int) -> Score | None:
    """The score of the process, None where there is none."""
    status = read_text(f"/proc/{pid}/status")
    if status is None:
        return None
    verdicts = of_machine()
    for name in ("buffer_canary", "token_protected", "ebpf_agent_connected", "ebpf_enforce_mode"):
        verdicts[name] = SKIP, _INSIDE
    for name in ("ebpf_lsm_enforce", "ebpf_kprobes"):
        verdicts[name] = SKIP, _INSIDE
    verdicts["dumpable_disabled"] = _dumpable(pid, status)
    verdicts |= of_mappings(read_mappings(read_text(f"/proc/{pid}/smaps")), _owner(pid))
    verdicts["environ_scrubbed"] = _environment(pid)
    verdicts["getenv_interposer"] = _interposer(pid)
    return Score(verdicts, "from outside")


def read_mappings(smaps: str | None) -> list[Mapping]:
    """The mappings of /proc/PID/smaps, by address."""
    found: list[Mapping] = []
    for line in (smaps or "").splitlines():
        first, _, rest = line.partition(" ")
        start, dash, end = first.partition("-")
        if dash and not line.startswith(" ") and _is_hex(start) and _is_hex(end):
            fields = rest.split(None, 4)
            path = fields[4] if len(fields) > 4 else ""
            found.append(Mapping(int(start, 16), int(end, 16), fields[0] if fields else "", path))
        elif first == "VmFlags:" and found:
            found[-1].flags = tuple(rest.split())
    return found


def of_mappings(mappings: list[Mapping], owner: str) -> Verdicts:
    """From all mappings of a wrapper: those of secret memory stand between inaccessible pages."""
    names = ("memfd_secret", "mlock", "core_dump_exclusion", "guard_pages")
    if not mappings:
        return dict.fromkeys(names, (SKIP, f"its smaps cannot be read: they are {owner}'s; try as root"))
    secret = [index for index, mapping in enumerate(mappings) if "/secretmem" in mapping.path]
    locked = [
        index
        for index, mapping in enumerate(mappings)
        if "lo" in mapping.flags and not mapping.path and _is_guarded(mappings, index)
    ]
    ours = [mappings[index] for index in secret + locked]
    if not ours:
        return dict.fromkeys(
            names, (FAIL, "it has neither memfd_secret nor locked memory between guard pages")
        )
    unguarded = [index for index in secret if not _is_guarded(mappings, index)]
    return {
        "memfd_secret": passed(bool(secret) and not locked, f"{len(locked)} areas are merely locked"),
        "mlock": passed(all("lo" in mapping.flags for mapping in ours), "an area is not locked"),
        "core_dump_exclusion": passed(
            all("dd" in mapping.flags for mapping in ours), "an area would be in a core dump"
        ),
        "guard_pages": passed(not unguarded, f"{len(unguarded)} areas lack a guard page"),
    }


def _is_guarded(mappings: list[Mapping], index: int) -> bool:
    here = mappings[index]
    before = mappings[index - 1] if index else None
    after = mappings[index + 1] if index + 1 < len(mappings) else None
    return (
        before is not None
        and after is not None
        and (before.end, after.start) == (here.start, here.end)
        and before.permissions.startswith("---")
        and after.permissions.startswith("---")
    )


def _dumpable(pid: int, status: str) -> tuple[str, str]:
    """The kernel gives a process's /proc to root where it is not dumpable."""
    user = -1
    for line in status.splitlines():
        if line.startswith("Uid:"):
            user = int(line.split()[2])
    try:
        owner = posix.stat(f"/proc/{pid}/environ").st_uid
    except OSError:
        return SKIP, "its /proc cannot be looked at"
    if user == 0:
        return SKIP, "of a process of root it cannot be told from outside"
    return passed(owner != user, "its own user may trace it and dump its core")


def _environment(pid: int) -> tuple[str, str]:
    environ = read_environment(pid)
    if environ is None:
        return SKIP, f"its environ cannot be read: it is {_owner(pid)}'s; try as root"
    for needle in (b"\0VAULT_TOKEN=", b"VAULT_TOKEN="):
        at = environ.find(needle, 0, len(environ))
        after = at + len(needle)
        if at >= 0 and (at == 0 or needle[:1] == b"\0") and after < len(environ) and environ[after]:
            return FAIL, "VAULT_TOKEN stands in the environment that it was started with"
    return PASS, ""


def _interposer(pid: int) -> tuple[str, str]:
    children = (read_text(f"/proc/{pid}/task/{pid}/children") or "").split()
    maps = [read_text(f"/proc/{child}/maps") for child in children]
    readable = [text for text in maps if text]
    if not readable:
        return SKIP, "its application cannot be looked at"
    return passed(any(INTERPOSER in text for text in readable), "its applications are without the interposer")


def _owner(pid: int) -> str:
    try:
        user = posix.stat(f"/proc/{pid}/environ").st_uid
    except OSError:
        return "another user"
    return "root" if user == 0 else f"user {user}"


def _is_hex(text: str) -> bool:
    return 0 < len(text) <= 16 and all(letter in "0123456789abcdef" for letter in text)
