"""Flags: what several `source` commands take, and how a cluster is named on a command line.

Used by every module of this package. Nothing here needs an import of weight.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from cloudtaser.cli.manual import manual
from cloudtaser.errors import UsageError

EXAMPLE: Final = "0ad50c05-1153-4508-9237-4cb2912e2c23"
SHORT_HASH: Final = 12  # hex digits, as people compare them

FingerprintFlag = Annotated[
    str, typer.Option("--fingerprint", help="The cluster's fingerprint: the UID of namespace kube-system.")
]
HiddenFingerprint = Annotated[str, typer.Option("--fingerprint", hidden=True)]
Fingerprint = Annotated[
    str, typer.Argument(help="The cluster's fingerprint.", metavar="FINGERPRINT", show_default=False)
]
HiddenArgument = Annotated[str, typer.Argument(metavar="FINGERPRINT", hidden=True)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]


def example(*lines: str, differs: str = "") -> str:
    """The end of a command's help; `differs` says when it ends with exit code 3."""
    return manual(*(f"source {line}" for line in lines), differs=differs)


def the_fingerprint(argument: str, flag: str) -> str:
    """The fingerprint, given as an argument or as a flag; UsageError without one, or with two."""
    if argument and flag and argument != flag:
        raise UsageError("two fingerprints are given", on=f"{argument}, {flag}", fix="give one")
    if not argument and not flag:
        raise UsageError(
            "no fingerprint is given",
            fix="`kubectl get namespace kube-system -o jsonpath={.metadata.uid}` shows a cluster's",
        )
    return argument or flag
