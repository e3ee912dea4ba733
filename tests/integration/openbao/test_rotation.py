"""Rotation of a cluster's CAs against a real OpenBao: whole, vouched for, ended when nobody is cut off."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from cloudtaser.demo.openbao import DevServer
from cloudtaser.errors import CloudtaserError, NotAuthorisedError
from cloudtaser.openbao import issuers as issuing
from cloudtaser.openbao.authorities import describe
from cloudtaser.openbao.bridge_token import make_bridge_token
from cloudtaser.openbao.client import CasConflict, OpenBao
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.pki import PkiRole, new_key, sign
from cloudtaser.openbao.records import Records, instant
from cloudtaser.openbao.registration import register
from cloudtaser.openbao.rotation import Rotation, RotationState, rotate_authorities
from cloudtaser.openbao.steps import Action, Steps
from cloudtaser.openbao.usage import pod_ca_short, tunnel_ca_short
from cloudtaser.wire.names import bridge_uri, parse_successor
from tests.integration.openbao.support import (
    RegisteredCluster,
    Run,
    come_in,
    each_kill,
    new_fingerprint,
    recorded,
    registered_cluster,
    report,
)


async def issuers(root: OpenBao, cluster: RegisteredCluster, mount: str) -> list[str]:
    return await root.list(f"{mount}/issuers", namespace=cluster.space.namespace)


async def keys(root: OpenBao, cluster: RegisteredCluster, mount: str) -> list[str]:
    return await root.list(f"{mount}/keys", namespace=cluster.space.namespace)


async def initialised_cluster(server: DevServer, root: OpenBao) -> RegisteredCluster:
    cluster = await registered_cluster(server, root)
    await come_in(root, cluster)
    return cluster


async def assert_under_way(root: OpenBao, cluster: RegisteredCluster) -> None:
    """Both CAs of each kind are there and no other, the record names them, and the former vouches."""
    record = await recorded(root, cluster)
    assert record.former_tunnel_ca is not None
    certificate(record.endorsement).verify_directly_issued_by(certificate(record.former_tunnel_ca.pem))
    for mount, current, former in (
        (cluster.space.pki_tunnel, record.tunnel_ca, record.former_tunnel_ca),
        (cluster.space.pki_pod, record.pod_ca, record.former_pod_cas[0]),
    ):
        assert len(await issuers(root, cluster, mount)) == len(await keys(root, cluster, mount)) == 2
        where = cluster.space.namespace
        default = await root.find(f"{mount}/issuer/default", namespace=where)
        kept = await root.find(f"{mount}/issuer/{former.issuer}", namespace=where)
        assert default is not None
        assert kept is not None
        assert default["certificate"].strip() == current.strip()
        assert kept["certificate"].strip() == former.pem.strip()


def reasons(actions: Iterable[Action]) -> list[str]:
    return [action.why for action in actions if action.changed]


def certificate(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


async def test_a_rotation_puts_new_cas_beside_the_former_and_the_former_vouches_for_the_next(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    before = await recorded(root, cluster)
    result = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    assert result.state is RotationState.STARTED
    after = await recorded(root, cluster)
    assert after.former_tunnel_ca is not None
    assert after.former_tunnel_ca.pem == before.tunnel_ca
    assert [former.pem for former in after.former_pod_cas] == [before.pod_ca]
    assert after.tunnel_ca != before.tunnel_ca
    assert after.pod_ca != before.pod_ca
    new = certificate(after.tunnel_ca)
    assert after.info_hash == new.fingerprint(hashes.SHA256()).hex()
    endorsement = certificate(after.endorsement)
    endorsement.verify_directly_issued_by(certificate(before.tunnel_ca))
    names = endorsement.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert [bytes.fromhex(after.info_hash)] == [parse_successor(uri, cluster.fingerprint) for uri in uris]
    assert len(list(names)) == 1


async def test_during_a_rotation_openbao_signs_under_both_and_by_default_under_the_next(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    record = await recorded(root, cluster)
    assert record.former_tunnel_ca is not None
    uris = [bridge_uri(cluster.fingerprint, "eu-1")]
    made = await make_bridge_token(root, "eu-1", layout=cluster.layout)
    where = f"{record.namespace.split('/')[0]}"
    async with OpenBao(root.address, token=made.token, namespace=where) as bridge:
        current = await sign(bridge, cluster.space, PkiRole.BRIDGE, new_key()[1], uris=uris)
        former = await sign(
            bridge,
            cluster.space,
            PkiRole.BRIDGE,
            new_key()[1],
            uris=uris,
            issuer=record.former_tunnel_ca.issuer,
        )
    x509.load_pem_x509_certificate(current.certificate_pem).verify_directly_issued_by(
        certificate(record.tunnel_ca)
    )
    x509.load_pem_x509_certificate(former.certificate_pem).verify_directly_issued_by(
        certificate(record.former_tunnel_ca.pem)
    )


@pytest.mark.parametrize("issuer", ["", "former"])
async def test_a_bridge_cannot_vouch_for_another_ca(
    root: OpenBao, cluster: RegisteredCluster, issuer: str
) -> None:
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    former = (await recorded(root, cluster)).former_tunnel_ca
    assert former is not None
    made = await make_bridge_token(root, "eu-1", layout=cluster.layout)
    uris = [f"cloudtaser://{cluster.fingerprint}/successor/{'00' * 32}"]
    async with OpenBao(root.address, token=made.token) as bridge:
        for role in PkiRole.SUCCESSOR, PkiRole.BRIDGE:
            with pytest.raises(CloudtaserError):
                await sign(
                    bridge,
                    cluster.space,
                    role,
                    new_key()[1],
                    uris=uris,
                    issuer=former.issuer if issuer else "",
                )


async def test_registering_again_during_a_rotation_changes_nothing(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    before = await Records(root, cluster.layout).registered_version(cluster.fingerprint)
    again = await register(root, cluster.fingerprint, layout=cluster.layout)
    assert [action for action in again.actions if action.changed] == []
    assert await Records(root, cluster.layout).registered_version(cluster.fingerprint) == before


async def test_a_rotation_waits_for_tunnels_and_pods_and_says_for_which(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await come_in(root, cluster)
    before = await recorded(root, cluster)
    began = time.time() - 60
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout, now=began)
    after = await recorded(root, cluster)
    old_tunnel, new_tunnel = tunnel_ca_short(before.tunnel_ca), tunnel_ca_short(after.tunnel_ca)
    old_pod, new_pod = pod_ca_short(before.pod_ca), pod_ca_short(after.pod_ca)

    async def said() -> str:
        result = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
        assert result.state is RotationState.WAITING
        return "\n".join(result.waiting)

    assert "no bridge gave a sign of life" in await said()
    await report(root, cluster, tunnels={old_tunnel: 2, new_tunnel: 1}, pods={old_pod: 1})
    lines = await said()
    assert f"bridge eu-1 has 2 tunnels under the former tunnel CA {old_tunnel}" in lines
    assert f"bridge eu-1 has 1 pod under the former pod CA {old_pod}" in lines
    await report(root, cluster, pods={new_pod: 3})
    assert f"no tunnel under the new tunnel CA {new_tunnel}" in await said()
    await report(root, cluster, tunnels={new_tunnel: 1}, started_at=instant(began + 10))
    assert "started during the rotation" in await said()
    await report(root, cluster, tunnels={new_tunnel: 2}, pods={new_pod: 3})
    ended = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    assert ended.state is RotationState.FINISHED


async def test_a_rotation_waits_for_every_bridge_that_lives(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await come_in(root, cluster)
    await report(root, cluster, bridge="late")
    began = time.time() + 30
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout, now=began)
    new = tunnel_ca_short((await recorded(root, cluster)).tunnel_ca)
    result = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout, now=began + 10)
    assert "bridge late has not reported since the rotation began" in result.waiting
    await report(root, cluster, bridge="late", tunnels={new: 1})
    gone = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout, now=began + 600)
    assert gone.waiting == ("no bridge gave a sign of life in the last 3 minutes",)
    assert [sighting.bridge.id for sighting in gone.used.silent] == ["late"]


async def test_a_suspended_cluster_is_not_cut_off_by_the_end_of_a_rotation(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await come_in(root, cluster)
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    records = Records(root, cluster.layout)
    record, version = await records.registered_version(cluster.fingerprint)
    assert record is not None
    await records.write_registered(replace(record, suspended=True), version)
    result = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    assert result.waiting == ("the cluster is suspended: nobody can take up the new CAs",)


async def test_an_ended_rotation_leaves_one_ca_each_and_nothing_of_the_former(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    during = await recorded(root, cluster)
    ended = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    assert ended.state is RotationState.FINISHED  # nobody has come in yet: there is nobody to wait for
    after = await recorded(root, cluster)
    assert (after.former_tunnel_ca, after.former_pod_cas, after.endorsement) == (None, (), "")
    assert (after.tunnel_ca, after.pod_ca) == (during.tunnel_ca, during.pod_ca)
    for mount in (cluster.space.pki_tunnel, cluster.space.pki_pod):
        assert len(await issuers(root, cluster, mount)) == 1
        assert len(await keys(root, cluster, mount)) == 1
    assert not (await register(root, cluster.fingerprint, layout=cluster.layout)).changed
    again = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    assert (again.state, again.actions) == (RotationState.FINISHED, ())  # who did not see the end asks again
    await forget_end(root, cluster)
    again = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    assert again.state is RotationState.STARTED


async def test_force_ends_a_rotation_whoever_is_left(root: OpenBao, cluster: RegisteredCluster) -> None:
    await come_in(root, cluster)
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    ended = await rotate_authorities(root, cluster.fingerprint, force=True, layout=cluster.layout)
    assert ended.state is RotationState.FINISHED
    assert ended.waiting


async def test_a_dry_run_of_start_and_end_names_every_write_and_makes_none(
    root: OpenBao, cluster: RegisteredCluster
) -> None:
    for _ in range(2):
        before = await Records(root, cluster.layout).registered_version(cluster.fingerprint)
        planned = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout, dry_run=True)
        assert await Records(root, cluster.layout).registered_version(cluster.fingerprint) == before
        done = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
        assert planned.state is done.state
        assert reasons(planned.actions) == reasons(done.actions)


async def forget_end(root: OpenBao, cluster: RegisteredCluster) -> None:
    """As if the last rotation had not ended just now, but a while ago."""
    records = Records(root, cluster.layout)
    record, version = await records.registered_version(cluster.fingerprint)
    assert record is not None
    await records.write_registered(replace(record, cas_rotated_at=""), version)


@pytest.mark.slow
async def test_a_start_killed_after_any_request_is_completed_by_another_run(
    server: DevServer, root: OpenBao
) -> None:
    cluster = await initialised_cluster(server, root)

    async def prepare() -> RegisteredCluster:
        if (await recorded(root, cluster)).former_tunnel_ca is not None:
            await rotate_authorities(root, cluster.fingerprint, force=True, layout=cluster.layout)
        await forget_end(root, cluster)
        return cluster

    async def start(client: OpenBao, cluster: RegisteredCluster) -> None:
        await rotate_authorities(client, cluster.fingerprint, layout=cluster.layout)

    async for last, _, _ in each_kill(server, prepare, start):
        begun = (await recorded(root, cluster)).former_tunnel_ca is not None
        result = await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
        expected = RotationState.WAITING if begun else RotationState.STARTED
        assert result.state is expected, f"killed after request {last}"
        await assert_under_way(root, cluster)


@pytest.mark.slow
async def test_an_end_killed_after_any_request_is_completed_by_another_run(
    server: DevServer, root: OpenBao
) -> None:
    cluster = await initialised_cluster(server, root)

    async def prepare() -> RegisteredCluster:
        if (await recorded(root, cluster)).former_tunnel_ca is None:
            await forget_end(root, cluster)
            await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
        return cluster

    async def end(client: OpenBao, cluster: RegisteredCluster) -> None:
        await rotate_authorities(client, cluster.fingerprint, force=True, layout=cluster.layout)

    async for last, _, _ in each_kill(server, prepare, end):
        current = (await recorded(root, cluster)).tunnel_ca
        result = await rotate_authorities(root, cluster.fingerprint, force=True, layout=cluster.layout)
        assert result.state is RotationState.FINISHED, f"killed after request {last}"
        after = await recorded(root, cluster)
        assert (after.tunnel_ca, after.former_tunnel_ca) == (current, None)
        for mount in (cluster.space.pki_tunnel, cluster.space.pki_pod):
            assert len(await issuers(root, cluster, mount)) == len(await keys(root, cluster, mount)) == 1


async def test_a_ca_that_a_killed_run_made_is_adopted(server: DevServer, root: OpenBao) -> None:
    cluster = await initialised_cluster(server, root)
    follows = f"after-{(await recorded(root, cluster)).info_hash[:12]}"
    body = {"common_name": "cloudtaser tunnel CA", "key_type": "ec", "key_bits": 256, "max_path_length": 0}
    made = await root.request(
        "POST",
        f"{cluster.space.pki_tunnel}/root/rotate/internal",
        namespace=cluster.space.namespace,
        body=body | {"ttl": "87600h", "issuer_name": follows},
    )
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    assert (await recorded(root, cluster)).tunnel_ca.strip() == made["data"]["certificate"].strip()


async def test_a_following_ca_that_is_not_as_it_must_be_is_not_adopted(
    server: DevServer, root: OpenBao
) -> None:
    cluster = await initialised_cluster(server, root)
    follows = f"after-{(await recorded(root, cluster)).info_hash[:12]}"
    made = await root.request(
        "POST",
        f"{cluster.space.pki_tunnel}/root/rotate/internal",
        namespace=cluster.space.namespace,
        body={"common_name": "x", "key_type": "rsa", "issuer_name": follows},
    )
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    assert (await recorded(root, cluster)).tunnel_ca.strip() != made["data"]["certificate"].strip()
    await assert_under_way(root, cluster)


async def test_of_two_runs_at_once_one_is_told_so_and_no_harm_is_done(
    server: DevServer, root: OpenBao
) -> None:
    cluster = await initialised_cluster(server, root)
    runs = [rotate_authorities(root, cluster.fingerprint, layout=cluster.layout) for _ in range(3)]
    results = await asyncio.gather(*runs, return_exceptions=True)
    assert any(isinstance(result, Rotation) for result in results)
    assert all(isinstance(result, Rotation | CasConflict) for result in results)
    await rotate_authorities(root, cluster.fingerprint, layout=cluster.layout)
    await assert_under_way(root, cluster)


async def test_what_another_run_makes_while_one_cleans_up_stays_with_its_key(
    server: DevServer, root: OpenBao, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await initialised_cluster(server, root)
    mount, where = cluster.space.pki_tunnel, cluster.space.namespace
    pem = (await recorded(root, cluster)).tunnel_ca
    steps, ca = Steps(root), describe(pem)
    listed = issuing._key_info
    made: list[issuing.Issuer | None] = []

    async def listed_and_then(*arguments: Any) -> Any:
        found = await listed(*arguments)
        if not made:  # between this listing and the next
            made.append(None)
            name = issuing.successor_name(ca.fingerprint)
            made[0] = await issuing.make_issuer(steps, where, mount, "tunnel CA", name, "another run's")
        return found

    monkeypatch.setattr(issuing, "_key_info", listed_and_then)
    await issuing.forget_issuers(steps, where, mount, issuing.stays(pem, ca.fingerprint), "one run's")
    assert made[0] is not None
    assert made[0].id in await issuers(root, cluster, mount)
    assert made[0].key_id in await keys(root, cluster, mount)


async def test_an_unknown_cluster_and_a_weak_token_get_one_clear_line(
    server: DevServer, root: OpenBao, layout: Layout, cluster: RegisteredCluster
) -> None:
    with pytest.raises(CloudtaserError, match="not registered"):
        await rotate_authorities(root, new_fingerprint(), layout=layout)
    made = await make_bridge_token(root, "eu-1", layout=cluster.layout)
    async with OpenBao(server.address, token=made.token) as bridge:
        with pytest.raises(NotAuthorisedError) as refused:
            await rotate_authorities(bridge, cluster.fingerprint, layout=cluster.layout)
    assert "pki-tunnel/keys" in refused.value.diagnostic()
    assert "grant list" in refused.value.diagnostic()


def test_rotate_exits_3_while_it_waits_and_0_when_it_has_ended(run: Run) -> None:
    fingerprint = new_fingerprint()
    run("register", "--fingerprint", fingerprint)
    code, out, err = run("rotate", fingerprint, "--ca")
    assert (code, "Started the rotation" in out) == (0, True)
    assert f"source rotate {fingerprint} --ca" in err
    shown = json.loads(run("show", fingerprint, "-o", "json")[1])
    assert [ca["former"] for ca in shown["tunnel_cas"]] == [False, True]
    assert "rotation" in run("show", fingerprint)[1].lower()
    assert json.loads(run("rotate", fingerprint, "--ca", "--dry-run", "-o", "json")[1])["state"] == "finished"
    code, out, _ = run("rotate", fingerprint, "--ca")
    assert (code, "Ended the rotation" in out) == (0, True)
    tunnel_ca = json.loads(run("show", fingerprint, "-o", "json")[1])["tunnel_ca"]
    code, out, _ = run("rotate", fingerprint, "--ca")  # whoever did not see how it ended
    assert (code, "nothing changed" in out) == (0, True)
    assert json.loads(run("show", fingerprint, "-o", "json")[1])["tunnel_ca"] == tunnel_ca
    assert "nothing changed" in run("rotate", fingerprint, "--ca", "--force")[1]


def test_flags_that_do_not_go_together_are_refused(run: Run) -> None:
    assert run("rotate", new_fingerprint(), "--force")[0] == 2
    code, out, err = run("rotate", new_fingerprint(), "--ca")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "not registered" in err
