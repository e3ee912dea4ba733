"""Aliases: older spellings of flags, accepted and shown nowhere (spec/cli.md).

Pure. Used by `app` before the command line is parsed, so that each flag has one name in every help text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ALIASES: Final = {
    "--vault-addr": "--vault-address",
    "--openbao-addr": "--vault-address",
    "--openbao-address": "--vault-address",
    "--secretstore-address": "--vault-address",
    "--token": "--vault-token",
    "--openbao-token": "--vault-token",
    "--secretstore-token": "--vault-token",
    "--token-file": "--vault-token-file",
    "--ca-cert": "--vault-ca-cert",
    "--beacon-addr": "--beacon-address",
    "--service-account": "--serviceaccount",
}


def rewrite(arguments: Sequence[str]) -> list[str]:
    """The same command line in today's spelling; what follows `--` is somebody else's and left alone."""
    rewritten: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return [*rewritten, *arguments[position:]]
        flag, equals, value = argument.partition("=")
        rewritten.append(ALIASES.get(flag, flag) + equals + value)
    return rewritten
