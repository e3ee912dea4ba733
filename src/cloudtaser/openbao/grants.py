"""Grants: which pods may read what, decided on the vault side alone.

Used by `cloudtaser-cli source allow | deny | grants`. A grant is a policy, a JWT role that carries it, and
the record by which bridges choose that role at login; each run makes all three agree, so one that was killed
is completed by the next (spec/openbao.md, "Who may read what").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cloudtaser.openbao import policies
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import not_registered, open_layout
from cloudtaser.openbao.layout import Layout, Space, pod_role_name
from cloudtaser.openbao.paths import (
    check_in_space,
    check_namespace,
    check_path,
    check_service_account,
    is_kv2,
)
from cloudtaser.openbao.records import Grant, Grants, Records
from cloudtaser.openbao.roles import granted_role
from cloudtaser.openbao.spaces import own_mounts
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.wire.hashes import check_fingerprint, short_fingerprint


@dataclass(frozen=True, slots=True)
class GrantResult:
    """What a namespace and ServiceAccount may read now (or would), and what was done for it."""

    grant: Grant
    actions: tuple[Action, ...]
    changed: bool


async def allow(
    client: OpenBao,
    fingerprint: str,
    namespace: str,
    service_account: str,
    paths: Sequence[str],
    *,
    dry_run: bool = False,
    layout: Layout | None = None,
) -> GrantResult:
    """Let the pods of a namespace and ServiceAccount ("": any of it) read these API paths too."""
    change = await _Change.begin(client, fingerprint, namespace, service_account, paths, dry_run, layout)
    mounts = await own_mounts(client, change.space)
    for path in paths:
        check_in_space(path, change.space, mounts)
    return await change.settle(sorted({*change.held, *paths}), mounts)


async def deny(
    client: OpenBao,
    fingerprint: str,
    namespace: str,
    service_account: str,
    paths: Sequence[str],
    *,
    dry_run: bool = False,
    layout: Layout | None = None,
) -> GrantResult:
    """Take these paths back, or with none given all that was granted. What was not granted is no error."""
    change = await _Change.begin(client, fingerprint, namespace, service_account, paths, dry_run, layout)
    left = sorted(set(change.held) - set(paths)) if paths else []
    return await change.settle(left, await own_mounts(client, change.space))


async def granted(client: OpenBao, fingerprint: str, *, layout: Layout | None = None) -> tuple[Space, Grants]:
    """The cluster's space and all grants beside the default one."""
    check_fingerprint(fingerprint)
    layout = layout or (await open_layout(client))[0]
    records = Records(client, layout)
    recorded = await records.registered(fingerprint)
    if recorded is None:
        raise not_registered(fingerprint)
    return layout.space(recorded.space), await records.grants(fingerprint)


@dataclass(slots=True)
class _Change:
    """One grant on its way from what is recorded to what is wanted."""

    steps: Steps
    layout: Layout
    space: Space
    fingerprint: str
    namespace: str
    service_account: str
    grants: Grants
    version: int

    @classmethod
    async def begin(
        cls,
        client: OpenBao,
        fingerprint: str,
        namespace: str,
        service_account: str,
        paths: Sequence[str],
        dry_run: bool,
        layout: Layout | None,
    ) -> _Change:
        check_fingerprint(fingerprint)
        check_namespace(namespace)
        check_service_account(service_account)
        for path in paths:
            check_path(path)
        detected, _ = await open_layout(client)
        layout = layout or detected
        space, _ = await granted(client, fingerprint, layout=layout)
        grants, version = await Records(client, layout).grants_version(fingerprint)
        steps = Steps(client, dry_run)
        return cls(steps, layout, space, fingerprint, namespace, service_account, grants, version)

    @property
    def held(self) -> tuple[str, ...]:
        """The paths granted so far."""
        grant = self.grants.roles.get(self.role)
        return grant.paths if grant else ()

    @property
    def role(self) -> str:
        return pod_role_name(self.namespace, self.service_account)

    async def settle(self, paths: list[str], mounts: dict[str, Any]) -> GrantResult:
        """Make policy, role and record say `paths`; a right leaves the policy before the record."""
        grant = Grant(self.namespace, self.service_account, tuple(paths))
        where, who = self.space.namespace, _who(grant)
        if paths:
            await _ensure(self.steps, self.space, self.fingerprint, grant, mounts)
            await self._record({**self.grants.roles, self.role: grant})
        else:
            policy = self.space.pod_policy(self.namespace, self.service_account)
            await self.steps.remove_policy(where, policy, f"{who} keeps what every pod may read")
            await self._record({name: held for name, held in self.grants.roles.items() if name != self.role})
            role = self.space.role_path(self.role)
            await self.steps.remove(where, role, f"{who} logs in under the default role")
        return GrantResult(grant, tuple(self.steps.actions), self.steps.changed)

    async def _record(self, roles: dict[str, Grant]) -> None:
        record = Grants(dict(sorted(roles.items())))
        path = self.layout.record_path(self.layout.grants(self.fingerprint))
        why = "what bridges go by at login"
        if record == self.grants:
            self.steps.fine(self.layout.system_namespace, path, why)
            return
        self.steps.actions.append(Action("POST", self.layout.system_namespace, path, why, True))
        if not self.steps.dry_run:
            records = Records(self.steps.client, self.layout)
            await records.write_grants(self.fingerprint, record, self.version)


async def restore_grants(
    steps: Steps, layout: Layout, space: Space, fingerprint: str, grants: Grants | None = None
) -> None:
    """Have a policy and a role for every recorded grant, whatever became of them; `register` completes so.

    `grants` are those of the record, unless they are to be recorded yet.
    """
    if grants is None:
        grants = await Records(steps.client, layout).grants(fingerprint)
    if not grants.roles:
        return
    mounts = await own_mounts(steps.client, space)
    for grant in grants.roles.values():
        await _ensure(steps, space, fingerprint, grant, mounts)


async def _ensure(steps: Steps, space: Space, fingerprint: str, grant: Grant, mounts: dict[str, Any]) -> None:
    kv = [space.path(mount.rstrip("/")) for mount, info in mounts.items() if is_kv2(info)]
    name = space.pod_policy(grant.namespace, grant.serviceaccount)
    policy = policies.pod_policy(map(space.path, grant.paths), kv_mounts=kv)
    await steps.policy(space.namespace, name, policy, f"what {_who(grant)} may read")
    role = granted_role(space, short_fingerprint(fingerprint), grant.namespace, grant.serviceaccount)
    path = space.role_path(pod_role_name(grant.namespace, grant.serviceaccount))
    await steps.ensure(space.namespace, path, role, f"the login of {_who(grant)}")


def _who(grant: Grant) -> str:
    return f"{grant.namespace}/{grant.serviceaccount or '*'}"
