"""Revocation: end everything that was ever issued in a cluster's space, and look whether it has ended.

Used by `suspension`, `reset` and `moving`. Tokens, leases of every engine and wrapped answers are leases in
OpenBao; it revokes them in the background and repeats what fails, so that what cannot be undone at once (a
database that does not answer) is not forgotten.
"""

from __future__ import annotations

import asyncio
from typing import Final

from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.logins import close, still_closed
from cloudtaser.openbao.spaces import leased_prefixes
from cloudtaser.openbao.steps import Steps

WAIT: Final = 5.0
"""Seconds for OpenBao to revoke everything before it is said what is left."""
_BRIEF: Final = 1.0  # seconds after which is looked whether somebody opened the logins again
_LATE: Final = 0.3  # seconds in which a login comes out that OpenBao had let in before they were closed
_POLL: Final = 0.1
_DEPTH: Final = 12  # folders below a prefix; a path of a secret that was read wrapped can be deep
_MOST: Final = 1000  # leases counted
_TIMES: Final = 3  # bridges that had not seen the record, one after another


async def cut_off(steps: Steps, space: Space, closed_with: str, *, wait: float = WAIT) -> tuple[str, ...]:
    """Revoke everything of a space whose logins were closed with that key, and whatever was issued because
    somebody opened them meanwhile, or because a login was under way; what is left, as `revoke_all` says it.
    They are closed afterwards."""
    brief = min(_BRIEF, wait)
    for _ in range(_TIMES):
        left = await _gone(steps, space, await _revoke(steps, space), brief)
        if not left and not steps.dry_run:
            await asyncio.sleep(min(_LATE, wait))
            left = await _revoke_again(steps, space)
        if await still_closed(steps, space, closed_with):
            break
        closed_with = await close(steps, space)
    return await _describe(steps, space, await _gone(steps, space, left, wait - brief))


async def revoke_all(steps: Steps, space: Space, *, wait: float = WAIT) -> tuple[str, ...]:
    """Revoke every token, lease and wrapped answer of the space; what is left after `wait` seconds, a line
    for each engine."""
    prefixes = await _revoke(steps, space)
    return await _describe(steps, space, await _gone(steps, space, prefixes, wait))


async def _revoke(steps: Steps, space: Space) -> list[str]:
    prefixes = await leased_prefixes(steps.client, space)
    for prefix in prefixes:
        # not one after the other, which would end at the first that cannot be revoked
        body = {"sync": False}
        why = f"revoke every token and lease of {prefix}/"
        await steps.do("POST", space.namespace, f"sys/leases/revoke-prefix/{prefix}", why, body)
    return list(prefixes)


async def _revoke_again(steps: Steps, space: Space) -> list[str]:
    """Revoke what has come since the first time; the prefixes under which something has."""
    late = []
    for prefix in await leased_prefixes(steps.client, space):
        if await _keys(steps.client, space.namespace, prefix):
            late.append(prefix)
            why = f"revoke what was issued under {prefix}/ meanwhile"
            path = f"sys/leases/revoke-prefix/{prefix}"
            await steps.do("POST", space.namespace, path, why, {"sync": False})
    return late


async def _gone(steps: Steps, space: Space, prefixes: list[str], wait: float) -> list[str]:
    """Wait for everything under these prefixes to end; those under which something is left."""
    deadline = asyncio.get_running_loop().time() + wait
    left = [] if steps.dry_run else prefixes
    while left:
        left = [prefix for prefix in left if await _keys(steps.client, space.namespace, prefix)]
        if not left or asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(_POLL)
    return left


async def _describe(steps: Steps, space: Space, left: list[str]) -> tuple[str, ...]:
    return tuple([await _left(steps.client, space.namespace, prefix) for prefix in left])


async def _left(client: OpenBao, namespace: str, prefix: str) -> str:
    count = await _count(client, namespace, prefix, _DEPTH)
    some = f"{count} or more leases" if count >= _MOST else f"{count} lease{'s' if count != 1 else ''}"
    return f"{some} of {prefix}/ could not be revoked yet: OpenBao tries again; its log says why"


async def _count(client: OpenBao, namespace: str, prefix: str, depth: int) -> int:
    found = 0
    for key in await _keys(client, namespace, prefix):
        if not key.endswith("/"):
            found += 1
        elif depth:
            found += await _count(client, namespace, f"{prefix}/{key.rstrip('/')}", depth - 1)
        if found >= _MOST:
            break
    return found


async def _keys(client: OpenBao, namespace: str, prefix: str) -> list[str]:
    return await client.list(f"sys/leases/lookup/{prefix}", namespace=namespace)
