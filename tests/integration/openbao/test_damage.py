"""Damaged records: one clear line about one cluster or bridge, and everything else goes on."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import CloudtaserError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import list_clusters, show
from cloudtaser.openbao.deregistration import deregister
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.moving import move
from cloudtaser.openbao.records import BridgeRecord, Records, instant
from cloudtaser.openbao.registration import register
from cloudtaser.openbao.reset import reset
from cloudtaser.openbao.rotation import RotationState, rotate_authorities
from cloudtaser.openbao.status import look
from tests.integration.openbao.support import (
    RegisteredCluster,
    come_in,
    logs_in,
    new_fingerprint,
    registered_cluster,
    report,
)


async def damage(root: OpenBao, layout: Layout, record: str, **fields: Any) -> None:
    """Overwrite fields of a record that is there; with none, all of it."""
    where = layout.system_namespace
    found = await root.kv_read(layout.state_mount, record, namespace=where)
    version, data = (found.version, dict(found.data)) if found else (0, {})
    data = data | fields if fields else {"x": "y"}
    await root.kv_write(layout.state_mount, record, data, namespace=where, cas=version)


async def said(command: Callable[[], Awaitable[object]]) -> str:
    """What a command says to a person that fails; "" if it does not."""
    try:
        await command()
    except CloudtaserError as error:
        return error.diagnostic()
    return ""


async def test_one_damaged_cluster_hides_no_other(
    server: DevServer, root: OpenBao, cluster: RegisteredCluster
) -> None:
    layout = cluster.layout
    for kind in ("registered", "initialized", "keys"):
        other = await registered_cluster(server, root, layout)
        await come_in(root, other)
        await damage(root, layout, getattr(layout, kind)(other.fingerprint))
        listed = {one.fingerprint: one.state for one in await list_clusters(root, layout=layout)}
        status = await look(root, layout=layout)
        assert listed[cluster.fingerprint] == "registered"
        assert listed[other.fingerprint] == ("initialised" if kind == "keys" else "damaged")
        assert cluster.fingerprint in [one.fingerprint for one in status.clusters]
        (need,) = [need for need in status.needs if need.startswith(other.fingerprint)]
        assert "is damaged" in need
        assert "bao kv rollback" in need


@pytest.mark.parametrize("field", ["tunnel_ca", "pod_ca", "former_tunnel_ca", "former_pod_cas"])
async def test_what_is_no_certificate_is_said_in_one_line(
    root: OpenBao, cluster: RegisteredCluster, field: str
) -> None:
    layout, former = cluster.layout, {"pem": "x", "issuer": "i", "replaced_at": instant(time.time())}
    value: Any = {"former_tunnel_ca": former, "former_pod_cas": [former]}.get(field, "x")
    await rotate_authorities(root, cluster.fingerprint, layout=layout)
    await damage(root, layout, layout.registered(cluster.fingerprint), **{field: value})
    commands: list[Callable[[], Awaitable[object]]] = [
        lambda: show(root, cluster.fingerprint, layout=layout),
        lambda: rotate_authorities(root, cluster.fingerprint, layout=layout),
        lambda: reset(root, cluster.fingerprint, layout=layout),
    ]
    if not field.startswith("former"):
        commands.append(lambda: move(root, cluster.fingerprint, new_fingerprint(), layout=layout))
    assert "no certificate where one belongs" in await said(commands[0])
    for command in commands:
        assert "\n" not in await said(command)
    await look(root, layout=layout)


@pytest.mark.parametrize("fields", [{}, {"served": 7}, {"started_at": "yesterday"}], ids=str)
async def test_a_bridge_that_reports_nonsense_stops_nobody_but_is_waited_for(
    root: OpenBao, cluster: RegisteredCluster, fields: dict[str, Any]
) -> None:
    layout = cluster.layout
    await come_in(root, cluster)
    await report(root, cluster, bridge="eu-9")
    await damage(root, layout, layout.bridge("eu-9"), **fields)
    await show(root, cluster.fingerprint, layout=layout)
    status = await look(root, layout=layout)
    assert any("what bridge eu-9 reports cannot be read" in need for need in status.needs)
    await rotate_authorities(root, cluster.fingerprint, layout=layout)
    waiting = await rotate_authorities(root, cluster.fingerprint, layout=layout)
    assert waiting.state is RotationState.WAITING
    assert any("bridge eu-9 reports cannot be read" in line for line in waiting.waiting)
    # it has its own record right again with its next sign of life
    await report(root, cluster, bridge="eu-9")
    assert not any("cannot be read" in need for need in (await look(root, layout=layout)).needs)


async def test_a_bridge_speaks_for_no_other(root: OpenBao, cluster: RegisteredCluster) -> None:
    records = Records(root, cluster.layout)
    await report(root, cluster, bridge="eu-1", tunnels={"former": 2})
    await damage(root, cluster.layout, cluster.layout.bridge("eu-2"))
    await records.write_bridge(BridgeRecord("eu-2", "0", instant(time.time())))
    await damage(root, cluster.layout, cluster.layout.bridge("eu-2"), id="eu-1")
    assert sorted(one.bridge.id for one in await records.sightings()) == ["eu-1", "eu-2"]


async def test_a_cluster_whose_registration_is_damaged_can_be_deregistered(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    layout = cluster.layout
    await damage(root, layout, layout.registered(cluster.fingerprint))
    await deregister(root, cluster.fingerprint, layout=layout)
    assert await list_clusters(root, layout=layout) == []
    assert not await logs_in(cluster)
    assert (await register(root, cluster.fingerprint, layout=layout)).created
