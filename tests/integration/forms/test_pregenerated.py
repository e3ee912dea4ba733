"""Stored pairs in a real OpenBao: whole after any kill, an administrator's to make, a bridge's to read."""

from __future__ import annotations

import datetime as dt
import time

import pytest
from cryptography import x509

from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import NotAuthorisedError
from cloudtaser.openbao.bridge_token import make_bridge_token
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.deregistration import deregister
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.pki import new_key
from cloudtaser.openbao.pregenerated import (
    YEAR_SECONDS,
    Authorities,
    Party,
    fault_of,
    pregenerate,
)
from cloudtaser.openbao.records import Pair, Records, Registered, instant
from cloudtaser.openbao.registration import register
from cloudtaser.openbao.steps import Steps
from cloudtaser.wire.names import bridge_uri, broker_uri
from tests.integration.openbao.support import DyingClient, Killed, new_fingerprint, new_layout


@pytest.fixture
def layout() -> Layout:
    return new_layout()


async def pairs(root: OpenBao, layout: Layout, fingerprint: str) -> dict[Party, Pair]:
    found = {party: (await Records(root, layout).pair(fingerprint, party))[0] for party in Party}
    return {party: pair for party, pair in found.items() if pair is not None}


async def registered(
    root: OpenBao, layout: Layout, fingerprint: str
) -> tuple[Registered, Space, Authorities]:
    record = await Records(root, layout).registered(fingerprint)
    assert record is not None
    return record, layout.space(record.space), Authorities(record.tunnel_ca, record.pod_ca)


