"""Diagnosis: what the server's few words mean for the person who has to mend it.

OpenBao says "permission denied", and no more. `session` asks here once when a path cannot be read; the
server is asked what the token may do and what lies at the path, and one line comes out: what failed, on what,
what to do. Whatever cannot be found out is left out; nothing here fails.
"""

from cloudtaser.wrapper import jsontext
from cloudtaser.wrapper.body import json_object
from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.client import Answer, Client
from cloudtaser.wrapper.envmap import SecretPath
from cloudtaser.wrapper.errors import WrapperError

_MOST_POLICIES = 8
_CLOCKS = ("not yet valid", "issued in the future", "used before issued")
_BEFORE_THE_ANSWER = "cloudtaser-cli source allow"  # the bridge has said it already


class Finding:
    """What is wrong, and the fix; both phrases without a final stop."""

    __slots__ = ("fix", "what")

    def __init__(self, what: str, fix: str = "") -> None:
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}" if self.fix else self.what


async def refused(client: Client, path: SecretPath, answer: Answer) -> Finding:
    """Why a path may not be read: the policies of the token, and the capability that they do not give."""
    wanted = "update" if path.parameters else "read"
    problem = answer.problem()
    policies = await _policies(client)
    granted = await _capabilities(client, path.path)
    what = f"{problem}: capability {wanted} is missing"
    if granted and granted != ["deny"]:
        what += f", there is only {', '.join(granted)}"
    if policies:
        shown = ", ".join(policies[:_MOST_POLICIES])
        what += f"; the token's policies are {shown}{', …' if len(policies) > _MOST_POLICIES else ''}"
    if _BEFORE_THE_ANSWER in problem:
        return Finding(what)
    if wanted in granted:  # the policy is right by now, or the server refuses for another reason
        return Finding(f"{problem}, although the token's policies give {wanted}")
    return Finding(what, f'one of them needs path "{path.path}" {{ capabilities = ["{wanted}"] }}')


async def missing(client: Client, path: SecretPath, answer: Answer) -> Finding:
    """Why nothing is at a path: another version of the KV engine, an engine that is written, or nothing."""
    said = answer.message()
    if answer.status == 405 or "unsupported operation" in said:
        how = "read" if path.parameters else "written, with parameters"
        example = path.path if path.parameters else f"{path.path}?name=value"
        return Finding(said or "it cannot be read", f"such a path is {how}: {example}")
    mount, kind, version = await _mount(client, path.path)
    below = path.path.removeprefix(mount)
    if kind == "kv" and version != "2" and below.startswith("data/"):
        fix = f"ask for {mount}{below.removeprefix('data/')}"
        return Finding(f"{mount} is a KV version 1 mount, which has no data/", fix)
    if kind == "kv" and version == "2" and not below.startswith("data/"):
        return Finding(f"{mount} is a KV version 2 mount", f"ask for {mount}data/{below}")
    if path.version is not None:
        return Finding(said or f"there is no version {path.version}, or it was deleted")
    return Finding(said or "nothing is there, or its newest version was deleted")


def clock_fix(problem: str) -> str:
    """What to do about a refused login, where the clocks are the reason."""
    if any(words in problem for words in _CLOCKS):
        return "the clocks of the cluster and of OpenBao differ: set both by NTP"
    if "token is expired" in problem:
        return "the token file was not replaced in time, or the clocks of the cluster and of OpenBao differ"
    return ""


async def _policies(client: Client) -> list[str]:
    answer = await _ask(client, b"GET", "auth/token/lookup-self")
    found: list[str] = []
    for member in ("policies", "identity_policies"):
        node = answer.root.get("data", member) if answer is not None else None
        for item in node.items if node is not None and answer is not None else []:
            name = jsontext.text(answer.buffer, item) if answer is not None else ""
            if name and name not in found:
                found.append(name)
    return found


async def _capabilities(client: Client, path: str) -> list[str]:
    body = json_object([("paths", [path])])
    answer = await _ask(client, b"POST", "sys/capabilities-self", body)
    node = answer.root.get("data", path) if answer is not None else None
    if node is None or answer is None:
        return []
    return [jsontext.text(answer.buffer, item) for item in node.items]


async def _mount(client: Client, path: str) -> tuple[str, str, str]:
    """The mount under a path, its type, and its version where it has one; empty where that is not told."""
    answer = await _ask(client, b"GET", f"sys/internal/ui/mounts/{path}")
    if answer is None:
        return "", "", ""
    data = answer.root.get("data")
    if data is None:
        return "", "", ""
    mount, kind = (jsontext.text(answer.buffer, data.get(name)) for name in ("path", "type"))
    return mount, kind, jsontext.text(answer.buffer, data.get("options", "version"))


async def _ask(client: Client, method: bytes, path: str, body: Buffer | None = None) -> Answer | None:
    try:
        answer = await client.call(method, path, body)
    except WrapperError:
        return None
    return answer if answer.status == 200 else None
