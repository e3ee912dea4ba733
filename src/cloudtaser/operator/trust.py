"""Trust: what a cluster keeps of its bridge, two CA certificates in two ConfigMaps, and nothing else.

Used by `manager`. The tunnel CA (ConfigMap `cloudtaser-trust`, readable by the operator's own Role only,
because its SHA-256 is the room's hash) decides which bridge we believe; once written, only a successor that
it endorsed takes its place (`succession`), and the lineage is kept, so that a bridge pin of a former CA still
fits. The pod CA (`cloudtaser-ca`, injected in pods) follows what a bridge under that tunnel CA says. Both are
public certificates, so no Kubernetes Secret is needed. Replicas race: a write is a create or a
compare-and-swap.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509

from cloudtaser.errors import CloudtaserError, ConfigError, RefusedError
from cloudtaser.kube.client import KubeApi
from cloudtaser.kube.errors import ConflictError, NotFoundError
from cloudtaser.kube.objects import ConfigMap
from cloudtaser.operator.certificates import der, load_ca, load_certificate, now_utc, pem
from cloudtaser.operator.succession import LINEAGE_LIMIT, Former, decode_lineage, encode_lineage
from cloudtaser.wire.hashes import operational_room, return_room
from cloudtaser.wire.names import POD_CA_CONFIGMAP, TRUST_CONFIGMAP

TUNNEL_CA_KEY: Final = "tunnel-ca.crt"
LINEAGE_KEY: Final = "tunnel-ca-lineage.crt"
INFO_HASH_KEY: Final = "info-hash"
FINGERPRINT_KEY: Final = "fingerprint"
POD_CA_KEY: Final = "pod-ca.crt"
POD_CAS_KEY: Final = "pod-ca-bundle.crt"
_LABELS: Final = {
    "app.kubernetes.io/name": "cloudtaser",
    "app.kubernetes.io/managed-by": "cloudtaser-operator",
}
_ATTEMPTS: Final = 8


class TrustDiffersError(RefusedError):
    """The cluster already keeps another tunnel CA than the one a bridge just gave us."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The pinned tunnel CA, as PEM and DER, and the verified lineage of CAs that it took over from."""

    tunnel_ca: str
    tunnel_ca_der: bytes
    lineage: tuple[Former, ...] = ()

    @classmethod
    def from_pem(cls, text: str, lineage: str = "", fingerprint: str = "") -> Trust:
        """ProtocolError unless `text` is one CA certificate that is in time. `lineage` as `encode_lineage`
        makes it; steps that cannot be verified for this cluster are left out."""
        certificate = load_ca(text, "the tunnel CA", now_utc())
        return cls(pem(certificate), der(certificate), decode_lineage(lineage, certificate, fingerprint))

    @property
    def formers(self) -> list[x509.Certificate]:
        """The CAs that the pinned one descends from, the oldest first."""
        return [load_certificate(former.tunnel_ca, "a former tunnel CA") for former in self.lineage]

    def succeeds(self, other: Trust) -> bool:
        """Whether this one took over from `other`, at once or step by step."""
        return any(former.tunnel_ca == other.tunnel_ca for former in self.lineage)

    def behind(self, other: Trust) -> Trust:
        """This one, which `succeeds` the other, with the other's lineage before its own."""
        at = next(i for i, former in enumerate(self.lineage) if former.tunnel_ca == other.tunnel_ca)
        longest = max((self.lineage[:at], other.lineage), key=len)
        return replace(self, lineage=(*longest, *self.lineage[at:])[-LINEAGE_LIMIT:])

    def ancestor(self, tunnel_ca: str) -> Trust:
        """This trust, or as it was when `tunnel_ca` (PEM) was pinned. RefusedError when it never was."""
        if tunnel_ca == self.tunnel_ca:
            return self
        for number, former in enumerate(self.lineage):
            if former.tunnel_ca == tunnel_ca:
                certificate = load_certificate(tunnel_ca, "a former tunnel CA")
                return Trust(tunnel_ca, der(certificate), self.lineage[:number])
        raise RefusedError("this cluster never trusted that tunnel CA")

    @property
    def operational_room(self) -> bytes:
        """Where tunnels are matched; also the info hash, as bytes."""
        return operational_room(self.tunnel_ca_der)

    @property
    def return_room(self) -> bytes:
        """Where an operator comes back for a certificate."""
        return return_room(self.tunnel_ca_der)

    @property
    def short(self) -> str:
        """The first 12 hex digits of the CA's SHA-256, for people to compare."""
        return hashlib.sha256(self.tunnel_ca_der).hexdigest()[:12]


