"""Registration: give a cluster its space in OpenBao.

Used by `cloudtaser-cli source register`. Everything is done by idempotent steps with
the registration's record last: a run killed anywhere is completed by the next, and bridges see a cluster only
once all of it is there (spec/openbao.md, "source register is idempotent").
"""

from __future__ import annotations

import base64
import secrets
import time
from dataclasses import dataclass, replace
from typing import Final

from cloudtaser.errors import UsageError
from cloudtaser.openbao import policies, pregenerated
from cloudtaser.openbao.authorities import Authority, ensure_authority
from cloudtaser.openbao.bridge_token import bridge_rights
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import open_layout
from cloudtaser.openbao.form import Form
from cloudtaser.openbao.grants import restore_grants
from cloudtaser.openbao.layout import (
    DEFAULT_ROLE,
    OPERATOR_ROLE,
    Layout,
    Space,
    check_space_name,
)
from cloudtaser.openbao.pki import PkiRole, role_settings
from cloudtaser.openbao.pregenerated import Authorities
from cloudtaser.openbao.records import Records, Registered, instant
from cloudtaser.openbao.roles import default_role, operator_role, pod_token_role
from cloudtaser.openbao.spaces import claim, ensure_system, find_space
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.wire.bootstrap import derive_psk
from cloudtaser.wire.hashes import check_fingerprint, init_room, short_fingerprint
from cloudtaser.wire.names import OPERATOR_SUBJECT

UNUSED_SECONDS: Final = 24 * 3600
_JOIN_CODE_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class RegistrationResult:
    """What a registration came to. A CA is None where a dry run would make it."""

    fingerprint: str
    space: Space
    init_hash: str
    tunnel_ca: Authority | None
    pod_ca: Authority | None
    join_code: str
    actions: tuple[Action, ...]
    created: bool
    changed: bool
    initialized: bool
    expires_at: str

    @property
    def info_hash(self) -> str:
        """The operational room, hex: who knows it can enter that room."""
        return self.tunnel_ca.fingerprint if self.tunnel_ca else ""

    @property
    def bridge_pin(self) -> str:
        """What an operator may pin, safe in git: it is not the room's hash."""
        return self.tunnel_ca.pin if self.tunnel_ca else ""


async def register(
    client: OpenBao,
    fingerprint: str,
    *,
    space: str | None = None,
    join_code: bool = False,
    broker_addresses: tuple[str, ...] = (),
    pregenerate: bool = False,
    dry_run: bool = False,
    form: Form | None = None,
    layout: Layout | None = None,
    now: float | None = None,
) -> RegistrationResult:
    """Set up server, space and record of a cluster, whatever of it is there already.

    `space` names the space where the default name belongs to another cluster; `join_code` asks for a code
    that the operator must then show, and makes any earlier one void; `form` is the layout for a server that
    holds none yet; `pregenerate` stores pairs of one year for bridge and broker, and a later run without it
    looks after them. Raises UsageError, OpenBaoError, UnavailableError.
    """
    check_fingerprint(fingerprint)
    if space is not None:
        check_space_name(space)
    moment = time.time() if now is None else now
    detected, created_by = await open_layout(client, form)
    layout = layout or detected
    records, steps = Records(client, layout), Steps(client, dry_run)
    await _set_up_server(steps, layout)
    recorded, version = await records.registered_version(fingerprint)
    place = await _choose_space(client, layout, fingerprint, space, recorded)
    await claim(steps, layout, place, fingerprint)
    tunnel_ca, pod_ca = await set_up_space(steps, place, fingerprint, recorded, moment)
    await restore_grants(steps, layout, place, fingerprint)
    await bridge_rights(steps, layout, beside=(fingerprint, place))
    pregenerate = pregenerate or (recorded is not None and recorded.pregenerated)
    if pregenerate:
        both = Authorities(tunnel_ca.pem, pod_ca.pem) if tunnel_ca and pod_ca else None
        await pregenerated.pregenerate(steps, layout, place, fingerprint, both, now=moment)
    initialized = recorded is not None and await records.initialized(fingerprint) is not None
    if join_code and initialized:
        raise UsageError(
            "the cluster has come in already; a join code is for the first time",
            on=fingerprint,
            fix="leave --join-code away",
        )
    lapsed = recorded is not None and not initialized and recorded.lapsed(moment)
    # a code lapses with the registration; who asked for one is not let in without
    strict = join_code or (lapsed and recorded is not None and bool(recorded.join_psk))
    code = new_join_code() if strict else ""
    wanted = fresh_record(
        fingerprint,
        place,
        tunnel_ca,
        pod_ca,
        created_by=created_by,
        code=code,
        broker_addresses=broker_addresses,
        pregenerate=pregenerate,
        now=moment,
    )
    if recorded is not None:
        wanted = _carry_over(wanted, recorded, renew=bool(code) or lapsed)
    path = layout.record_path(layout.registered(fingerprint))
    if wanted == recorded:
        steps.fine(layout.system_namespace, path, "the registration")
    else:
        why = "record the registration: bridges see the cluster from now on"
        steps.actions.append(Action("POST", layout.system_namespace, path, why, True))
        if not dry_run:
            await records.write_registered(wanted, version)
            if not layout.has_namespaces:  # another's registration may not have seen this one yet
                await bridge_rights(Steps(client), layout)
    return RegistrationResult(
        fingerprint=fingerprint,
        space=place,
        init_hash=wanted.init_room,
        tunnel_ca=tunnel_ca,
        pod_ca=pod_ca,
        join_code="" if dry_run else code,
        actions=tuple(steps.actions),
        created=recorded is None,
        changed=steps.changed,
        initialized=initialized,
        expires_at=wanted.expires_at,
    )


