"""Manager: the side of the operator that holds a Kubernetes identity.

`ManagerApi` is what exchanges with bridges need of it (`exchange`, `exchanges`); they run in the manager's
process. Used by `standalone` and `manager_container`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.objects import ServiceAccountToken
from cloudtaser.net.log import get_logger
from cloudtaser.operator.certificates import check_pin, check_room, load_bundle, load_ca, now_utc, pem
from cloudtaser.operator.trust import Trust, TrustStore
from cloudtaser.secret import Secret
from cloudtaser.wire.hashes import short_fingerprint
from cloudtaser.wire.names import (
    OPERATOR_SERVICE_ACCOUNT,
    REVIEWER_SERVICE_ACCOUNT,
    operator_audience,
    return_audience,
)

CHANNEL_TOKEN_SECONDS: Final = 600
OPERATOR_TOKEN_SECONDS: Final = 600
REVIEWER_TOKEN_SECONDS: Final = 3600

_log = get_logger("operator.manager")


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a bridge records about a cluster at its first initialisation."""

    issuer: str
    jwks: dict[str, Any]
    cluster_ca: str
    subject: str


class ManagerApi(Protocol):
    """What exchanges with bridges need."""

    async def introduction(self) -> Introduction:
        """Issuer, keys and CA of the API server, and who we are to it."""

    async def channel_token(self, handshake_hash: bytes, spki: bytes) -> Secret:
        """A ten-minute token that fits this handshake and this key only."""

    async def read_trust(self) -> Trust | None:
        """The pinned tunnel CA, or None when the cluster was never initialised."""

    async def keep(self, trust: Trust, pod_ca: str, former_pod_cas: str = "") -> None:
        """Store what a bridge gave us, before it is used. TrustDiffersError when another CA is pinned."""


class Manager:
    """ManagerApi over the API server, and the manager's own tokens."""

    def __init__(
        self,
        kube: KubeApi,
        fingerprint: str,
        namespace: str,
        *,
        bridge_pin: str = "",
        info_hash: str = "",
    ) -> None:
        """`bridge_pin` and `info_hash`, if any, are what a tunnel CA has to fit before it is stored; the
        broker checks them too, but where it is another process its word is not taken for that."""
        self._kube = kube
        self._namespace = namespace
        self._bridge_pin = bridge_pin
        self._info_hash = info_hash
        self.fingerprint = fingerprint
        self._fp8 = short_fingerprint(fingerprint)
        self._store = TrustStore(kube, namespace, fingerprint)
        self.pod_ca: str | None = None
        """The pod CA as far as we know; injection, and so readiness, needs it."""

    async def introduction(self) -> Introduction:
        """See ManagerApi."""
        return Introduction(
            issuer=await self._kube.issuer(),
            jwks=await self._kube.jwks(),
            cluster_ca="".join(pem(one) for one in load_bundle(self._kube.ca_pem, "the API server's CA")),
            subject=f"system:serviceaccount:{self._namespace}:{OPERATOR_SERVICE_ACCOUNT}",
        )

    async def channel_token(self, handshake_hash: bytes, spki: bytes) -> Secret:
        """See ManagerApi."""
        audience = return_audience(self._fp8, handshake_hash, spki)
        return (await self._own_token(audience, CHANNEL_TOKEN_SECONDS)).token

    async def read_trust(self) -> Trust | None:
        """See ManagerApi. Learns the stored pod CA on the way."""
        trust = await self._store.read()
        if trust is not None and self.pod_ca is None:
            self.pod_ca = await self._store.read_pod_ca()
        return trust

    async def keep(self, trust: Trust, pod_ca: str, former_pod_cas: str = "") -> None:
        """See ManagerApi. The tunnel CA first: whoever is killed between the two comes back by it."""
        ca = load_ca(trust.tunnel_ca, "the tunnel CA", now_utc())
        check_pin(ca, self._bridge_pin, trust.formers)
        check_room(ca, self._info_hash, trust.formers)
        pod_ca = pem(load_ca(pod_ca, "the pod CA", now_utc()))
        if not await self._store.keep(trust):
            _log.info("another replica follows a newer tunnel CA already", tunnel_ca=trust.short)
            await self.refresh_pod_ca()
            return
        if await self._store.keep_pod_ca(pod_ca, former_pod_cas):
            _log.info("pod CA stored", tunnel_ca=trust.short)
        self.pod_ca = pod_ca

    async def refresh_pod_ca(self) -> None:
        """Take the pod CA as it is stored: another replica may have stored the next one."""
        self.pod_ca = await self._store.read_pod_ca() or self.pod_ca

    async def jwks(self) -> dict[str, Any]:
        """The cluster's signing keys as its API server publishes them."""
        return await self._kube.jwks()

    async def operator_token(self) -> Secret:
        """The token with which the operator logs in on its own stream to the bridge."""
        return (await self._own_token(operator_audience(self._fp8), OPERATOR_TOKEN_SECONDS)).token

    async def reviewer_token(self) -> ServiceAccountToken:
        """The bridge's credential at this API server: issuer discovery and TokenReview, one hour."""
        return await self._kube.token_request(
            self._namespace, REVIEWER_SERVICE_ACCOUNT, (), REVIEWER_TOKEN_SECONDS
        )

    async def _own_token(self, audience: str, seconds: int) -> ServiceAccountToken:
        return await self._kube.token_request(self._namespace, OPERATOR_SERVICE_ACCOUNT, (audience,), seconds)
