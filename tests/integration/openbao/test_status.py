"""Status of a real OpenBao: silent while all is well, and one line for each thing that needs a person."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from cloudtaser.demo.openbao import DevServer
from cloudtaser.openbao.accepting import accept_keys
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Keys, Records, instant
from cloudtaser.openbao.registration import register
from cloudtaser.openbao.rotation import rotate_authorities
from cloudtaser.openbao.status import Status, look
from cloudtaser.openbao.suspension import resume, suspend
from cloudtaser.openbao.usage import tunnel_ca_short
from tests.integration.openbao.support import (
    RegisteredCluster,
    Run,
    come_in,
    new_fingerprint,
    recorded,
    registered_cluster,
    report,
)

AT = "2026-01-01T00:00:00Z"


@pytest.fixture
async def live(root: OpenBao, cluster: RegisteredCluster) -> RegisteredCluster:
    """A cluster that has come in, whose logins are open and which one bridge serves."""
    await come_in(root, cluster)
    await resume(root, cluster.fingerprint, layout=cluster.layout)
    await serve(root, cluster)
    return cluster


async def serve(
    root: OpenBao,
    cluster: RegisteredCluster,
    tunnels: int = 2,
    ends_in: float = 20,
    *,
    suspended: bool = False,
) -> None:
    short = tunnel_ca_short((await recorded(root, cluster)).tunnel_ca)
    ends = instant(time.time() + ends_in * 3600)
    open_tunnels = {short: tunnels} if tunnels else {}
    await report(root, cluster, tunnels=open_tunnels, certificate_ends=ends, suspended=suspended)


async def seen(root: OpenBao, cluster: RegisteredCluster, after: float = 0) -> Status:
    return await look(root, layout=cluster.layout, now=time.time() + after)


def needs(status: Status) -> list[str]:
    return list(status.clusters[0].needs)


async def test_while_all_is_well_nothing_needs_a_person(root: OpenBao, live: RegisteredCluster) -> None:
    status = await seen(root, live)
    assert status.needs == ()
    assert [(one.state, one.used.tunnels) for one in status.clusters] == [("initialised", 2)]
    assert [(bridge.sighting.bridge.id, bridge.live) for bridge in status.bridges] == [("eu-1", True)]


async def test_a_bridge_that_fell_silent_is_named_and_one_taken_away_long_ago_is_not(
    root: OpenBao, live: RegisteredCluster
) -> None:
    minutes = await seen(root, live, after=600)
    assert "bridge eu-1 has given no sign of life for 10 minutes" in minutes.needs
    assert "no bridge is running" in minutes.needs
    days = await seen(root, live, after=2 * 86400)
    assert not any("sign of life" in need for need in days.needs)


async def test_a_cluster_without_a_tunnel_is_named(root: OpenBao, live: RegisteredCluster) -> None:
    await serve(root, live, tunnels=0)
    assert needs(await seen(root, live)) == ["no tunnel is open"]


async def test_certificates_that_are_not_renewed_are_named(root: OpenBao, live: RegisteredCluster) -> None:
    await serve(root, live, ends_in=3)
    (need,) = needs(await seen(root, live))
    assert need.startswith("the certificates of bridge eu-1 end ")
    await serve(root, live)
    ten_years = 3650 * 86400
    assert sum("CA ends" in need for need in needs(await seen(root, live, after=ten_years - 86400))) == 2


async def test_keys_that_wait_are_named_until_they_are_accepted(
    root: OpenBao, live: RegisteredCluster
) -> None:
    other = RegisteredCluster(live.fingerprint, live.layout, live.space, live.server)
    record = Keys(live.jwks(), AT, "eu-1", other.jwks(), AT)
    await Records(root, live.layout).write_keys(live.fingerprint, record, 0)
    assert needs(await seen(root, live)) == ["its signing keys wait for `source accept-keys`"]
    await accept_keys(root, live.fingerprint, layout=live.layout)
    assert not any("accept-keys" in need for need in needs(await seen(root, live)))


async def test_a_rotation_is_named_when_it_can_end_or_takes_too_long(
    root: OpenBao, live: RegisteredCluster
) -> None:
    await rotate_authorities(root, live.fingerprint, layout=live.layout, now=time.time() - 60)
    status = await seen(root, live)
    assert (status.clusters[0].state, status.needs) == ("rotating", ())  # the former tunnels still serve
    await serve(root, live)
    assert needs(await seen(root, live)) == ["the rotation of its CAs can end: `source rotate --ca`"]
    late = needs(await seen(root, live, after=2 * 86400))
    assert any(need.startswith("the rotation of its CAs waits since ") for need in late)


async def test_a_suspended_cluster_needs_nobody_unless_it_is_not_closed(
    root: OpenBao, live: RegisteredCluster
) -> None:
    await suspend(root, live.fingerprint, layout=live.layout)
    await serve(root, live, tunnels=0)
    status = await seen(root, live)
    assert (status.clusters[0].state, status.needs) == ("suspended", ())
    await serve(root, live, tunnels=1, suspended=True)
    assert needs(await seen(root, live)) == ["it is suspended, and bridge eu-1 still has tunnels"]
    await serve(root, live, tunnels=1)  # as it was before the bridge heard of it
    assert needs(await seen(root, live)) == [
        "it is suspended, and bridge eu-1 has yet to report that: look again in a minute"
    ]
    await root.request(
        "POST",
        live.space.login_config,
        namespace=live.space.namespace,
        body={
            "jwt_validation_pubkeys": [live.public_key()],
            "bound_issuer": "https://kubernetes.default.svc.cluster.local",
            "jwt_supported_algs": [
                *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
            ],
        },
    )
    assert "it is suspended, and logins are open: suspend it again" in needs(await seen(root, live))


async def test_logins_that_stayed_closed_are_named(root: OpenBao, live: RegisteredCluster) -> None:
    await suspend(root, live.fingerprint, layout=live.layout)
    records = Records(root, live.layout)
    record, version = await records.registered_version(live.fingerprint)
    assert record is not None
    await records.write_registered(replace(record, suspended=False), version)
    assert needs(await seen(root, live)) == ["logins are closed though it is not suspended: `source resume`"]


async def test_a_registration_that_nobody_used_is_named(root: OpenBao, layout: Layout) -> None:
    await register(root, new_fingerprint(), layout=layout)
    status = await look(root, layout=layout, now=time.time() + 2 * 86400)
    assert status.clusters[0].state == "lapsed"
    assert status.clusters[0].needs == ("its registration lapsed unused: register it again",)


async def test_an_empty_server_is_no_error(root: OpenBao, layout: Layout) -> None:
    assert await look(root, layout=layout) == Status((), (), ())


async def test_the_same_comes_in_every_form_and_3_says_that_something_needs_a_person(
    server: DevServer, root: OpenBao, run: Run
) -> None:
    import asyncio

    cluster = await registered_cluster(server, root, Layout())
    await come_in(root, cluster)
    code, out, _ = await asyncio.to_thread(run, "status")
    assert code == 3
    assert f"{cluster.fingerprint}: logins are closed" in out
    shown = json.loads((await asyncio.to_thread(run, "status", "-o", "json"))[1])
    assert cluster.fingerprint in {one["fingerprint"] for one in shown["clusters"]}
    assert shown["needs"] == (await asyncio.to_thread(run, "status", "-q"))[1].splitlines()
