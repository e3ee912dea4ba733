"""Rotation of a cluster's CAs: a second pair beside the first, until nobody needs the first any more.

Used by `cloudtaser-cli source rotate --ca`. The state is in the registration alone: with a former tunnel CA a
rotation is under way. A run killed anywhere is taken up by the next, which adopts a CA that was made and not
yet recorded, and deletes one that no record names any more (spec/wire.md, "CA rotation and running pods").
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloudtaser.openbao import usage
from cloudtaser.openbao.authorities import describe, ensure_successor, recorded_issuer
from cloudtaser.openbao.bridge_token import bridge_rights
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clock import server_time
from cloudtaser.openbao.clusters import not_registered, open_layout
from cloudtaser.openbao.issuers import (
    Issuer,
    forget_issuers,
    stays,
    unneeded,
    use_issuer,
)
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.pki import ENDORSEMENT_SECONDS, PkiRole, new_key, role_settings, sign
from cloudtaser.openbao.pregenerated import Authorities, pregenerate
from cloudtaser.openbao.records import Former, Records, Registered, instant, seconds
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.wire.hashes import check_fingerprint
from cloudtaser.wire.names import successor_uri

TUNNEL_CA: Final = "tunnel CA"
POD_CA: Final = "pod CA"
REST_SECONDS: Final = 60
"""After the end of a rotation: a run in this time repeats the one that ended it, and starts no other."""


class RotationState(enum.StrEnum):
    """Where a run left the rotation."""

    STARTED = "started"
    WAITING = "waiting"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a run came to. `registered` is the record as it is now (would be, in a dry run); `waiting` says
    what keeps the rotation from its end."""

    registered: Registered
    state: RotationState
    used: usage.Usage
    waiting: tuple[str, ...]
    actions: tuple[Action, ...]


async def rotate_authorities(
    client: OpenBao,
    fingerprint: str,
    *,
    force: bool = False,
    dry_run: bool = False,
    layout: Layout | None = None,
    now: float | None = None,
) -> Rotation:
    """Start a rotation of both CAs; with one under way, finish it if nobody needs the former ones any more.

    `force` finishes it whoever still does. `now` is OpenBao's time. Raises CloudtaserError for a cluster that
    is not registered, CasConflict if somebody else changed the registration meanwhile.
    """
    check_fingerprint(fingerprint)
    detected, _ = await open_layout(client)
    layout = layout or detected
    recorded, version = await Records(client, layout).registered_version(fingerprint)
    if recorded is None:
        raise not_registered(fingerprint)
    moment = await server_time(client) if now is None else now
    run = _Run(client, layout, recorded, version, moment, Steps(client, dry_run))
    if recorded.former_tunnel_ca is not None:
        return await run.finish(force=force)
    if await run.left_over():
        await run.clean_up()
        return await run.result(RotationState.FINISHED)
    if run.just_ended():
        return await run.result(RotationState.FINISHED)
    return await run.start()