def fresh_record(
    fingerprint: str,
    space: Space,
    tunnel_ca: Authority | None,
    pod_ca: Authority | None,
    *,
    created_by: str,
    code: str,
    broker_addresses: tuple[str, ...],
    pregenerate: bool,
    now: float,
) -> Registered:
    """The record of a cluster that nobody has come in for yet; of a join code it holds the derived key."""
    return Registered(
        fingerprint=fingerprint,
        created_at=instant(now),
        created_by=created_by,
        expires_at=instant(now + UNUSED_SECONDS),
        init_room=init_room(fingerprint).hex(),
        info_hash=tunnel_ca.fingerprint if tunnel_ca else "",
        tunnel_ca=tunnel_ca.pem if tunnel_ca else "",
        pod_ca=pod_ca.pem if pod_ca else "",
        space=space.name,
        namespace=space.namespace,
        operator_subject=OPERATOR_SUBJECT,
        join_psk=derive_psk(fingerprint, code).hex() if code else "",
        policies=space.policies,
        mounts=space.mounts,
        broker_addresses=broker_addresses,
        pregenerated=pregenerate,
    )


def new_join_code() -> str:
    """128 random bits in base32, for a person to carry from here to the cluster's values."""
    return base64.b32encode(secrets.token_bytes(_JOIN_CODE_BYTES)).decode().rstrip("=")


def _carry_over(wanted: Registered, recorded: Registered, *, renew: bool) -> Registered:
    """What an earlier registration settled stays; `renew` begins its 24 hours again. A rotation under way
    goes on, unless the CA that was to follow had to be made anew: with it went the former one."""
    same_tunnel_ca, same_pod_ca = wanted.tunnel_ca == recorded.tunnel_ca, wanted.pod_ca == recorded.pod_ca
    return replace(
        wanted,
        created_at=recorded.created_at,
        created_by=recorded.created_by,
        expires_at=wanted.expires_at if renew else recorded.expires_at,
        join_psk=wanted.join_psk or recorded.join_psk,
        suspended=recorded.suspended,
        broker_addresses=wanted.broker_addresses or recorded.broker_addresses,
        former_tunnel_ca=recorded.former_tunnel_ca if same_tunnel_ca else None,
        former_pod_cas=recorded.former_pod_cas if same_pod_ca else (),
        endorsement=recorded.endorsement if same_tunnel_ca else "",
        rotated_at=recorded.rotated_at,
        cas_rotated_at=recorded.cas_rotated_at,
        pregenerated=recorded.pregenerated,
    )


async def _set_up_server(steps: Steps, layout: Layout) -> None:
    """What all clusters share: the namespace, the records' mount, what several clusters may read."""
    system = layout.system_namespace
    await ensure_system(steps, layout)
    await steps.mount(system, layout.state_mount, "kv", "holds the records")
    why = "no record is overwritten unseen"
    await steps.ensure(system, f"{layout.state_mount}/config", {"cas_required": True}, why)
    if layout.has_namespaces:
        await steps.mount(system, layout.shared_mount, "kv", "holds what several clusters may read")


async def _choose_space(
    client: OpenBao, layout: Layout, fingerprint: str, asked: str | None, recorded: Registered | None
) -> Space:
    """The space recorded, or begun under another name, or asked for, or of the default name."""
    existing = recorded.space if recorded else await find_space(client, layout, fingerprint)
    if existing is not None and asked is not None and asked != existing:
        raise UsageError(
            f"the cluster has its space already, under the name {existing}",
            on=f"--space {asked}",
            fix="leave --space away, or deregister the cluster with --purge first",
        )
    return layout.space(existing or asked or short_fingerprint(fingerprint))


async def set_up_space(
    steps: Steps, space: Space, fingerprint: str, recorded: Registered | None, now: float
) -> tuple[Authority | None, Authority | None]:
    """Have all in the space that a cluster needs; its two CAs, None where a dry run would make them."""
    where, fp8 = space.namespace, short_fingerprint(fingerprint)
    if space.namespace:  # else it is there: it is how a space is claimed
        await steps.mount(where, space.secret, "kv", "holds the cluster's secrets")
    await steps.mount(where, space.transit, "transit", "holds keys that encrypt for the cluster")
    tunnel_ca = await ensure_authority(
        steps, where, space.pki_tunnel, "tunnel CA", recorded=recorded.tunnel_ca if recorded else "", now=now
    )
    pod_ca = await ensure_authority(
        steps, where, space.pki_pod, "pod CA", recorded=recorded.pod_ca if recorded else "", now=now
    )
    for role in PkiRole:
        path = f"{role.mount(space)}/roles/{role}"
        await steps.ensure(
            where, path, role_settings(role, fingerprint), f"what certificates of role {role} may say"
        )
    login = await steps.mount(where, f"auth/{space.jwt}", "jwt", "pods and operator log in here")
    accessor = str(login["accessor"]) if login else f"<accessor of auth/{space.jwt}>"
    policy = policies.default_pod_policy(space, accessor)
    why = "every pod may read what lies under its own namespace"
    await steps.policy(where, space.default_policy, policy, why)
    policy = policies.operator_policy(space)
    await steps.policy(where, space.operator_policy, policy, "what the operator may do")
    await steps.ensure(
        where, space.role_path(DEFAULT_ROLE), default_role(space, fp8), "any pod of the cluster"
    )
    await steps.ensure(
        where, space.role_path(OPERATOR_ROLE), operator_role(space, fp8), "the cluster's operator"
    )
    path = f"auth/token/roles/{space.pod_token_role}"
    await steps.ensure(where, path, pod_token_role(space), "tokens that the operator makes for sealed pods")
    return tunnel_ca, pod_ca
