"""A party of another release, met for real: one clear line on both sides."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

from cloudtaser.beacon.log import Log
from cloudtaser.net.dial import Address
from cloudtaser.net.rendezvous import BeaconRefusedError, meet
from cloudtaser.net.tls import beacon_client
from cloudtaser.wire import rendezvous
from cloudtaser.wire.rendezvous import Role
from tests.integration.beacon_peer import running


async def test_a_beacon_and_a_client_of_another_release_say_so_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    async with running(tmp_path, log=Log("info", stream)) as beacon:
        host, port = beacon.addresses[0]
        visitor = rendezvous.Visitor(Role.BRIDGE, bytes(32))
        newer = b"CTB2" + visitor.hello()[4:]
        monkeypatch.setattr(rendezvous.Visitor, "hello", lambda _: newer)
        with pytest.raises(BeaconRefusedError) as refused:
            await meet(
                Address(host, port), Role.BRIDGE, bytes(32), beacon_client(None, True), asyncio.Protocol()
            )
    line = refused.value.diagnostic()
    assert line.startswith("the beacon does not understand our hello")
    assert line.endswith("it may be of a newer or older release: upgrade the older of the two")
    logged = [json.loads(text) for text in stream.getvalue().splitlines()]
    (told,) = [entry["what"] for entry in logged if entry["event"] == "bad hello"]
    assert told == "a hello of a newer or older release: it speaks CTB2, we CTB1"
