"""Why a pod gets no wrapper.

Raised within the webhook and turned into an answer by `service`: a refusal where the namespace is
fail-closed, else a warning and an event. `reason` is what metrics count by.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.annotations import MAX_PROBLEMS, Problem


class NotInjectedError(CloudtaserError):
    """This pod cannot get the wrapper; `reason` is one word for metrics and events."""

    def __init__(self, reason: str, what: str, *, on: str = "", fix: str = "") -> None:
        super().__init__(what, on=on, fix=fix)
        self.reason = reason


class BadRequestError(NotInjectedError):
    """What the pod asks for could never work, whoever is asked and however often."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__("annotations", first.what, on=first.on, fix=first.fix)
        self.problems = tuple(problems[:MAX_PROBLEMS])
        self.left = len(problems) - len(self.problems)

    def diagnostic(self) -> str:
        """All of them, in one line; of very many the first, and how many more there are."""
        more = [f"And {self.left} more"] if self.left else []
        return ". ".join([*map(str, self.problems), *more])


class UnreadableReviewError(CloudtaserError):
    """What came is no AdmissionReview that we can answer."""
