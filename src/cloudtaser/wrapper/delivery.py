"""Delivery: the values that were fetched, and what the application is started with.

`composing` makes the values, `supervisor` keeps them, `handover` turns them into an environment and
descriptors, and `child` starts the application with those; they stay spans all the way, so that the wrapper
itself makes no copy that it could not wipe.
"""

import posix

from cloudtaser.wrapper.buffers import Span
from cloudtaser.wrapper.config import strip
from cloudtaser.wrapper.envmap import EnvMapError

MAX_VARIABLE = 131_071  # Linux: MAX_ARG_STRLEN, one string with its final zero
MAX_FILES = 48  # each is a descriptor that the application has


class Environment:
    """What the application is started with: variables that were inherited, variables that are secret (no name
    is in both), and descriptors to leave open for it, of which `passing` are of no use to us afterwards.
    """

    __slots__ = ("descriptors", "inherited", "passing", "secrets")

    def __init__(
        self,
        inherited: dict[bytes, bytes],
        secrets: dict[bytes, Span] | None = None,
        descriptors: tuple[int, ...] = (),
    ) -> None:
        self.inherited = inherited
        self.secrets = secrets or {}
        self.descriptors = descriptors
        self.passing: tuple[int, ...] = ()

    def close(self) -> None:
        """Let go of what the application now has for itself."""
        for descriptor in self.passing:
            posix.close(descriptor)
        self.passing = ()


class Values:
    """One set of values by variable name. Two sets are equal when the application could not tell them
    apart.

    `files` are delivered as paths to read from, `replaced` whatever the container sets: it sets a reference.
    """

    __slots__ = ("files", "replaced", "spans")

    def __init__(self, spans: dict[str, Span]) -> None:
        self.spans = spans
        self.files: set[str] = set()
        self.replaced: set[str] = set()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Values):
            return NotImplemented
        return self.spans == other.spans

    __hash__ = None  # type: ignore[assignment]  # a hash would be a trace of the values

    def __repr__(self) -> str:
        return f"Values({sorted(self.spans)})"

    def environment(self, inherited: dict[bytes, bytes], *, override: bool) -> Environment:
        """The child's environment; copies no value."""
        environment = strip(inherited)
        secrets: dict[bytes, Span] = {}
        for name, span in self.spans.items():
            if override or name in self.replaced or name.encode() not in environment:
                secrets[name.encode()] = span
        return Environment({name: environment[name] for name in environment if name not in secrets}, secrets)


NOTHING = Values({})


def check(name: str, span: Span, origin: str) -> None:
    """Raises EnvMapError where no environment can carry the value. `origin` says where it comes from."""
    if span.holds(0):
        raise EnvMapError(f"{origin} holds a NUL byte, which no environment variable can")
    if len(name) + 1 + len(span) > MAX_VARIABLE:
        raise EnvMapError(
            f"{origin} has {len(span)} bytes, more than Linux allows in one environment variable"
        )
