"""Clock: the time as OpenBao has it.

Used by everything that compares with what OpenBao or a bridge wrote down: an administrator's workstation may
be minutes off, and a certificate is older than a rotation by OpenBao's clock or not at all.
"""

from __future__ import annotations

from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.client import OpenBao


async def server_time(client: OpenBao) -> float:
    """Seconds since the epoch, whole."""
    answer = await client.request("GET", "sys/health", namespace="")
    moment = answer.get("server_time_utc")
    if not isinstance(moment, int):
        raise ProtocolError("OpenBao does not tell its time", on=f"{client.address} GET sys/health")
    return float(moment)
