"""Access: one API server and one identity there, wherever they were read from.

Made by `kubeconfig` for a person, and by `of_pod` for a program that has a CA file and a token file; used by
`transport`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final, Protocol

from cloudtaser.errors import ConfigError
from cloudtaser.kube.token_file import TokenFile
from cloudtaser.secret import Secret

MAX_CA_FILE: Final = 1024 * 1024


class TokenSource(Protocol):
    """Whoever has the bearer token of the moment."""

    @property
    def path(self) -> str:
        """Where it comes from, for a person who must mend it."""

    def current(self) -> Secret | None:
        """The token, None where a client certificate speaks; NotAuthorisedError when there is none."""


@dataclass(frozen=True, slots=True)
class Access:
    """`context` trusts the API server's CA and holds the client certificate, if any."""

    server: str
    context: ssl.SSLContext
    token: TokenSource
    ca_pem: str = ""
    namespace: str = "default"
    server_name: str | None = None
    proxy: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    """Impersonation, where the user asks for it."""
    described: str = ""
    """`context NAME of FILE`, for a person."""


def of_pod(url: str, ca_file: str, token_file: str) -> Access:
    """What a ServiceAccount's mounted files give. ConfigError for a CA that cannot be used."""
    try:
        with open(ca_file, encoding="ascii") as file:
            ca_pem = file.read(MAX_CA_FILE)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not the system's CAs, whatever the file holds
        context.load_verify_locations(cadata=ca_pem)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "strerror", None) or "it holds no PEM certificate"
        raise ConfigError(
            f"cannot use the API server's CA: {why}", on=ca_file, fix="give a PEM file"
        ) from None
    return Access(url, context, TokenFile(token_file), ca_pem, described="the mounted ServiceAccount")
