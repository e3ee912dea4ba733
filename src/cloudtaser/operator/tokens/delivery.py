"""Delivery: the two requests that the operator makes of a sealed wrapper, in the pod's own network.

Used by `minting`. Plain HTTP: what is posted is sealed for the wrapper's key, and what is read (whether it
waits, and under which key) is believed only where believing it costs nothing. The pod is not trusted: answers
are small, connects and reads are timed, nothing is followed.
"""

from __future__ import annotations

import asyncio
import base64
import enum
from typing import Final

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.dial import Address, dial_tcp
from cloudtaser.net.http import request
from cloudtaser.operator.tokens.target import Target
from cloudtaser.wire.strict_json import parse_object

WITHIN: Final = 5.0
"""Seconds for one request; the wrapper gives a sender as many."""
_MAX_ANSWER: Final = 4096


class Taken(enum.Enum):
    """What the wrapper said to an envelope."""

    YES = enum.auto()
    NOT_SEALED = enum.auto()
    """It has a token already."""
    NO = enum.auto()
    """It was sealed for another start, or under certificates that this wrapper does not believe."""


async def waits_for(target: Target, public_key: bytes) -> bool:
    """Whether the wrapper is sealed, under this key. UnavailableError when it cannot be asked."""
    status, body = await _ask(target, b"GET", b"/v1/status")
    if status != 200:
        raise UnavailableError(f"the wrapper answered {status}", on=target.authority)
    try:
        fields = parse_object(body, what="the wrapper's status", limit=_MAX_ANSWER)
    except ProtocolError as error:
        raise UnavailableError(error.what, on=target.authority) from None
    return fields.get("sealed") is True and fields.get("public_key") == base64.b64encode(public_key).decode()


async def unseal(target: Target, envelope: bytes) -> Taken:
    """Post the envelope. UnavailableError when there was no answer: it may have been taken all the same."""
    status, _ = await _ask(target, b"POST", b"/v1/unseal", envelope)
    if status == 200:
        return Taken.YES
    if status == 409:
        return Taken.NOT_SEALED
    if status in (400, 403):
        return Taken.NO
    raise UnavailableError(f"the wrapper answered {status}", on=target.authority)


async def _ask(target: Target, method: bytes, path: bytes, body: bytes = b"") -> tuple[int, bytes]:
    address = Address(target.host, target.port)

    async def connect(protocol: asyncio.Protocol) -> None:
        await dial_tcp(address, lambda: protocol, WITHIN)

    headers = [(b"host", target.authority.encode()), (b"content-type", b"application/json")]
    try:
        status, _, answer = await request(
            connect, method, path, headers, body, timeout=WITHIN, max_body=_MAX_ANSWER
        )
    except CloudtaserError as error:
        raise UnavailableError(f"the wrapper cannot be asked: {error.what}", on=target.authority) from None
    return status, answer
