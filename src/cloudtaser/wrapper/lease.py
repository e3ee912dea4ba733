"""Leases: when something that runs out must be renewed, and when renewing no longer helps.

Pure; `session` keeps one for its token and one for each secret of a dynamic engine.
"""

_RENEW_AT = 2 / 3
_WORTH_RENEWING = 1 / 3
_WORTH_KEEPING = 1 / 10


class Lease:
    """A lifetime in seconds from `taken_at`. `identifier` is empty for a token, and for what expires without
    a lease.
    """

    __slots__ = (
        "_first", "_taken_at", "due", "duration", "identifier", "is_gone", "may_look_up", "renewable",
    )  # fmt: skip

    def __init__(self, identifier: str, duration: float, renewable: bool, taken_at: float) -> None:
        self.identifier = identifier
        self.renewable = renewable
        self.duration = duration
        self._first = duration
        self._taken_at = taken_at
        self.due: float | None = taken_at + duration * _RENEW_AT if duration > 0 else None
        self.is_gone = False  # the server does not know it any more
        self.may_look_up = bool(identifier)

    @property
    def expires_at(self) -> float:
        """When it is over."""
        return self._taken_at + self.duration

    def renewed(self, duration: float, now: float) -> bool:
        """It was renewed for `duration` seconds; False where so little is left that it should be replaced.

        Near the maximum lifetime a server grants less each time. What is granted is still used to two thirds.
        """
        self._taken_at = now
        self.duration = duration
        self.renewable = self.renewable and duration >= self._first * _WORTH_RENEWING
        self.due = now + duration * _RENEW_AT
        return self.renewable

    def is_worth_keeping(self, left: float) -> bool:
        """Whether `left` seconds are enough to go on trying to renew it before it is replaced."""
        return left > self.duration * _WORTH_KEEPING

    def postpone(self, until: float) -> None:
        """Not now: the next attempt is at `until`."""
        self.due = until

    def give_up(self) -> None:
        """Nothing more to be done about it."""
        self.due = None
