"""OperatorEvidence: what a DebugReport is made of, looked at from inside the manager.

Used by `report_controller`. Every hop is tried now, each over the one before, so that the first that fails is
the broken one; what its errors say is what the report says.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from cloudtaser.errors import CloudtaserError
from cloudtaser.kube.errors import NotFoundError
from cloudtaser.kube.events import CONTROLLER
from cloudtaser.kube.kinds import EVENTS, MUTATING_WEBHOOKS, Kind
from cloudtaser.kube.verbs import Page
from cloudtaser.net.http import Response
from cloudtaser.operator.certificates import load_certificate
from cloudtaser.operator.controllers.report import CertificateState, Hop, WebhookState
from cloudtaser.operator.incidents import LAST_TIME, Incident, Incidents
from cloudtaser.version import VERSION

Json = dict[str, Any]
MAX_EVENTS: Final = 500
"""Events that are looked through for a report."""
_HEALTH: Final = "/v1/sys/health"
_HEALTHY: Final = (200, 429, 472, 473)
"""OpenBao's own words for active, standby, and the two kinds of secondaries (sys/health)."""
_UNHEALTHY: Final = {501: "OpenBao is not initialised", 503: "OpenBao is sealed, or cannot be reached"}


class EvidenceApi(Protocol):
    """What is asked of the API server; `kube.client.KubeApi` does it."""

    async def version(self) -> str:
        """Its release."""

    async def patch_object(
        self, kind: Kind, namespace: str | None, name: str, patch: Any, *, dry_run: bool = False
    ) -> Json:
        """Merge-patch an object; NotFoundError when there is none."""

    async def list_page(
        self, kind: Kind, namespace: str | None = None, *, field_selector: str = "", limit: int = ...
    ) -> Page:
        """One page."""


class BrokerView(Protocol):
    """The broker's container as the manager sees it; `remote_routes.RemoteRoutes` is one."""

    @property
    def state(self) -> Mapping[str, Any]:
        """How it is, as it said last; empty while it is away."""

    async def incidents(self) -> Sequence[Incident]:
        """What went wrong there lately."""


class Bridge(Protocol):
    """Requests to a bridge; `bridge_calls.BridgeCalls` does them."""

    async def request(self, method: str, path: str) -> Response:
        """Status, headers, body."""


