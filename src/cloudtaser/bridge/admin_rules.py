"""Admin rules: what an administrator's own OpenBao token reaches beyond a pod's list.

Used by `gate` for streams of kind `admin`. The built-in rules show how a space is set up (policies, mounts,
login methods and their roles) and change nothing; `--admin-allow` adds to them, within `auth/`, `identity/`
and a few calls of `sys/`. Whatever is let through, the token's own policies decide. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cloudtaser.errors import ConfigError

MAX_RULES: Final = 64
_READS: Final = frozenset({b"GET", b"LIST", b"SCAN"})
_RULE: Final = re.compile(r"([A-Za-z0-9_-]+(?:/[A-Za-z0-9_.-]+)*)(/\*)?(:write)?", re.ASCII)
# what `--admin-allow` may name; the rest of sys/ is for administrators beside OpenBao
_CONFIGURABLE: Final = (
    "auth",
    "identity",
    "sys/auth",
    "sys/capabilities",
    "sys/leases",
    "sys/mounts",
    "sys/policies",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One path, or all below it; reads alone, or writes too."""

    path: str
    below: bool
    writes: bool

    def lets(self, method: bytes, path: str) -> bool:
        """Whether a request of `method` on `path` (decoded, below /v1/) may pass."""
        if not self.writes and method not in _READS:
            return False
        return path.startswith(f"{self.path}/") if self.below else path == self.path


@dataclass(frozen=True, slots=True)
class AdminRules:
    """Default deny: a path that no rule names is refused."""

    rules: tuple[Rule, ...]

    def lets(self, method: bytes, path: str) -> bool:
        """Whether one of them lets a request through."""
        return any(rule.lets(method, path) for rule in self.rules)

    @classmethod
    def parse(cls, text: str) -> AdminRules:
        """The built-in rules and those in `text`: `sys/leases/lookup/*,auth/userpass/login/*:write`.
        ConfigError names the one that cannot be."""
        added = [_parse(part.strip()) for part in text.split(",") if part.strip()]
        if len(added) > MAX_RULES:
            raise ConfigError(f"more than {MAX_RULES} paths", fix="use /* for all paths below one")
        return cls((*BUILT_IN, *added))


def _parse(text: str) -> Rule:
    match = _RULE.fullmatch(text)
    if match is None or any(part in (".", "..") for part in text.split("/")):
        raise ConfigError(
            f"{text[:80]!r} is no path to let through", fix="as sys/leases/lookup/* or auth/x/login/*:write"
        )
    path = match[1]
    if not any(path == head or path.startswith(f"{head}/") for head in _CONFIGURABLE):
        raise ConfigError(
            f"{path[:80]!r} cannot be let through", fix=f"paths may begin with {', '.join(_CONFIGURABLE)}"
        )
    return Rule(path, match[2] is not None, match[3] is not None)


BUILT_IN: Final = tuple(
    Rule(path, below, False)
    for path, below in (
        ("sys/mounts", False),
        ("sys/mounts", True),
        ("sys/auth", False),
        ("sys/auth", True),
        ("sys/policies/acl", False),
        ("sys/policies/acl", True),
        ("auth/jwt/role", False),
        ("auth/jwt/role", True),
    )
)
DEFAULT: Final = AdminRules(BUILT_IN)
NOTHING: Final = AdminRules(())
