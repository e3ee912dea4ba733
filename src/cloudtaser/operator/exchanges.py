"""Exchanges: where the operator's side of a bootstrap runs, and what it ends with.

Used by `enrol` and `renewal`, which only bring connections. In one process an exchange runs here, over a
Noise channel of our own (`LocalExchanges`). In a pod of two containers it runs in the manager, and the broker
passes bytes (`remote_exchanges`): it is the channel that vouches for the pod CA, so it must not end where
everybody's bytes pass.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from cloudtaser.net.frames import NoiseDialogue
from cloudtaser.operator.certificates import BrokerKey
from cloudtaser.operator.config import Config
from cloudtaser.operator.exchange import Applicant, Certified, Dialogue, come_back, introduce
from cloudtaser.operator.manager import ManagerApi
from cloudtaser.operator.trust import Trust
from cloudtaser.secret import Secret
from cloudtaser.wire.bootstrap import Mode, derive_psk, prologue
from cloudtaser.wire.hashes import init_room
from cloudtaser.wire.noise import Channel


class Exchange(asyncio.Protocol, abc.ABC):
    """One exchange over one connection, whose protocol it is; then `finish`."""

    @abc.abstractmethod
    async def finish(self) -> Certified:
        """Do it. Raises as `exchange.introduce` and `exchange.come_back` do."""

    @abc.abstractmethod
    def close(self) -> None:
        """The connection is not needed any more."""


class TrustReader(Protocol):
    """Who knows which tunnel CA is pinned; `manager.ManagerApi` does."""

    async def read_trust(self) -> Trust | None:
        """The pinned tunnel CA, or None when the cluster was never initialised."""


class Exchanges(Protocol):
    """Where exchanges run."""

    async def introduce(self) -> Callable[[], Exchange]:
        """What makes first exchanges, for connections in the init room. Raises what the API server says."""

    def come_back(self, trust: Trust) -> Exchange:
        """A further exchange, for a connection in the return room of `trust` or in a `renew` stream."""


class LocalExchange(NoiseDialogue, Exchange):
    """An exchange in this process."""

    def __init__(self, channel: Channel, talk: Callable[[Dialogue], Awaitable[Certified]]) -> None:
        super().__init__(channel)
        self._talk = talk

    async def finish(self) -> Certified:
        """See Exchange."""
        return await self._talk(self)


class LocalExchanges:
    """Exchanges over the manager in this process. One key until there is a certificate for it, so that a
    bridge that had recorded it serves us again."""

    def __init__(
        self,
        fingerprint: str,
        manager: ManagerApi,
        *,
        bridge_pin: str = "",
        info_hash: str = "",
        join_code: Secret | None = None,
    ) -> None:
        self._fingerprint = fingerprint
        self._manager = manager
        self._bridge_pin = bridge_pin
        self._info_hash = info_hash
        self._join_code = join_code or Secret(b"")
        self._key: BrokerKey | None = None

    async def introduce(self) -> Callable[[], LocalExchange]:
        """See Exchanges."""
        introduction = await self._manager.introduction()
        mode = Mode.INIT_WITH_CODE if self._join_code else Mode.INIT
        room = init_room(self._fingerprint)
        psk = derive_psk(self._fingerprint, self._join_code.reveal_text())

        async def talk(dialogue: Dialogue) -> Certified:
            return self._done(await introduce(dialogue, self._applicant(), introduction))

        return lambda: LocalExchange(Channel.initiator(psk, prologue(room, mode)), talk)

    def come_back(self, trust: Trust) -> LocalExchange:
        """See Exchanges."""
        room = trust.return_room
        psk = derive_psk(self._fingerprint)

        async def talk(dialogue: Dialogue) -> Certified:
            return self._done(await come_back(dialogue, self._applicant(), trust))

        return LocalExchange(Channel.initiator(psk, prologue(room, Mode.RETURN)), talk)

    def _applicant(self) -> Applicant:
        self._key = self._key or BrokerKey.generate()
        return Applicant(self._fingerprint, self._manager, self._key, self._bridge_pin, self._info_hash)

    def _done(self, certified: Certified) -> Certified:
        self._key = None
        return certified


def local_exchanges(config: Config, manager: ManagerApi) -> LocalExchanges:
    """As a broker's configuration says, for one with its manager in the same process."""
    return LocalExchanges(
        config.fingerprint,
        manager,
        bridge_pin=config.bridge_pin,
        info_hash=config.beacon_info_hash,
        join_code=config.join_code,
    )
