"""Measuring: the running wrapper looks at itself, its application and the machine, for its protection score.

`fetching` asks once the application runs and whenever the agent or a person wants to know. Every answer is of
that moment: pages by /proc/self/smaps, the environment by its bytes, the agent by its connection.
"""

import posix

from cloudtaser.wrapper import extension
from cloudtaser.wrapper.agent import Registration
from cloudtaser.wrapper.buffers import Buffer, Span
from cloudtaser.wrapper.score import (
    FAIL,
    PASS,
    SKIP,
    Score,
    Verdicts,
    of_agent,
    of_confidential,
    of_cpu,
    of_memory,
    passed,
)

INTERPOSER = "libcloudtaser.so"
SHORTEST = 6  # bytes: a shorter value may stand in an environment by chance
_MAX_FILE = 4 << 20
_BLOCK = 65_536
_ENVIRONMENT_BLOCK = 8192
_VULNERABILITIES = "/sys/devices/system/cpu/vulnerabilities"
_GUESTS = (("/sys/class/misc/sev-guest", "AMD SEV-SNP"), ("/sys/class/misc/tdx_guest", "Intel TDX"))


def measure(
    registration: Registration | None, token: Span | None, values: list[Span], application: int
) -> Score:
    """This process: the token it holds, the values it delivered, and the process they went to (0: none)."""
    found = extension.native.report() if extension.PRESENT else None
    verdicts = of_memory(found)
    verdicts |= of_agent(*((registration.mode, registration.tier) if registration is not None else ("", "")))
    verdicts["token_protected"] = _token(token, found)
    verdicts["environ_scrubbed"] = _environment(values if token is None else [token, *values])
    if registration is None:
        verdicts["getenv_interposer"] = _interposer(values, application)
    else:  # the agent would kill even the wrapper for a look at the application
        verdicts["getenv_interposer"] = SKIP, "under the agent nobody may look at the application"
    verdicts |= of_machine()
    return Score(verdicts, "by itself")


def of_machine() -> Verdicts:
    """What is the same for every process here."""
    return {
        "cpu_mitigations": of_cpu(_vulnerabilities()),
        "confidential_vm": of_confidential(_confidential()),
    }


def read_text(path: str) -> str | None:
    """A file of /proc or /sys without a secret in it; None where it cannot be read."""
    parts: list[bytes] = []
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except OSError:
        return None
    try:
        while sum(map(len, parts)) < _MAX_FILE and (block := posix.read(descriptor, _BLOCK)):
            parts.append(block)
    except OSError:
        return None
    finally:
        posix.close(descriptor)
    return b"".join(parts).decode("utf-8", "replace")


def read_environment(pid: int) -> Buffer | None:
    """A process's initial environment, in secret memory; None where it cannot be read."""
    content = Buffer(_ENVIRONMENT_BLOCK, _MAX_FILE)
    try:
        descriptor = posix.open(f"/proc/{pid}/environ", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return None
    try:
        while len(content) <= _MAX_FILE - _ENVIRONMENT_BLOCK:
            with content.space(_ENVIRONMENT_BLOCK) as space:
                count = posix.readv(descriptor, [space])
            if not count:
                break
            content.advance(count)
    except OSError:
        return None
    finally:
        posix.close(descriptor)
    return content


def _token(token: Span | None, found: dict[str, int] | None) -> tuple[str, str]:
    if found is None:
        return FAIL, "this installation of the wrapper has no C extension"
    if token is None:
        return FAIL, "there is no token at this time"
    if found["plain"]:
        return FAIL, "part of the secret memory is not locked"
    with token.view() as value:
        held = extension.native.initial_environment_holds(value)
    return passed(not held, "the token stands in the environment that the wrapper was started with")


def _environment(values: list[Span]) -> tuple[str, str]:
    """Whether /proc/self/environ shows none of them."""
    if not extension.PRESENT:
        return FAIL, "this installation of the wrapper has no C extension"
    for span in values:
        if len(span) < SHORTEST:
            continue
        with span.view() as value:
            held = extension.native.initial_environment_holds(value)
        if held is None:
            return SKIP, "the initial environment cannot be found"
        if held:
            return FAIL, "a secret stands in the environment that the wrapper was started with"
    return PASS, ""


def _interposer(values: list[Span], application: int) -> tuple[str, str]:
    """Whether the application maps the interposer, and the kernel shows no value in its environment."""
    if not application:
        return FAIL, "no application runs at this time"
    maps, environ = read_text(f"/proc/{application}/maps"), read_environment(application)
    if maps is None or environ is None:
        return SKIP, "the application's maps and environ in /proc cannot be read"
    if INTERPOSER not in maps:
        return FAIL, "the application is without the interposer: its delivery is not memory"
    for span in values:
        with span.view() as value:
            held = len(value) >= SHORTEST and environ.find(value, 0, len(environ)) >= 0
        if held:
            return FAIL, "the application's environment shows a secret"
    return PASS, ""


def _vulnerabilities() -> dict[str, str] | None:
    files: dict[str, str] = {}
    try:
        names = posix.listdir(_VULNERABILITIES)
    except OSError:
        return None
    for name in names:
        files[name] = (read_text(f"{_VULNERABILITIES}/{name}") or "").strip()
    return files


def _confidential() -> str | None:
    for path, technology in _GUESTS:
        try:
            posix.stat(path)
        except OSError:
            continue
        return technology
    said: str | None = extension.native.confidential_machine() if extension.PRESENT else None
    if said is None:
        try:
            posix.stat("/sys/class/misc")
        except OSError:
            return None
        return ""
    return said
