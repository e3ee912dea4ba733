"""One bridge process: puts the parts together, runs them until told to stop, and ends them in order.

Made by `app`, which has read the configuration. Here is everything that stations share, and what is said when
something fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any, Final

from cloudtaser.bridge import operator_certificates
from cloudtaser.bridge.audit import Audit
from cloudtaser.bridge.audit_lines import AuditLines
from cloudtaser.bridge.background import Background
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.config import Config
from cloudtaser.bridge.config_login import keeper
from cloudtaser.bridge.doors import BeaconDoor, Door, Ways, reachable
from cloudtaser.bridge.files import FilePairs
from cloudtaser.bridge.heartbeat import Heartbeat
from cloudtaser.bridge.limits import Limits
from cloudtaser.bridge.metrics import Metrics
from cloudtaser.bridge.migration import Admin
from cloudtaser.bridge.one_cluster import OneCluster
from cloudtaser.bridge.registry import Registry, Snapshot
from cloudtaser.bridge.review import AWAY
from cloudtaser.bridge.seats import Seats
from cloudtaser.bridge.session import Services, pod_protocol
from cloudtaser.bridge.shared import Shared
from cloudtaser.bridge.station import Station
from cloudtaser.bridge.status import StatusSocket
from cloudtaser.bridge.tally import Line, Tally
from cloudtaser.bridge.tokens import PodIdentity
from cloudtaser.bridge.upstream import Upstream
from cloudtaser.bridge.vault_writer import VaultWriter
from cloudtaser.errors import CloudtaserError, NotAuthorisedError, RefusedError
from cloudtaser.net.log import get_logger
from cloudtaser.net.probes import Probes
from cloudtaser.net.rates import Buckets
from cloudtaser.net.rendezvous import BEACON, BROKER
from cloudtaser.net.tls import beacon_client
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.login import TokenFile
from cloudtaser.openbao.records import BridgeRecord, Records, Served, instant
from cloudtaser.secret import Secret
from cloudtaser.version import VERSION

READY_FOR: Final = 30.0
"""Seconds after the last good poll, beside three intervals, for which the bridge calls itself ready."""
START_RETRY: Final = 2.0
"""Seconds between attempts to reach OpenBao at start."""
REPORT_EVERY: Final = 10.0
"""Seconds between looks for failures that are due to be mentioned."""

_log = get_logger("bridge")


class Bridge:
    """One bridge process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._started = time.time()
        self._client = OpenBao(config.vault_addr, ca_file=config.vault_ca_cert, proxies=config.proxies)
        self._keeper = keeper(
            config.login, self._client, ca_file=config.vault_ca_cert, on_trouble=self._token_trouble
        )
        self._tally = Tally()
        self._files = FilePairs(config.files, on_failed=self._files_trouble) if config.files else None
        self._records = (
            OneCluster(self._client, Layout(), self._files)
            if self._files
            else Records(self._client, Layout())
        )
        self._upstream = Upstream(config.vault_addr, ca_file=config.vault_ca_cert, proxies=config.proxies)
        self._audit_lines = AuditLines()
        self._audit = Audit(self._audit_lines)
        self._writer = self._vault_writer()
        self._services = Services(
            upstream=self._upstream,
            audit=self._audit,
            limits=Limits(peer=config.rate_peer, token=config.rate_token, cluster=config.rate_cluster),
            refetch_keys=self._refetch_keys,
            reviewer_token=self._reviewer_token,
            certify_operator=self._certify_operator,
            now=time.time,
            seats=Seats(single=config.pods.single),
            review=self._review if config.pods.strict else None,
            admin=Admin(
                config.admin.rules,
                self._writer,
                lambda: self._audit_lines.keeps_up,
                Buckets(config.admin.rate),
            ),
        )
        self._metrics = Metrics(self.status, self._audit.counts, self._upstream)
        self._stations: dict[str, Station] = {}
        self._before: Mapping[str, Served] = {}
        self._down: set[str] = set()
        beacon_context = beacon_client(config.beacon_ca, config.beacon_insecure)
        self._beacons = tuple(
            BeaconDoor(address, beacon_context, config.proxies) for address in config.beacon_addresses
        )
        self._shared = Shared(
            client=self._client,
            records=self._records,
            bridge_id=config.bridge_id,
            ways=Ways(self._beacons, config.brokers, config.proxies),
            certificate_ttl=config.certificate_ttl,
            now=time.time,
            serve=lambda cluster, opening: pod_protocol(cluster, opening, self._services),
            failed=self._failed,
            reachable=self._reachable,
            keys_changed=self._keys_changed,
            retire_pods=self._services.retire,
            changed=lambda: self._heartbeat.soon(),
            before=lambda fingerprint: self._before.get(fingerprint),
            files=(self._files,) if self._files else (),
            drain=config.drain,
        )
        self._registry = Registry(
            self._records, self._open_station, now=time.time, interval=config.poll_interval
        )
        self._heartbeat = Heartbeat(
            self._records,
            self._sign_of_life,
            lambda error: self._failed("heartbeat", "", "", error),
            after=self._flush_reads,
        )
        self._background = Background("bridge")

    async def run(self, stop: asyncio.Event) -> int:
        """Serve until `stop`, then drain. Returns the exit status."""
        config = self._config
        if config.beacon_insecure:
            _log.warning(
                "the beacon's certificate is not checked: whoever poses as it sees the rooms' hashes"
            )
        status = StatusSocket(config.status_socket, self.status)
        await status.start()
        probes = Probes(ready=self._is_ready, registry=self._metrics.registry)
        try:
            if config.metrics_addr is not None:
                await probes.listen(config.metrics_addr.host, config.metrics_addr.port)
            if await self._log_in(stop):
                _log.info(
                    "started",
                    version=VERSION,
                    id=config.bridge_id,
                    openbao=config.vault_addr,
                    proxy=str(config.proxies.proxy or "none"),
                )
                await self._remember()
                for work in (self._keeper.run, self._registry.run, self._give_signs_of_life, self._report):
                    self._background.start(work(stop))
                if self._writer is not None:
                    self._background.start(self._writer.run(stop))
                await stop.wait()
                await self._drain()
        finally:
            await self._background.close()
            await self._registry.close()
            await self._upstream.close()
            if self._writer is not None:
                await self._writer.close()
            await probes.close()
            await status.close()
            await self._keeper.close()
            await self._client.close()
            await asyncio.to_thread(self._audit_lines.close)
        _log.info("stopped")
        return 0

    def status(self) -> dict[str, Any]:
        """The status document."""
        return {
            "id": self._config.bridge_id,
            "version": VERSION,
            "ready": self._is_ready(),
            "started_at": instant(self._started),
            "polled_at": instant(self._registry.polled_at) if self._registry.polled_at else "",
            "beacons": reachable(self._beacons, self._down, BEACON),
            "brokers": reachable(
                [door for _, station in sorted(self._stations.items()) for door in station.doors],
                self._down,
                BROKER,
            ),
            "failures": self._tally.total,
            "migrations": dict(self._writer.outcomes) if self._writer else {},
            "audit_lines": self._audit.written,
            "audit_dropped": self._audit_lines.dropped,
            "clusters": [station.status() for _, station in sorted(self._stations.items())],
        }

    # Starting and stopping

    async def _log_in(self, stop: asyncio.Event) -> bool:
        """Wait until OpenBao takes the token, a new one if need be; False when stopped before."""
        said = ""
        while not stop.is_set():
            try:
                await self._keeper.start()
                self._records.use(await Layout.detect(self._client))
            except CloudtaserError as error:
                if error.diagnostic() != said:
                    said = error.diagnostic()
                    _log.warning("waiting for OpenBao", reason=said)
            else:
                return True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_RETRY):
                    await stop.wait()
        return False

    async def _drain(self) -> None:
        _log.info("draining", seconds=self._config.drain, streams=self._streams())
        stations = list(self._stations.values())
        self._services.drain()
        try:
            async with asyncio.timeout(self._config.drain):
                await asyncio.gather(*(station.drain() for station in stations))
        except TimeoutError:
            _log.warning("the drain is over; streams are cut", streams=self._streams())
        await asyncio.gather(*(station.flush_reads(whole=True) for station in stations))

    def _streams(self) -> int:
        return sum(station.tunnels.streams for station in self._stations.values())

    def _vault_writer(self) -> VaultWriter | None:
        config = self._config
        if config.admin.token_file is None:
            return None
        client = OpenBao(config.vault_addr, ca_file=config.vault_ca_cert, proxies=config.proxies)
        return VaultWriter(
            client,
            TokenFile(config.admin.token_file),
            on_trouble=lambda error: self._failed("admin token", "", "", error),
        )

    # What stations ask for

    def _open_station(self, snapshot: Snapshot) -> Station:
        fingerprint = snapshot.registered.fingerprint
        station = Station(self._shared, snapshot, on_close=lambda: self._station_closed(fingerprint))
        self._stations[fingerprint] = station
        return station

    def _station_closed(self, fingerprint: str) -> None:
        self._stations.pop(fingerprint, None)
        self._services.holders.forget_cluster(fingerprint)
        self._services.seats.forget_cluster(fingerprint)

    async def _refetch_keys(self, cluster: Cluster) -> None:
        station = self._stations.get(cluster.fingerprint)
        if station is not None:
            await station.refetch_keys()

    def _reviewer_token(self, cluster: Cluster, token: Secret) -> None:
        station = self._stations.get(cluster.fingerprint)
        if station is not None:
            station.take_reviewer_token(token)

    async def _certify_operator(self, cluster: Cluster, requests: operator_certificates.Requests) -> bytes:
        return await operator_certificates.sign(self._client, cluster, requests, self._config.certificate_ttl)

    async def _review(self, cluster: Cluster, jwt: str, identity: PodIdentity) -> None:
        station = self._stations.get(cluster.fingerprint)
        if station is None:
            AWAY.require()
        else:
            await station.reviews.check(jwt, identity)

    def _keys_changed(self, cluster: Cluster, event: str) -> None:
        refused = event == "keys_pending"
        _log.warning("the cluster's signing keys changed", cluster=cluster.fp8, accepted=not refused)
        self._heartbeat.soon()
        self._audit.write(
            now=time.time(),
            cluster=cluster.fingerprint,
            id="",
            peer="",
            namespace="",
            serviceaccount="",
            pod="",
            method="GET",
            path="/openid/v1/jwks",
            verdict="refused" if refused else "allowed",
            status=200,
            milliseconds=0.0,
            reason=event,
        )

    # Failures

    def _failed(self, what: str, whom: str, where: str, error: CloudtaserError) -> None:
        self._metrics.failures.labels(what, where).inc()
        if what == BEACON or (what == BROKER and not isinstance(error, RefusedError)):
            self._down.add(whom)
        line = self._tally.add((what, whom, where), error.diagnostic(), time.monotonic())
        if line is not None:
            _mention(line)

    def _reachable(self, door: Door) -> None:
        if str(door) in self._down:
            self._down.discard(str(door))
            _log.info(f"{door.kind} reached again", **{door.kind: str(door)})

    async def _report(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            for line in self._tally.due(time.monotonic()):
                _mention(line)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_EVERY):
                    await stop.wait()

    def _token_trouble(self, error: CloudtaserError) -> None:
        lost = isinstance(error, NotAuthorisedError)
        self._failed("token lost" if lost else "token renewal", "", "", error)

    def _files_trouble(self, error: CloudtaserError) -> None:
        self._failed("certificates in files", "", "", error)

    # About itself

    def _is_ready(self) -> bool:
        age = time.time() - self._registry.polled_at
        return age < 3 * self._config.poll_interval + READY_FOR

    def _sign_of_life(self) -> BridgeRecord:
        return BridgeRecord(
            id=self._config.bridge_id,
            version=VERSION,
            seen_at=instant(time.time()),
            started_at=instant(self._started),
            clusters=len(self._stations),
            tunnels=sum(len(station.tunnels) for station in self._stations.values()),
            served={fingerprint: station.served() for fingerprint, station in self._stations.items()},
        )

    async def _remember(self) -> None:
        """What an earlier run reported a moment ago: a pod that it counted is there although this one has not
        seen it yet."""
        try:
            record = await self._records.bridge(self._config.bridge_id)
        except CloudtaserError as error:
            self._failed("heartbeat", "", "", error)
        else:
            self._before = record.served if record is not None else {}

    async def _give_signs_of_life(self, stop: asyncio.Event) -> None:
        """From the first poll on: a record without its clusters would say that they are not served."""
        await self._registry.polled.wait()
        await self._heartbeat.run(stop)

    async def _flush_reads(self) -> None:
        for station in list(self._stations.values()):
            await station.flush_reads()


def _mention(line: Line) -> None:
    what, whom, where = line.key
    fields = {"whom": whom, "where": where, "count": line.count, "reason": line.reason}
    _log.warning(f"{what} failed", **{name: value for name, value in fields.items() if value})
