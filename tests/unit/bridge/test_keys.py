"""A cluster's signing keys: what is believed, what is put aside, and how often anybody asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from joserfc.jwk import ECKey

from cloudtaser.bridge import keys as keys_module
from cloudtaser.bridge import keyset
from cloudtaser.bridge.apiserver import api_server_context
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.keys import KeyKeeper
from cloudtaser.bridge.tokens import KeySet
from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.openbao.client import CasConflict
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.records import Grants, Initialized, Keys, Registered
from cloudtaser.secret import Secret
from tests.unit.bridge.scripted_operator import self_signed

OLD, NEW, OTHER = (ECKey.generate_key("P-256", {"kid": name}) for name in ("old", "new", "other"))
FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"
REGISTERED = Registered(FINGERPRINT, "", "", "", "", "", "", "", "0ad50c05", "cloudtaser/0ad50c05", "subject")


def jwks(*keys: ECKey) -> dict[str, Any]:
    return keyset.normalise({"keys": [key.as_dict(private=False) for key in keys]})


class Server:
    """OpenBao and the API server, as far as a KeyKeeper sees them."""

    def __init__(self) -> None:
        self.published: dict[str, Any] = jwks(OLD)
        self.config: list[dict[str, Any]] = []
        self.recorded: Keys | None = None
        self.version = 0
        self.reads = 0
        self.failing: CloudtaserError | None = None
        self.suspended = False
        self.hold = asyncio.Event()
        self.hold.set()

    async def request(
        self, method: str, path: str, *, namespace: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        if self.failing:
            raise self.failing
        assert (method, path, namespace) == ("POST", "auth/jwt/config", "cloudtaser/0ad50c05")
        self.config.append(body)
        return {}

    async def registered(self, _: str) -> Registered:
        return replace(REGISTERED, suspended=self.suspended)

    async def write_keys(self, fingerprint: str, record: Keys, cas: int) -> int:
        if cas != self.version:
            raise CasConflict("somebody else was faster")
        self.recorded, self.version = record, self.version + 1
        return self.version

    async def fetch(self, *_: object) -> dict[str, Any]:
        self.reads += 1
        await self.hold.wait()
        return self.published


class House:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = Server()
        self.events: list[str] = []
        self.failures: list[str] = []
        self.tunnel: object | None = object()
        self.cluster = Cluster(FINGERPRINT, REGISTERED, Grants(), KeySet())
        self.initialized = Initialized("", "b1", jwks(OLD), "https://issuer", "", "subject", "")
        self.cluster.initialized = self.initialized
        self.keeper = KeyKeeper(
            self.cluster,
            self.server,  # type: ignore[arg-type]
            Space("0ad50c05", "cloudtaser/0ad50c05"),
            self.server,  # type: ignore[arg-type]
            "b1",
            pick=lambda: self.tunnel,  # type: ignore[arg-type,return-value]
            now=lambda: 1_800_000_000.0,
            on_change=self.events.append,
            on_failed=lambda where, error: self.failures.append(error.diagnostic()),
        )
        monkeypatch.setattr(self.keeper, "_fetch", self.server.fetch)
        self.keeper.observe(self.initialized, None, 0)

    async def read(self) -> None:
        """A reading to its end."""
        reading = self.keeper._reading
        assert reading is not None
        await asyncio.wait([reading])


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    made = House(monkeypatch)
    yield made
    await made.keeper.close()


async def test_openbao_gets_the_recorded_keys_before_any_pod_is_served(house: House) -> None:
    assert house.cluster.keys.kids == {"old"}
    before = house.keeper.installed
    await house.keeper.attend()
    assert (before, house.keeper.installed) == (False, True)
    (config,) = house.server.config
    assert config["jwt_validation_pubkeys"] == keyset.pems(jwks(OLD))
    assert config["bound_issuer"] == "https://issuer"
    await house.keeper.attend()
    assert len(house.server.config) == 1


async def test_while_openbao_refuses_logins_stay_closed(house: House) -> None:
    house.server.failing = UnavailableError("sealed")
    with pytest.raises(UnavailableError):
        await house.keeper.attend()
    assert not house.keeper.installed


async def test_the_first_token_is_used_at_once_and_the_reading_recorded(house: House) -> None:
    await house.keeper.attend()
    house.keeper.take_token(Secret("t"))
    await house.read()
    assert house.server.recorded is not None
    assert house.server.recorded.jwks == jwks(OLD)
    assert house.events == []


async def test_a_rotation_is_believed_recorded_and_given_to_openbao(house: House) -> None:
    await house.keeper.attend()
    house.server.published = jwks(OLD, NEW)
    house.keeper.take_token(Secret("t"))
    await house.read()
    assert house.cluster.keys.kids == {"old", "new"}
    assert house.server.recorded is not None
    assert house.server.recorded.jwks == jwks(OLD, NEW)
    assert house.server.config[-1]["jwt_validation_pubkeys"] == keyset.pems(jwks(OLD, NEW))
    assert house.events == ["keys_changed"]


async def test_a_set_without_a_recorded_key_is_put_aside_and_audited_once(house: House) -> None:
    await house.keeper.attend()
    house.server.published = jwks(OTHER)
    house.keeper.take_token(Secret("t"))
    await house.read()
    assert house.cluster.keys.kids == {"old"}
    assert house.keeper.pending == jwks(OTHER)
    recorded = house.server.recorded
    assert recorded is not None
    assert (recorded.jwks, recorded.pending) == (jwks(OLD), jwks(OTHER))
    assert recorded.pending_at
    assert len(house.server.config) == 1
    house.keeper._read_at = float("-inf")
    house.keeper.hint()
    await house.read()
    assert house.events == ["keys_pending"]
    assert "accept-keys" in house.failures[0]
    assert house.server.version == 1, "written once, however often it is seen"


async def test_a_set_that_another_bridge_put_aside_shows_here_too(house: House) -> None:
    waiting = Keys(jwks(OLD), "", "b2", pending=jwks(OTHER), pending_at="2026-01-01T00:00:00Z")
    for _ in range(2):
        house.keeper.observe(house.initialized, waiting, 3)
    assert house.keeper.pending == jwks(OTHER)
    assert house.cluster.keys.kids == {"old"}
    assert house.events == ["keys_pending"]


async def test_what_was_put_aside_is_forgotten_when_the_cluster_shows_its_known_keys_again(
    house: House,
) -> None:
    await house.keeper.attend()
    house.server.version = 3
    house.keeper.observe(house.initialized, Keys(jwks(OLD), "", "b2", pending=jwks(OTHER)), 3)
    house.keeper.take_token(Secret("t"))
    await house.read()
    assert house.server.recorded is not None
    assert house.server.recorded.pending is None
    assert house.keeper.pending is None


async def test_while_suspended_openbao_is_given_no_keys_and_on_resuming_it_is(house: House) -> None:
    await house.keeper.attend()
    active = house.cluster.registered
    house.cluster.registered = replace(active, suspended=True)
    house.keeper.suspend()
    house.keeper.observe(house.initialized, Keys(jwks(OLD, NEW), "", "b2"), 4)
    await house.keeper.attend()
    assert len(house.server.config) == 1
    assert not house.keeper.installed
    house.cluster.registered = active
    await house.keeper.attend()
    assert len(house.server.config) == 2
    assert house.keeper.installed


async def test_a_suspension_that_was_overtaken_by_keys_is_made_good(house: House) -> None:
    """The record says suspended, OpenBao's logins are closed, and then our keys arrive."""
    house.server.suspended = True
    await house.keeper.attend()
    ours, nobodys = (config["jwt_validation_pubkeys"] for config in house.server.config)
    assert ours == keyset.pems(jwks(OLD))
    assert len(nobodys) == 1
    assert nobodys != ours
    assert not house.keeper.installed


