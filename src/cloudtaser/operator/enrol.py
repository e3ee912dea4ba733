"""Enrol: does what the enrolment machine says, in the rooms of the beacons, until there is a certificate.

Used by `renewal` at start and whenever no tunnel is left to renew through. Every failure is logged once a
minute at most, and tried again: nothing here needs a hand.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.net.log import get_logger
from cloudtaser.operator.beacons import Beacons
from cloudtaser.operator.config import Config
from cloudtaser.operator.enrolment import (
    ComeBack,
    Enrolled,
    Enrolment,
    Introduce,
    Outcome,
    ReadTrust,
    Reporter,
)
from cloudtaser.operator.exchange import BridgeRefusedError, Certified
from cloudtaser.operator.exchanges import Exchange, Exchanges, TrustReader
from cloudtaser.operator.trust import Trust, TrustDiffersError
from cloudtaser.wire.hashes import init_room

_NOBODY: Final = {
    Introduce: "waiting for a bridge to initialise this cluster: is it registered, does the bridge run?",
    ComeBack: "waiting for a bridge to come back to: does it run? If the tunnel CA was rotated while all of "
    "this cluster was down, put tunnel_ca_certificate of `cloudtaser-cli source show -o json` into "
    "ConfigMap cloudtaser-trust as tunnel-ca.crt and restart the operator; after `source reset` delete "
    "that ConfigMap",
}

_log = get_logger("operator.enrol")


class Enrol:
    """One enrolment at a time. `trust`, once known, is kept: no way leads back to the init room."""

    def __init__(
        self,
        config: Config,
        manager: TrustReader,
        beacons: Beacons,
        exchanges: Exchanges,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        patience: float = 10.0,
    ) -> None:
        self._config = config
        self._manager = manager
        self._beacons = beacons
        self._exchanges = exchanges
        self._sleep = sleep
        self._patience = patience
        self._reporter = Reporter()
        self.trust: Trust | None = None

    async def run(self) -> Certified:
        """A certificate, however long it takes. Ends only with one, or cancelled."""
        machine = Enrolment(join_code=bool(self._config.join_code), patience=self._patience)
        certified: Certified | None = None
        while not isinstance(machine.step, Enrolled):
            outcome, answer = await self._take(machine.step)
            certified = answer or certified
            machine.report(outcome)
        assert certified is not None
        return certified

    async def _take(
        self, step: ReadTrust | Introduce | ComeBack | Enrolled
    ) -> tuple[Outcome, Certified | None]:
        match step:
            case ReadTrust(delay):
                await self._pause(delay)
                return await self._read_trust(), None
            case Introduce(_, patience):
                return await self._try(step, lambda: self._introduce(patience))
            case ComeBack(delay, patience):
                await self._pause(delay)
                await self._follow()
                return await self._try(step, lambda: self._come_back(patience))
        raise AssertionError(step)

    async def _read_trust(self) -> Outcome:
        if self.trust is None:
            try:
                self.trust = await self._manager.read_trust()
            except CloudtaserError as error:
                self._say("cannot read what this cluster trusts", error)
                return Outcome.TRUST_UNREADABLE
        return Outcome.TRUST_UNKNOWN if self.trust is None else Outcome.TRUST_KNOWN

    async def _follow(self) -> None:
        """Another replica may have followed a rotation: take what it stored, if ours endorsed it."""
        assert self.trust is not None
        try:
            stored = await self._manager.read_trust()
        except CloudtaserError as error:
            self._say("cannot read what this cluster trusts", error)
            return
        if stored is None or stored.tunnel_ca_der == self.trust.tunnel_ca_der:
            return
        if stored.succeeds(self.trust):
            _log.warning("the tunnel CA was rotated", former=self.trust.short, tunnel_ca=stored.short)
            self.trust = stored
        elif not self.trust.succeeds(stored) and self._due("another trust"):
            _log.error(
                "ConfigMap cloudtaser-trust holds a tunnel CA that ours did not endorse: after "
                "`source reset` restart the operator, else somebody changed that ConfigMap",
                trusted=self.trust.short,
                stored=stored.short,
            )

    async def _try(
        self, step: Introduce | ComeBack, ask: Callable[[], Awaitable[Certified]]
    ) -> tuple[Outcome, Certified | None]:
        try:
            certified = await ask()
        except _NobodyCameError:
            if self._due(_NOBODY[type(step)]):
                _log.info(_NOBODY[type(step)], tunnel_ca=self.trust.short if self.trust else None)
            return Outcome.NOBODY_CAME, None
        except BridgeRefusedError as error:
            self._say("bootstrap refused", error)
            code = error.code
            return (Outcome.ALREADY_INITIALISED if code == "already_initialized" else Outcome.REFUSED), None
        except TrustDiffersError as error:
            _log.error(
                "two bridges gave different tunnel CAs; the stored one stays", error=error.diagnostic()
            )
            return Outcome.TRUST_DIFFERS, None
        except CloudtaserError as error:
            self._say("bootstrap failed, trying again", error)
            return Outcome.BROKEN, None
        self.trust = certified.trust
        _log.info(
            "enrolled", name=certified.name, tunnel_ca=certified.trust.short, until=str(certified.not_after)
        )
        return Outcome.CERTIFIED, certified

    async def _introduce(self, patience: float) -> Certified:
        make = await self._exchanges.introduce()
        return await self._meet(init_room(self._config.fingerprint), patience, make)

    async def _come_back(self, patience: float) -> Certified:
        assert self.trust is not None
        trust = self.trust
        self._beacons.serve(trust.operational_room, trust.return_room)
        return await self._meet(trust.return_room, patience, lambda: self._exchanges.come_back(trust))

    async def _meet(self, room: bytes, patience: float, make: Callable[[], Exchange]) -> Certified:
        try:
            async with asyncio.timeout(patience):
                match = await self._beacons.match(room, make)
        except TimeoutError:
            raise _NobodyCameError("nobody came") from None
        try:
            return await match.protocol.finish()
        finally:
            match.protocol.close()

    async def _pause(self, delay: float) -> None:
        if delay:
            await self._sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311  # spreads replicas

    def _say(self, what: str, error: CloudtaserError) -> None:
        self._beacons.incidents.record("enrolment", error)
        if self._due(f"{what} {error.what}"):
            _log.warning(what, error=error.diagnostic())

    def _due(self, what: str) -> bool:
        return self._reporter.due(what, asyncio.get_running_loop().time())


class _NobodyCameError(UnavailableError):
    """No bridge within the patience of one step."""
