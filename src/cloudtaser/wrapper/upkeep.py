"""Upkeep: the leases of dynamic secrets are renewed, and noticed when somebody revokes one.

`session` calls it and acts on the verdicts: what is to be replaced is read anew, which gives a new lease.
"""

from cloudtaser.wrapper import jsontext
from cloudtaser.wrapper.client import Answer, Call, Client
from cloudtaser.wrapper.lease import Lease
from cloudtaser.wrapper.loop import Loop
from cloudtaser.wrapper.secrets import Secret, lease_renewal

_PART_OF_THE_REST = 0.5

KEPT, REPLACE, REFUSED, LATER = "kept", "replace", "refused", "later"


async def renew(client: Client, loop: Loop, secret: Secret, lease: Lease) -> tuple[str, Answer | None]:
    """KEPT; REPLACE where it cannot be renewed; REFUSED where the token may not; LATER where the engine
    cannot now, as its database is away: then the answer says why, and the lease is due again after a while.
    Raises UnavailableError.
    """
    if lease.is_gone or not lease.renewable:
        return REPLACE, None
    (answer,) = await client.ask([(b"POST", "sys/leases/renew", lease_renewal(lease))])
    if answer.status == 200:
        lease.renewed(secret.renewed_duration(answer), loop.now())
        secret.backoff.reset()
        return KEPT, None
    if answer.status == 403:
        return REFUSED, answer
    if answer.status != 500:
        client.judge(answer)
    (found,) = await client.ask([look_up(lease)])
    if found.status not in (200, 400, 403):
        client.judge(found)
    left = jsontext.integer(found.buffer, found.root.get("data", "ttl")) if found.status == 200 else 0
    if not lease.is_worth_keeping(left):
        return REPLACE, answer
    lease.postpone(loop.now() + min(secret.backoff.next(), left * _PART_OF_THE_REST))
    return LATER, answer


def look_up(lease: Lease) -> Call:
    """The call that asks whether the server still knows a lease."""
    return b"POST", "sys/leases/lookup", lease_renewal(lease)


def is_gone(lease: Lease, answer: Answer) -> bool:
    """Whether a look-up's answer tells that the lease was revoked. One that is forbidden is not repeated."""
    if answer.status in (401, 403):
        lease.may_look_up = False
    lease.is_gone = answer.status in (400, 404)
    return lease.is_gone
