"""Admin door: an administrator's TLS to a bridge, through the broker's admin port.

Used by whoever migrates secrets (`cloudtaser-cli target migrate`) or forwards an OpenBao client
(`target openbao`). The pod CA that is given here is all that tells the bridge from whoever poses as it: take
it from `source show`, or compare its SHA-256 with that, before a token or a value is sent.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Final

from cloudtaser.errors import ConfigError, NotAuthorisedError, ProtocolError, RefusedError, UnavailableError
from cloudtaser.net.dial import Address, dial_tcp
from cloudtaser.net.http import request
from cloudtaser.net.layers import TlsLayer
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.net.tls import pod_client
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import pod_ca_label
from cloudtaser.wire.migration import MAX_ANSWER, MIGRATE_TARGET, Migration, Outcome, parse_outcome
from cloudtaser.wire.names import BRIDGE_NAME

TIMEOUT: Final = 60.0
"""Seconds for one migration, OpenBao's part included."""


class AdminDoor:
    """One way to a bridge; each call makes a connection of its own."""

    def __init__(self, address: Address, pod_ca: str, proxies: Proxies = DIRECT) -> None:
        """`address` is where the admin port is forwarded to, `pod_ca` PEM. ConfigError if that is none."""
        self.address = address
        self._proxies = proxies
        try:
            der = ssl.PEM_cert_to_DER_cert(pod_ca.strip())
            self._context = pod_client(pod_ca.encode())
        except (ValueError, ssl.SSLError):
            raise ConfigError("the pod CA is no certificate", fix="give it as PEM") from None
        self.server_name = f"{pod_ca_label(der)}.{BRIDGE_NAME}"
        """What the bridge's certificate must say, and what is asked for in the SNI."""

    async def open(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Connect `protocol` to the bridge; returns when TLS is up. UnavailableError or ProtocolError."""
        layer = TlsLayer(self._context, protocol, server_side=False, server_hostname=self.server_name)
        await dial_tcp(self.address, lambda: layer, proxies=self._proxies)
        await layer.handshake
        return layer

    async def migrate(self, token: Secret, migration: Migration, *, timeout: float = TIMEOUT) -> Outcome:
        """Have `migration` stored under a ten-minute token of `cloudtaser-admin`.

        Where the answer does not come (UnavailableError) it may have been stored all the same: ask again, and
        look at the outcome. NotAuthorisedError when the token is not taken, RefusedError when the request is
        not, ProtocolError when what answers, or what it says it stored, is not what it should be.
        """
        headers = (
            (b"host", BRIDGE_NAME.encode()),
            (b"authorization", b"Bearer " + token.reveal()),
            (b"content-type", b"application/json"),
        )
        status, _, body = await request(
            self.open,
            b"POST",
            MIGRATE_TARGET.encode(),
            headers,
            migration.encode(),
            timeout=timeout,
            max_body=MAX_ANSWER,
        )
        if status in (200, 409):
            outcome = parse_outcome(status, body)
            if outcome.sha256 and outcome.sha256 != migration.sha256:
                raise ProtocolError("what the bridge stored is not what was sent", on=migration.path)
            return outcome
        said = _said(body) or f"the bridge answered status {status}"
        if status in (401, 403):
            raise NotAuthorisedError(said, on=migration.path)
        if status in (429, 502, 503, 504):
            raise UnavailableError(said, on=migration.path)
        raise RefusedError(said, on=migration.path)


def _said(body: bytes) -> str:
    """The bridge's own words, on one line."""
    try:
        lines = json.loads(body)["errors"]
        text = "; ".join(line for line in lines if isinstance(line, str))
    except (ValueError, KeyError, TypeError):
        return ""
    return "".join(character if character.isprintable() else " " for character in text[:500])