async def test_registering_stores_a_pair_of_one_year_for_each_party(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    await register(root, fingerprint, pregenerate=True, layout=layout)
    record, _, authorities = await registered(root, layout, fingerprint)
    assert record.pregenerated
    stored = await pairs(root, layout, fingerprint)
    assert set(stored) == set(Party)
    for party, pair in stored.items():
        assert fault_of(pair, party, fingerprint, authorities, time.time()) == ""
        leaf = x509.load_pem_x509_certificate(pair.certificate.encode())
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc >= dt.timedelta(seconds=YEAR_SECONDS)
        assert "PRIVATE KEY" not in repr(pair)
    names = {
        Party.BRIDGE: [bridge_uri(fingerprint, "pregenerated")],
        Party.BROKER: [broker_uri(fingerprint, "pregenerated")],
        Party.BRIDGE_POD: [],
    }
    for party, uris in names.items():
        leaf = x509.load_pem_x509_certificate(stored[party].certificate.encode())
        shown = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert shown.get_values_for_type(x509.UniformResourceIdentifier) == uris


async def test_a_second_run_changes_nothing_and_one_without_the_flag_looks_after_them(
    root: OpenBao, layout: Layout
) -> None:
    fingerprint = new_fingerprint()
    await register(root, fingerprint, pregenerate=True, layout=layout)
    before = await pairs(root, layout, fingerprint)
    assert not (await register(root, fingerprint, pregenerate=True, layout=layout)).changed
    assert not (await register(root, fingerprint, layout=layout)).changed
    path = layout.pair(fingerprint, Party.BROKER)
    await root.kv_forget(layout.state_mount, path, namespace=layout.system_namespace)
    repaired = await register(root, fingerprint, layout=layout)
    assert any("pair of the broker is missing" in action.why for action in repaired.actions)
    after = await pairs(root, layout, fingerprint)
    assert after[Party.BROKER] != before[Party.BROKER]
    assert after[Party.BRIDGE] == before[Party.BRIDGE]


async def test_an_ordinary_registration_stores_no_key_and_can_be_turned_into_this_form(
    root: OpenBao, layout: Layout
) -> None:
    fingerprint = new_fingerprint()
    first = await register(root, fingerprint, layout=layout)
    assert await pairs(root, layout, fingerprint) == {}
    assert not any("pregenerated" in action.path for action in first.actions)
    await register(root, fingerprint, pregenerate=True, layout=layout)
    assert set(await pairs(root, layout, fingerprint)) == set(Party)


async def test_a_dry_run_makes_no_pair_and_names_each(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    planned = await register(root, fingerprint, pregenerate=True, dry_run=True, layout=layout)
    done = await register(root, fingerprint, pregenerate=True, layout=layout)
    assert [(a.method, a.path) for a in planned.actions] == [(a.method, a.path) for a in done.actions]
    assert sum("of one year" in action.why for action in planned.actions) == 3
    assert not any("PRIVATE" in str(action) for action in done.actions)


async def test_what_ends_soon_is_damaged_or_of_another_ca_is_made_anew(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    await register(root, fingerprint, pregenerate=True, layout=layout)
    before = await pairs(root, layout, fingerprint)
    in_eleven_months = time.time() + YEAR_SECONDS - 20 * 86400
    soon = await register(root, fingerprint, layout=layout, now=in_eleven_months)
    assert sum("ends soon" in action.why for action in soon.actions) == 3
    system, record = layout.system_namespace, layout.pair(fingerprint, Party.BRIDGE)
    bad = {"certificate": before[Party.BRIDGE].certificate, "key": before[Party.BROKER].key}
    await root.kv_write(layout.state_mount, record, bad, namespace=system, cas=2)
    damaged = await register(root, fingerprint, layout=layout)
    assert [a.why for a in damaged.actions if "of one year" in a.why] == [
        "the pair of the bridge is damaged: make it, of one year"
    ]
    where = (await registered(root, layout, fingerprint))[1].namespace
    await root.request("DELETE", "pki-pod/root", namespace=where)
    other = await register(root, fingerprint, layout=layout)
    assert [a.why for a in other.actions if "of one year" in a.why] == [
        "the pair of the bridge-pod is of another CA: make it, of one year"
    ]
    assert not (await register(root, fingerprint, layout=layout)).changed


async def test_pairs_made_before_an_instant_are_replaced_once_however_often_it_is_run(
    root: OpenBao, layout: Layout
) -> None:
    fingerprint = new_fingerprint()
    past = time.time() - 3600
    await register(root, fingerprint, pregenerate=True, layout=layout, now=past)
    _, space, authorities = await registered(root, layout, fingerprint)
    rotated_at = instant(time.time() - 60)

    async def again() -> tuple[Party, ...]:
        return await pregenerate(
            Steps(root), layout, space, fingerprint, authorities, now=time.time(), made_before=rotated_at
        )

    assert await again() == tuple(Party)
    assert await again() == ()


@pytest.mark.slow
async def test_a_run_killed_after_any_request_is_completed_by_another(
    server: DevServer, root: OpenBao
) -> None:
    fingerprint = new_fingerprint()
    layout = new_layout()
    before = await register(root, fingerprint, layout=layout)
    async with DyingClient(server, dies_after=0) as counting:
        await register(counting, fingerprint, pregenerate=True, layout=layout, dry_run=True)
    looked = counting.requests
    for last in range(looked - 8, looked + 9):
        layout, fingerprint = new_layout(), new_fingerprint()
        before = await register(root, fingerprint, layout=layout)
        async with DyingClient(server, dies_after=last) as dying:
            with pytest.raises(Killed):
                await register(dying, fingerprint, pregenerate=True, layout=layout)
        after = await register(root, fingerprint, pregenerate=True, layout=layout)
        assert after.info_hash == before.info_hash
        assert set(await pairs(root, layout, fingerprint)) == set(Party)
        assert not (await register(root, fingerprint, layout=layout)).changed


async def test_a_bridge_reads_the_pairs_and_signs_under_none_of_their_roles(
    root: OpenBao, layout: Layout
) -> None:
    fingerprint, other = new_fingerprint(), new_fingerprint()
    await register(root, fingerprint, pregenerate=True, layout=layout)
    await register(root, other, pregenerate=True, layout=layout)
    _, space, _ = await registered(root, layout, fingerprint)
    for clusters, sees_other in (((), True), ((fingerprint,), False)):
        made = await make_bridge_token(root, "eu-1", clusters=clusters, layout=layout)
        async with OpenBao(root.address, token=made.token, namespace=layout.system_namespace) as bridge:
            for party in Party:
                pair, version = await Records(bridge, layout).pair(fingerprint, party)
                assert pair is not None
                assert version == 1
                path = layout.pair(fingerprint, party)
                with pytest.raises(NotAuthorisedError):
                    await bridge.kv_write(layout.state_mount, path, {}, cas=1)
                if sees_other:
                    assert (await Records(bridge, layout).pair(other, party))[1] == 1
                else:
                    with pytest.raises(NotAuthorisedError):
                        await Records(bridge, layout).pair(other, party)
                signing = f"{party.usual.mount(space)}/sign/{party.role}"
                with pytest.raises(NotAuthorisedError):
                    await bridge.request(
                        "POST", signing, namespace=space.namespace, body={"csr": new_key()[1]}
                    )


async def test_deregistering_removes_the_pairs(root: OpenBao, layout: Layout) -> None:
    fingerprint = new_fingerprint()
    await register(root, fingerprint, pregenerate=True, layout=layout)
    await deregister(root, fingerprint, layout=layout)
    assert await pairs(root, layout, fingerprint) == {}