class _Run:
    """One run, over one registration as it was read."""

    def __init__(
        self,
        client: OpenBao,
        layout: Layout,
        recorded: Registered,
        version: int,
        now: float,
        steps: Steps,
    ) -> None:
        self._client = client
        self._layout = layout
        self._records = Records(client, layout)
        self._recorded = recorded
        self._version = version
        self._now = now
        self._steps = steps
        self._space: Space = layout.space(recorded.space)

    @property
    def _mounts(self) -> tuple[tuple[str, str, str], ...]:
        """Mount, name and recorded certificate of both CAs."""
        recorded, space = self._recorded, self._space
        return (
            (space.pki_tunnel, TUNNEL_CA, recorded.tunnel_ca),
            (space.pki_pod, POD_CA, recorded.pod_ca),
        )

    async def start(self) -> Rotation:
        """Make the next CAs, have the former tunnel CA vouch for the next, and record all of it."""
        where, steps = self._space.namespace, self._steps
        await bridge_rights(steps, self._layout)  # an earlier version's know no former CA
        settings = role_settings(PkiRole.SUCCESSOR, self._recorded.fingerprint)
        path = f"{self._space.pki_tunnel}/roles/{PkiRole.SUCCESSOR}"
        await steps.ensure(where, path, settings, "how the former tunnel CA vouches for the next")
        former: list[Issuer] = []
        successors: list[Issuer | None] = []
        for mount, name, pem in self._mounts:
            former.append(await recorded_issuer(steps, where, mount, name, pem))
            successors.append(await ensure_successor(steps, where, mount, name, recorded=pem, now=self._now))
        endorsement = await self._endorse(former[0], successors[0])
        mounts = self._mounts
        replaced_at = instant(self._now)
        tunnel_ca, pod_ca = successors
        if tunnel_ca is not None and pod_ca is not None:
            described = describe(tunnel_ca.pem)
            wanted = replace(
                self._recorded,
                info_hash=described.fingerprint,
                tunnel_ca=described.pem,
                pod_ca=describe(pod_ca.pem).pem,
                former_tunnel_ca=Former(self._recorded.tunnel_ca, former[0].id, replaced_at),
                former_pod_cas=(Former(self._recorded.pod_ca, former[1].id, replaced_at),),
                endorsement=endorsement,
            )
        else:
            wanted = self._recorded
        await self._record(wanted, "record the rotation: bridges serve both CAs from now on")
        # behind the record: cut off here, bridges go on under the former CAs, whose issuers it names
        for (mount, name, _), issuer in zip(mounts, successors, strict=True):
            why = f"sign under the next {name} from now on"
            if issuer is not None:
                await use_issuer(steps, where, mount, issuer, why)
            else:
                await steps.do("POST", where, f"{mount}/config/issuers", why)
        await self._pregenerate(made=tunnel_ca is not None and pod_ca is not None)
        return await self.result(RotationState.STARTED)

    async def finish(self, *, force: bool) -> Rotation:
        """End the rotation under way if nothing of the former CAs is in use, or by force."""
        for mount, name, pem in self._mounts:
            current = await recorded_issuer(self._steps, self._space.namespace, mount, name, pem)
            why = f"sign under the next {name} from now on"
            await use_issuer(self._steps, self._space.namespace, mount, current, why)
        await self._pregenerate(made=True)
        initialized = await self._records.initialized(self._recorded.fingerprint)
        waiting = await self._obstacles() if initialized is not None else []
        if waiting and not force:
            return await self.result(RotationState.WAITING, waiting)
        wanted = replace(
            self._recorded,
            former_tunnel_ca=None,
            former_pod_cas=(),
            endorsement="",
            cas_rotated_at=instant(self._now),
        )
        await self._record(wanted, "record the end of the rotation: bridges leave the former CAs")
        await self.clean_up()
        return await self.result(RotationState.FINISHED, waiting)

    def just_ended(self) -> bool:
        """Whether the last rotation ended a moment ago: who does not know how his run ended repeats it."""
        ended = self._recorded.cas_rotated_at
        return bool(ended) and self._now - seconds(ended) < REST_SECONDS

    async def left_over(self) -> bool:
        """Whether a mount holds what only a rotation that an earlier run ended can have left behind."""
        for mount, keep in self._kept():
            issuers, keys = await unneeded(self._steps, self._space.namespace, mount, keep)
            if issuers or keys:
                return True
        return False

    async def clean_up(self) -> None:
        """Delete the CAs that no record names any more."""
        for mount, keep in self._kept():
            why = "forget what no registration names any more"
            await forget_issuers(self._steps, self._space.namespace, mount, keep, why)

    async def result(self, state: RotationState, waiting: list[str] | None = None) -> Rotation:
        used = usage.usage(self._recorded, await self._records.sightings(), self._now)
        return Rotation(self._recorded, state, used, tuple(waiting or ()), tuple(self._steps.actions))

    def _kept(self) -> list[tuple[str, Callable[[Issuer], bool]]]:
        """By mount what stays: the recorded issuer, and one that was made to follow it."""
        return [(mount, stays(pem, describe(pem).fingerprint)) for mount, _, pem in self._mounts]

    async def _obstacles(self) -> list[str]:
        used = usage.usage(self._recorded, await self._records.sightings(), self._now)
        return usage.obstacles(self._recorded, used, self._now)

    async def _endorse(self, former: Issuer, successor: Issuer | None) -> str:
        """A certificate (PEM) under the former tunnel CA that names the next; its key is thrown away."""
        role = PkiRole.SUCCESSOR
        path = f"{self._space.pki_tunnel}/issuer/{former.id}/sign/{role}"
        why = "have the former tunnel CA vouch for the next"
        self._steps.actions.append(Action("POST", self._space.namespace, path, why, True))
        if successor is None:
            return ""
        der = x509.load_pem_x509_certificate(successor.pem.encode()).public_bytes(Encoding.DER)
        issued = await sign(
            self._client,
            self._space,
            role,
            new_key()[1],
            uris=(successor_uri(self._recorded.fingerprint, der),),
            ttl=f"{ENDORSEMENT_SECONDS}s",
            issuer=former.id,
        )
        return issued.certificate_pem.decode()

    async def _pregenerate(self, *, made: bool) -> None:
        """In the pre-generated form, have pairs under the next CAs, if these are `made` and recorded."""
        recorded = self._recorded
        if recorded.pregenerated:
            both = Authorities(recorded.tunnel_ca, recorded.pod_ca) if made else None
            await pregenerate(
                self._steps, self._layout, self._space, recorded.fingerprint, both, now=self._now
            )

    async def _record(self, wanted: Registered, why: str) -> None:
        path = self._layout.record_path(self._layout.registered(wanted.fingerprint))
        self._steps.actions.append(Action("POST", self._layout.system_namespace, path, why, True))
        if not self._steps.dry_run:
            self._version = await self._records.write_registered(wanted, self._version)
        self._recorded = wanted
