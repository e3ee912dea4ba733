"""RemoteExchanges: bootstraps that run in the manager's container, over connections that the broker brings.

Used by `broker_container`. The bytes of a match are passed on to the manager's socket, unread: Noise runs
between the bridge and the manager, which checks what the bridge says, stores it, and hands the broker what is
the broker's: a certificate for the tunnel with its key, and who signs for bridges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.splice import Splice
from cloudtaser.net.tls import Identity
from cloudtaser.operator.exchange import Certified
from cloudtaser.operator.exchanges import Exchange
from cloudtaser.operator.remote_manager import RemoteManager
from cloudtaser.operator.seam import text
from cloudtaser.operator.seam_dial import dial_seam
from cloudtaser.operator.succession import encode_lineage
from cloudtaser.operator.trust import Trust
from cloudtaser.secret import Secret

EXCHANGE_SECONDS: Final = 60.0


class RemoteExchange(Exchange):
    """One connection, passed on."""

    def __init__(self, manager: RemoteManager, question: dict[str, Any]) -> None:
        self._manager = manager
        self._question = question
        self._splice = Splice(idle_timeout=EXCHANGE_SECONDS)
        self._dial: asyncio.Task[dict[str, Any]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        manager = self._manager
        self._splice.first.connection_made(transport)
        self._dial = asyncio.ensure_future(
            dial_seam(manager.path, manager.uid, self._question, self._splice.second)
        )
        self._dial.add_done_callback(self._dialled)

    def data_received(self, data: bytes) -> None:
        self._splice.first.data_received(data)

    def eof_received(self) -> bool | None:
        return self._splice.first.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._splice.first.connection_lost(exc)

    def pause_writing(self) -> None:
        self._splice.first.pause_writing()

    def resume_writing(self) -> None:
        self._splice.first.resume_writing()

    async def finish(self) -> Certified:
        """See Exchange."""
        if self._dial is None:
            raise UnavailableError("there is no connection for an exchange")
        granted = await asyncio.shield(self._dial)
        answer = await self._manager.ask({"ask": "result", "id": text(granted, "id")}, EXCHANGE_SECONDS)
        return decode(answer, self._manager.known_fingerprint)

    def close(self) -> None:
        """See Exchange."""
        if self._dial is not None:
            self._dial.cancel()
        self._splice.abort()

    def _dialled(self, dial: asyncio.Task[dict[str, Any]]) -> None:
        if dial.cancelled():
            self._splice.abort()
        elif (error := dial.exception()) is not None:
            self._splice.abort(error if isinstance(error, CloudtaserError) else None)


class RemoteExchanges:
    """See `exchanges.Exchanges`."""

    def __init__(self, manager: RemoteManager) -> None:
        self._manager = manager

    async def introduce(self) -> Callable[[], RemoteExchange]:
        """See Exchanges."""
        return lambda: RemoteExchange(self._manager, {"ask": "introduce"})

    def come_back(self, trust: Trust) -> RemoteExchange:
        """See Exchanges."""
        return RemoteExchange(self._manager, {"ask": "come_back", "tunnel_ca": trust.tunnel_ca})


def encode(certified: Certified) -> dict[str, Any]:
    """What the manager hands over."""
    identity = certified.identity
    return {
        "certificate": identity.certificate_pem.decode(),
        "chain": identity.chain_pem.decode(),
        "key": identity.key.reveal_text(),
        "tunnel_ca": certified.trust.tunnel_ca,
        "lineage": encode_lineage(certified.trust.lineage),
        "pod_ca": certified.pod_ca,
        "former_pod_cas": certified.former_pod_cas,
        "name": certified.name,
        "not_before": certified.not_before.timestamp(),
        "not_after": certified.not_after.timestamp(),
    }


def decode(fields: dict[str, Any], fingerprint: str) -> Certified:
    """The other way. ProtocolError when it cannot be that."""
    times = [fields.get(name) for name in ("not_before", "not_after")]
    if not all(isinstance(value, float | int) for value in times):
        raise ProtocolError("the manager's answer has no times")
    start, end = (datetime.fromtimestamp(float(value or 0), UTC) for value in times)
    identity = Identity(
        text(fields, "certificate").encode(), Secret(text(fields, "key")), text(fields, "chain").encode()
    )
    return Certified(
        identity=identity,
        trust=Trust.from_pem(text(fields, "tunnel_ca"), text(fields, "lineage"), fingerprint),
        pod_ca=text(fields, "pod_ca"),
        name=text(fields, "name"),
        not_before=start,
        not_after=end,
        former_pod_cas=text(fields, "former_pod_cas"),
    )
