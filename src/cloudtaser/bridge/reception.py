"""The messages of one bootstrap dialogue, in the rooms and inside a `renew` stream.

Used by `station` (rooms) and `tunnels` (renewal). What the messages say is judged by `bootstrap`; here they
are received, answered and the connection closed, each step within its time (spec/wire.md, "Bootstrap").
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

from cloudtaser.bridge.bootstrap import Denied, Granted, Responder
from cloudtaser.errors import RefusedError
from cloudtaser.net.frames import NoiseDialogue
from cloudtaser.openbao.records import Registered
from cloudtaser.wire.bootstrap import Mode, ReturnProof, derive_psk, prologue
from cloudtaser.wire.noise import Channel

HANDSHAKE_TIMEOUT: Final = 5.0
REQUEST_TIMEOUT: Final = 10.0
"""Seconds for the request: the operator has a token made once it knows the handshake hash."""
ANSWER_TIMEOUT: Final = 30.0
"""Seconds for OpenBao to record and sign."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds for the answer to leave and the operator to hang up."""

Prove = Callable[[bytes], ReturnProof]
"""Makes the bridge's proof for one handshake hash."""


class FirstTime:
    """A guest of the init room."""

    def __init__(self, registered: Registered, room: bytes, responder: Responder) -> None:
        if registered.join_psk:
            mode, psk = Mode.INIT_WITH_CODE, bytes.fromhex(registered.join_psk)
        else:
            mode, psk = Mode.INIT, derive_psk(registered.fingerprint)
        self._responder = responder
        self.protocol = NoiseDialogue(Channel.responder(psk, prologue(room, mode)))

    async def receive(self) -> None:
        """The whole exchange. CloudtaserError when it comes to nothing."""
        try:
            await self.protocol.establish(HANDSHAKE_TIMEOUT)
            payload = await self.protocol.receive(REQUEST_TIMEOUT)
            work = self._responder.first_time(payload, self.protocol.handshake_hash)
            await _answer(self.protocol, await _in_time(work))
        finally:
            self.protocol.close()


class ComingBack:
    """A guest of the return room, or the bridge's side of a `renew` stream in the tunnel of `broker`."""

    def __init__(
        self, fingerprint: str, room: bytes, responder: Responder, prove: Prove, broker: str | None = None
    ) -> None:
        self._responder = responder
        self._prove = prove
        self._broker = broker
        self.granted: Granted | None = None
        psk = derive_psk(fingerprint)
        self.protocol = NoiseDialogue(Channel.responder(psk, prologue(room, Mode.RETURN)))

    async def receive(self) -> None:
        """The whole exchange; the bridge proves itself first. CloudtaserError when it comes to nothing."""
        try:
            await self.protocol.establish(HANDSHAKE_TIMEOUT)
            handshake_hash = self.protocol.handshake_hash
            self.protocol.send(self._prove(handshake_hash).encode())
            payload = await self.protocol.receive(REQUEST_TIMEOUT)
            work = self._responder.coming_back(payload, handshake_hash, self._broker)
            outcome = await _in_time(work)
            if isinstance(outcome, Granted):
                self.granted = outcome
            await _answer(self.protocol, outcome)
        finally:
            self.protocol.close()


async def _in_time(work: Coroutine[Any, Any, Granted | Denied]) -> Granted | Denied:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await work
    except TimeoutError:
        return Denied("busy", "the bridge cannot answer now; try again", "OpenBao did not answer in time")


async def _answer(dialogue: NoiseDialogue, outcome: Granted | Denied) -> None:
    """Send it, and wait a moment until it has left. RefusedError, for the log, when it is a refusal."""
    dialogue.send(outcome.answer.encode())
    dialogue.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await asyncio.shield(dialogue.closed)
    if isinstance(outcome, Denied):
        raise RefusedError(f"refused, {outcome.error}: {outcome.reason}")
