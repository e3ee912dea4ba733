"""Steps: bring OpenBao to a wanted state one idempotent request at a time, and tell what each did.

Used by `registration`, `grants` and `bridge_token`. Each step looks first and writes only what differs, so a
run that was killed is completed by the next one, and a run over whole state changes nothing. In a dry run
nothing is written, and the actions say what would be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.client import Json, OpenBao
from cloudtaser.openbao.policies import Policy


@dataclass(frozen=True, slots=True)
class Action:
    """One request that changed something, would change it (dry run), or was not needed (`changed` False).

    `body` is what it carries, where that is for people to see (policies, roles); never a secret.
    """

    method: str
    namespace: str
    path: str
    why: str
    changed: bool
    body: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Steps:
    """A run against one server: what it looked at and what it did, in order."""

    client: OpenBao
    dry_run: bool = False
    actions: list[Action] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was (or in a dry run would be) written."""
        return any(action.changed for action in self.actions)

    async def find(self, namespace: str, path: str) -> Json | None:
        """What is at `path` now; None where nothing is, be it for want of the namespace."""
        return await self.client.find(path, namespace=namespace)

    async def do(
        self, method: str, namespace: str, path: str, why: str, body: Json | None = None, *, show: bool = True
    ) -> Json:
        """Send a request that changes something; in a dry run only note it, and answer {}."""
        self.actions.append(Action(method, namespace, path, why, True, body if show else None))
        if self.dry_run:
            return {}
        return await self.client.request(method, path, namespace=namespace, body=body)

    def fine(self, namespace: str, path: str, why: str) -> None:
        """Note that something is already as it should be."""
        self.actions.append(Action("GET", namespace, path, why, False))

    async def ensure(
        self,
        namespace: str,
        path: str,
        body: Json,
        why: str,
        *,
        holds: Callable[[Json, Json], bool] | None = None,
    ) -> None:
        """Have `path` hold what `body` says; fields that `body` does not name are left alone."""
        current = await self.find(namespace, path)
        if current is not None and (holds or covers)(current, body):
            self.fine(namespace, path, why)
        else:
            await self.do("POST", namespace, path, why, body)

    async def policy(
        self, namespace: str, name: str, policy: Policy, why: str, *, version: int | None = None
    ) -> None:
        """Have an ACL policy of that name and content; CasConflict unless `version`, where one is given, is
        still what is there."""
        body: Json = {"policy": json.dumps(policy, indent=2)}
        body |= {"cas": version} if version is not None else {}
        await self.ensure(namespace, f"{_POLICIES}/{name}", body, why, holds=_same_policy)

    async def policy_version(self, namespace: str, name: str) -> int | None:
        """Version of an ACL policy; None where there is none, or the server counts none."""
        current = await self.find(namespace, f"{_POLICIES}/{name}") or {}
        version = current.get("version")
        return version if isinstance(version, int) else None

    async def remove_policy(self, namespace: str, name: str, why: str) -> None:
        """Have no ACL policy of that name."""
        await self.remove(namespace, f"{_POLICIES}/{name}", why)

    async def policy_names(self, namespace: str) -> list[str]:
        """The ACL policies there are."""
        return await self.client.list(_POLICIES, namespace=namespace)

    async def mount(
        self, namespace: str, path: str, kind: str, why: str, *, description: str = "", **config: int
    ) -> Json | None:
        """Have an engine of type `kind` at `path` (`auth/…` for a login method); what OpenBao says of it.

        `description` is for one that is made now; `config` are mount settings such as max_lease_ttl in
        seconds. Raises CloudtaserError if something else is mounted there.
        """
        where = f"sys/{path}" if path.startswith("auth/") else f"sys/mounts/{path}"
        options = {"version": "2"} if kind == "kv" else {}
        current = await self.find(namespace, where)
        if current is None:
            body: Json = {"type": kind} | ({"options": options} if options else {})
            body |= ({"config": config} if config else {}) | (
                {"description": description} if description else {}
            )
            await self.do("POST", namespace, where, why, body)
            return await self.find(namespace, where)
        if current.get("type") != kind or not covers(current.get("options") or {}, options):
            raise CloudtaserError(
                f"something other than {kind}{' version 2' if options else ''} is mounted there",
                on=f"{namespace}/{path}".lstrip("/"),
                fix="move it, or choose another space with --space",
            )
        if covers(current.get("config") or {}, config):
            self.fine(namespace, where, why)
        else:
            await self.do("POST", namespace, f"{where}/tune", why, dict(config))
        return current

    async def remove(self, namespace: str, path: str, why: str) -> None:
        """Have nothing at `path`."""
        if await self.find(namespace, path) is None:
            self.fine(namespace, path, f"{why}: gone already")
        else:
            await self.do("DELETE", namespace, path, why)

    async def revoke_leases(self, namespace: str, prefix: str, why: str) -> None:
        """Revoke every token and lease whose id begins with `prefix`/."""
        await self.do("POST", namespace, f"sys/leases/revoke-prefix/{prefix}", why, {})

    async def unmount(self, namespace: str, path: str, why: str) -> None:
        """Have nothing mounted at `path`; what it issued is revoked with it."""
        await self.remove(namespace, f"sys/{path}" if path.startswith("auth/") else f"sys/mounts/{path}", why)


_POLICIES: Final = "sys/policies/acl"


def covers(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether every field of `wanted` has that value in `current`; OpenBao shows an empty list as null."""
    return all(_same(current.get(name), value) for name, value in wanted.items())


def _same(current: Any, wanted: Any) -> bool:
    if wanted in ([], {}) and current is None:
        return True
    if isinstance(wanted, dict) and isinstance(current, dict):
        return covers(current, wanted) and covers(wanted, current)
    return bool(current == wanted)


def _same_policy(current: Json, wanted: Json) -> bool:
    try:
        return bool(json.loads(current.get("policy") or "") == json.loads(wanted["policy"]))
    except ValueError:
        return False