class OperatorEvidence:
    """For one manager."""

    def __init__(
        self,
        api: EvidenceApi,
        broker: BrokerView | None,
        bridge: Bridge | None,
        *,
        certificates: Callable[[], Iterable[tuple[str, str]]],
        webhook_name: str,
        webhook_ca: Callable[[], str],
        incidents: Incidents | None = None,
    ) -> None:
        """`broker` and `bridge` None: pods reach OpenBao directly. `certificates` gives (what for, PEM) of
        those in use, an empty PEM for one that is missing; `webhook_ca` the CA that we serve the webhook
        under, PEM, empty while there is none. `incidents`: of this process."""
        self._api = api
        self._broker = broker
        self._bridge = bridge
        self._certificates = certificates
        self._webhook_name = webhook_name
        self._webhook_ca = webhook_ca
        self._incidents = incidents or Incidents()

    async def hops(self) -> list[Hop]:
        """See Evidence."""
        found = [await self._timed("API server", self._api.version())]
        if self._broker is None or self._bridge is None:
            found.append(Hop("broker", None, "there is none: pods reach OpenBao directly"))
            return found
        state = self._broker.state
        if not state:
            found.append(
                Hop(
                    "broker",
                    False,
                    "its container does not answer",
                    fix="look at the log of container broker",
                )
            )
            return [*found, *(Hop(name, None) for name in ("beacon", "bridge", "OpenBao", "logins"))]
        found.append(Hop("broker", True, f"{state.get('connections', 0)} connections of pods"))
        found.append(await self._beacon(self._broker, state))
        if not state.get("tunnels"):
            return [*found, *(Hop(name, None) for name in ("bridge", "OpenBao", "logins"))]
        return [*found, *await self._beyond(self._bridge, state)]

    async def _beacon(self, broker: BrokerView, state: Mapping[str, Any]) -> Hop:
        tunnels, where = state.get("tunnels", 0), _names(state.get("beacons"))
        if tunnels:
            return Hop("beacon", True, f"{tunnels} tunnels through {where or 'the reverse port'}")
        if state.get("parked"):
            return Hop(
                "beacon",
                False,
                f"parked at {where}, and no bridge comes",
                fix="start the bridge, or register this cluster: cloudtaser-cli source status",
            )
        last = [incident for incident in await broker.incidents() if incident.part in ("beacon", "tunnel")]
        return Hop(
            "beacon",
            False,
            last[-1].message if last else f"not parked at {where}",
            fix="check the address and what lets connections out of the cluster",
        )

    async def _beyond(self, bridge: Bridge, state: Mapping[str, Any]) -> list[Hop]:
        """What lies behind a tunnel, asked by one request through it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            status, _, _ = await bridge.request("GET", _HEALTH)
        except CloudtaserError as error:
            failed = Hop("bridge", False, error.diagnostic(), loop.time() - began, "read the bridge's log")
            return [failed, Hop("OpenBao", None), Hop("logins", None)]
        seconds = loop.time() - began
        names = _names(state.get("bridges"))
        healthy = status in _HEALTHY
        said = _UNHEALTHY.get(status, f"sys/health answers {status}")
        logins = state.get("logins_open", 0)
        return [
            Hop("bridge", True, names, seconds),
            Hop("OpenBao", healthy, "" if healthy else said, fix="" if healthy else "bao status"),
            Hop(
                "logins",
                bool(logins),
                "pods can log in" if logins else "no bridge says that pods can log in",
                fix="" if logins else "cloudtaser-cli source status, then the bridge's log",
            ),
        ]

    @staticmethod
    async def _timed(name: str, asked: Any) -> Hop:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return Hop(name, True, str(await asked), loop.time() - began)
        except CloudtaserError as error:
            return Hop(name, False, error.what, loop.time() - began, error.fix)

    async def versions(self) -> dict[str, str]:
        """See Evidence."""
        found = {"operator": VERSION, "kubernetes": await self._api.version()}
        state = self._broker.state if self._broker else {}
        told = state.get("bridge_versions")
        if isinstance(told, dict):
            found |= {f"bridge {name}"[:128]: str(version) for name, version in list(told.items())[:32]}
        return found

    async def certificates(self) -> list[CertificateState]:
        """See Evidence."""
        found = []
        for name, pem in self._certificates():
            if not pem:
                found.append(CertificateState(name, None, problem="there is none yet"))
                continue
            try:
                certificate = load_certificate(pem, name)
            except CloudtaserError as error:
                found.append(CertificateState(name, None, problem=error.diagnostic()))
                continue
            subject = certificate.subject.rfc4514_string()
            found.append(CertificateState(name, certificate.not_valid_after_utc, subject))
        ends = (self._broker.state if self._broker else {}).get("certificate_expires")
        if isinstance(ends, int) and 0 <= ends <= LAST_TIME:
            found.append(CertificateState("tunnel certificate", datetime.fromtimestamp(ends, UTC)))
        elif self._broker is not None:
            found.append(CertificateState("tunnel certificate", None, problem="there is none yet"))
        return found

    async def events(self, namespace: str) -> Sequence[Json]:
        """See Evidence."""
        page = await self._api.list_page(
            EVENTS,
            namespace or None,
            field_selector=f"reportingController={CONTROLLER}",
            limit=MAX_EVENTS,
        )
        return page.items

    async def webhook(self) -> WebhookState:
        """See Evidence."""
        try:  # we may patch that one object and not read it; a patch that changes nothing shows it
            found = await self._api.patch_object(
                MUTATING_WEBHOOKS, None, self._webhook_name, {}, dry_run=True
            )
        except NotFoundError:
            return WebhookState(False, problem=f"there is no {MUTATING_WEBHOOKS.name} {self._webhook_name}")
        webhooks = [entry for entry in found.get("webhooks") or () if isinstance(entry, dict)]
        entries = tuple(
            (
                str(entry.get("name") or ""),
                str(entry.get("failurePolicy") or ""),
                int(entry.get("timeoutSeconds") or 0),
            )
            for entry in webhooks[:16]
        )
        own = self._webhook_ca()
        if not own:
            return WebhookState(True, None, entries, "this operator serves it under no CA yet")
        trusted = bool(webhooks) and all(_trusts(entry, own) for entry in webhooks)
        problem = "" if trusted else "its caBundle does not hold this operator's CA: pods are not injected"
        return WebhookState(True, trusted, entries, problem)

    async def incidents(self) -> list[Incident]:
        """See Evidence."""
        found = list(self._incidents.all())
        if self._broker is not None:
            found += await self._broker.incidents()
        return found


def _names(told: object) -> str:
    """A list of names as the broker says it, which is not believed more than it must be."""
    return ", ".join(str(one)[:300] for one in told[:64]) if isinstance(told, list) else ""


def _trusts(entry: Json, ca: str) -> bool:
    """Whether the caBundle of one webhook holds this CA."""
    bundle = str((entry.get("clientConfig") or {}).get("caBundle") or "")
    try:
        text = base64.b64decode(bundle, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    return "".join(ca.split()) in "".join(text.split())
