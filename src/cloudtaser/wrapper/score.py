"""The protection score: what keeps others from a secret of this process, as points (spec/wrapper.md).

Pure. `measure` and `outside` look at a process and the machine and say what they found, `scoreboard` and
`scoring` show the result. A check is passed, failed with the reason, or skipped because it could not be
looked at here; only what was measured and found good has points.
"""

POINTS = {
    "memfd_secret": 15,
    "mlock": 10,
    "core_dump_exclusion": 5,
    "dumpable_disabled": 5,
    "guard_pages": 5,
    "buffer_canary": 5,
    "token_protected": 10,
    "environ_scrubbed": 5,
    "getenv_interposer": 10,
    "ebpf_agent_connected": 10,
    "cpu_mitigations": 5,
    "ebpf_enforce_mode": 15,
    "ebpf_lsm_enforce": 15,
    "ebpf_kprobes": 10,
    "confidential_vm": 10,
}
MAXIMUM = sum(POINTS.values())
BANDS = ((115, "full"), (90, "strong"), (65, "partial"), (0, "insufficient"))

PASS, FAIL, SKIP = "pass", "fail", "skip"
_MAX_REASON = 110  # letters: the whole goes to the agent in one frame

Verdicts = dict[str, tuple[str, str]]
"""Of each check its state and, where it is not passed, the reason."""


class Score:
    """The verdicts on every check. `by` says who measured: the process itself, or somebody from outside."""

    __slots__ = ("by", "verdicts")

    def __init__(self, verdicts: Verdicts, by: str) -> None:
        self.by = by
        self.verdicts = {name: verdicts.get(name, (SKIP, "not looked at")) for name in POINTS}

    @property
    def points(self) -> int:
        """The sum of what is passed."""
        return sum(POINTS[name] for name, (state, _) in self.verdicts.items() if state == PASS)

    @property
    def band(self) -> str:
        """full, strong, partial or insufficient."""
        return next(name for least, name in BANDS if self.points >= least)

    def missing(self) -> list[str]:
        """What costs points, each in one line."""
        return [f"{name} {state}: {why}" for name, (state, why) in self.verdicts.items() if state != PASS]

    def document(self) -> bytes:
        """All of it as one JSON object in ASCII."""
        checks = ",".join(
            f'{{"name":"{name}","points":{POINTS[name] if state == PASS else 0},"of":{POINTS[name]},'
            f'"state":"{state}"' + (f',"reason":"{_plain(why)}"' if state != PASS else "") + "}"
            for name, (state, why) in self.verdicts.items()
        )
        head = f'"score":{self.points},"max":{MAXIMUM},"band":"{self.band}","measured":"{self.by}"'
        return f'{{{head},"checks":[{checks}]}}'.encode()


def _plain(text: str) -> str:
    """A reason in printable ASCII without what JSON would have to escape."""
    text = text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 3] + "..."
    return "".join(letter if " " <= letter <= "~" and letter not in '"\\' else "?" for letter in text)


def passed(is_good: bool, why: str) -> tuple[str, str]:
    """Passed, or failed and why."""
    return (PASS, "") if is_good else (FAIL, why)


def of_memory(found: dict[str, int] | None) -> Verdicts:
    """From what the C extension reports of the pages that secrets lie in; None where there is none."""
    names = (
        "memfd_secret",
        "mlock",
        "core_dump_exclusion",
        "guard_pages",
        "buffer_canary",
        "dumpable_disabled",
    )
    if found is None:
        return dict.fromkeys(names, (FAIL, "this installation of the wrapper has no C extension"))
    size = found["secret"] + found["locked"] + found["plain"]
    if not size:
        return dict.fromkeys(names[:5], (FAIL, "no secret memory is in use")) | _dumpable(found)
    other, locked, shown = size - found["secret"], found["plain"], size - found["left_out"]
    return {
        "memfd_secret": passed(not other, f"{other} of {size} bytes are in other memory"),
        "mlock": passed(not locked, f"{locked} of {size} bytes may be swapped out; see RLIMIT_MEMLOCK"),
        "core_dump_exclusion": passed(not shown, f"{shown} of {size} bytes would be in a core dump"),
        "guard_pages": passed(
            found["guarded"] == found["chunks"],
            f"{found['chunks'] - found['guarded']} of {found['chunks']} areas lack a guard page",
        ),
        "buffer_canary": passed(
            0 < found["blocks"] == found["intact"],
            f"{found['blocks'] - found['intact']} of {found['blocks']} canaries are broken",
        ),
    } | _dumpable(found)


def _dumpable(found: dict[str, int]) -> Verdicts:
    return {
        "dumpable_disabled": passed(found["dumpable"] == 0, "its own user may trace it and dump its core")
    }


def of_agent(mode: str, tier: str) -> Verdicts:
    """From the agent's answer; `mode` is empty where nobody protects the process.

    A tier refuses as early as the ones below it: lsm and fmod_ret in the kernel's own hooks, kprobe before
    the call begins; kill comes after the fact.
    """
    enforces = mode == "enforce"
    why = "no agent protects this process" if not mode else f"the agent's mode is {mode}"
    if enforces:
        why = f"the agent's tier is {tier}"
    return {
        "ebpf_agent_connected": passed(bool(mode), why),
        "ebpf_enforce_mode": passed(enforces, why),
        "ebpf_lsm_enforce": passed(enforces and tier == "lsm", why),
        "ebpf_kprobes": passed(enforces and tier in ("lsm", "fmod_ret", "kprobe"), why),
    }


def of_cpu(files: dict[str, str] | None) -> tuple[str, str]:
    """From /sys/devices/system/cpu/vulnerabilities: each file's text; None where it cannot be read."""
    if not files:
        return SKIP, "/sys/devices/system/cpu/vulnerabilities cannot be read"
    bad = sorted(name for name, text in files.items() if not text.startswith(("Not affected", "Mitigation")))
    return passed(not bad, f"no mitigation of {', '.join(bad)}")


def of_confidential(found: str | None) -> tuple[str, str]:
    """From what the CPU says of the machine: the technology, "" for none, None where nothing can be seen."""
    if found is None:
        return SKIP, "neither CPUID nor /sys can be read"
    return passed(bool(found), "neither AMD SEV-SNP nor Intel TDX is seen")