class TrustStore:
    """The two ConfigMaps of one cluster. Every method raises the errors of `kube.errors` as well."""

    def __init__(self, kube: KubeApi, namespace: str, fingerprint: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._fingerprint = fingerprint

    async def read(self) -> Trust | None:
        """The pinned tunnel CA, or None. ConfigError when what lies there cannot be this cluster's."""
        found = await self._kube.get_config_map(self._namespace, TRUST_CONFIGMAP)
        return self._trust(found) if found else None

    async def keep(self, trust: Trust) -> bool:
        """Pin the tunnel CA, in place of one that it succeeds if there is one. False when another replica is
        ahead: one that succeeds it is pinned, and stays.

        TrustDiffersError when one is pinned that has nothing to do with it.
        """
        for _ in range(_ATTEMPTS):
            found = await self._kube.get_config_map(self._namespace, TRUST_CONFIGMAP)
            pinned = self._trust(found) if found else None
            if pinned is None:
                wanted = trust
            elif trust.succeeds(pinned):
                wanted = trust.behind(pinned)
            elif pinned.tunnel_ca_der == trust.tunnel_ca_der or pinned.succeeds(trust):
                return not pinned.succeeds(trust)
            else:
                raise TrustDiffersError(
                    f"a bridge gave tunnel CA {trust.short}, but this cluster already trusts {pinned.short}",
                    on=self._where(TRUST_CONFIGMAP),
                    fix="compare both with `cloudtaser-cli source show`: one of them is an impostor's",
                )
            if await self._write(found, TRUST_CONFIGMAP, self._data(wanted)):
                return True
        raise self._busy(TRUST_CONFIGMAP)

    def _data(self, trust: Trust) -> dict[str, str]:
        data = {
            TUNNEL_CA_KEY: trust.tunnel_ca,
            INFO_HASH_KEY: trust.operational_room.hex(),
            FINGERPRINT_KEY: self._fingerprint,
        }
        return data | ({LINEAGE_KEY: encode_lineage(trust.lineage)} if trust.lineage else {})

    async def read_pod_ca(self) -> str | None:
        """The pod CA's PEM, or None when none is stored or it is no certificate."""
        found = await self._kube.get_config_map(self._namespace, POD_CA_CONFIGMAP)
        text = found.data.get(POD_CA_KEY, "") if found else ""
        if not text:
            return None
        try:
            return pem(load_certificate(text, "the pod CA"))
        except CloudtaserError:
            return None

    async def keep_pod_ca(self, text: str, former: str = "") -> bool:
        """Store the pod CA that the trusted bridge named, and with it those that are still served beside it;
        whether that changed anything."""
        wanted = {POD_CA_KEY: text, POD_CAS_KEY: text + former}
        for _ in range(_ATTEMPTS):
            found = await self._kube.get_config_map(self._namespace, POD_CA_CONFIGMAP)
            data = {**(found.data if found else {}), **wanted}
            if found and found.data == data:
                return False
            if await self._write(found, POD_CA_CONFIGMAP, data):
                return True
        raise self._busy(POD_CA_CONFIGMAP)

    async def _write(self, found: ConfigMap | None, name: str, data: dict[str, str]) -> bool:
        """Create or compare-and-swap; False when somebody else was first."""
        try:
            if found is None:
                await self._kube.create_config_map(self._namespace, name, data, _LABELS)
                return True
        except ConflictError:
            return False
        try:
            await self._kube.update_config_map(found, data)
        except (ConflictError, NotFoundError):
            return False
        return True

    def _trust(self, found: ConfigMap) -> Trust | None:
        text = found.data.get(TUNNEL_CA_KEY, "")
        if not text:
            return None
        where = self._where(TRUST_CONFIGMAP)
        owner = found.data.get(FINGERPRINT_KEY, self._fingerprint)
        if owner != self._fingerprint:
            raise ConfigError(
                f"the stored tunnel CA belongs to cluster {owner}, not to {self._fingerprint}",
                on=where,
                fix="delete that ConfigMap if this cluster was re-created from a backup",
            )
        try:
            return Trust.from_pem(text, found.data.get(LINEAGE_KEY, ""), self._fingerprint)
        except CloudtaserError as error:
            raise ConfigError(
                error.what, on=where, fix="restore that ConfigMap, or reset the cluster and delete it"
            ) from None

    def _where(self, name: str) -> str:
        return f"ConfigMap {self._namespace}/{name}"

    def _busy(self, name: str) -> ConflictError:
        return ConflictError("others keep changing it", on=self._where(name), fix="it will be tried again")