async def test_keys_on_their_way_to_openbao_when_the_cluster_is_suspended_do_not_count(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def suspended_meanwhile(*_: object, **__: object) -> dict[str, Any]:
        house.cluster.registered = replace(house.cluster.registered, suspended=True)
        return {}

    monkeypatch.setattr(house.server, "request", suspended_meanwhile)
    await house.keeper.attend()
    assert not house.keeper.installed


async def test_a_person_accepts_them_through_the_record(house: House) -> None:
    await house.keeper.attend()
    house.server.published = jwks(OTHER)
    house.keeper.take_token(Secret("t"))
    await house.read()
    house.keeper.observe(house.initialized, Keys(jwks(OTHER), "", "admin"), 2)
    assert house.keeper.pending is None
    assert house.cluster.keys.kids == {"other"}
    assert house.events == ["keys_pending", "keys_accepted"]
    await house.keeper.attend()
    assert house.server.config[-1]["jwt_validation_pubkeys"] == keyset.pems(jwks(OTHER))


async def test_another_bridges_reading_counts_and_an_old_one_does_not(house: House) -> None:
    house.keeper.observe(house.initialized, Keys(jwks(OLD, NEW), "", "b2"), 4)
    assert house.cluster.keys.kids == {"old", "new"}
    house.keeper.observe(house.initialized, Keys(jwks(OLD), "", "b3"), 3)
    assert house.cluster.keys.kids == {"old", "new"}
    await house.keeper.attend()
    assert house.server.config[-1]["jwt_validation_pubkeys"] == keyset.pems(jwks(OLD, NEW))


async def test_the_slower_of_two_bridges_overwrites_nothing(house: House) -> None:
    await house.keeper.attend()
    house.server.version = 1  # somebody wrote since the last poll
    house.server.published = jwks(OLD, NEW)
    house.keeper.take_token(Secret("t"))
    await house.read()
    assert house.server.recorded is None
    assert house.cluster.keys.kids == {"old"}
    assert "another bridge" in house.failures[0]


async def test_unknown_key_ids_cause_one_reading_however_many_ask(house: House) -> None:
    await house.keeper.attend()
    house.server.hold.clear()
    house.keeper.take_token(Secret("t"))
    asking = [asyncio.create_task(house.keeper.refetch()) for _ in range(20)]
    await asyncio.sleep(0)
    house.server.hold.set()
    await asyncio.gather(*asking)
    for _ in range(20):
        await house.keeper.refetch()
    assert house.server.reads == 1
    assert keys_module.AT_MOST_EVERY >= 10


async def test_without_a_tunnel_or_a_token_nobody_is_asked(house: House) -> None:
    await house.keeper.refetch()
    house.tunnel = None
    house.keeper.take_token(Secret("t"))
    await house.keeper.refetch()
    assert house.server.reads == 0


async def test_a_reading_that_fails_is_tried_again_sooner(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> dict[str, Any]:
        raise UnavailableError("the stream was reset")

    monkeypatch.setattr(house.keeper, "_fetch", fails)
    await house.keeper.attend()
    house.keeper.take_token(Secret("t"))
    await house.read()
    wait = house.keeper._due - asyncio.get_running_loop().time()
    assert wait <= keys_module.RETRY * 1.1 < keys_module.INTERVAL * 0.9
    assert house.failures == ["the stream was reset"]


def test_the_api_server_is_checked_against_the_recorded_ca_alone() -> None:
    context = api_server_context(self_signed("kubernetes"))
    assert len(context.get_ca_certs()) == 1
    assert context.check_hostname
    with pytest.raises(ProtocolError):
        api_server_context("not a certificate")
