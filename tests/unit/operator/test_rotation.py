"""A certificate is served once API servers know its CA; a CA is let go once nobody serves under it."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.operator.certificates import load_bundle, load_certificate
from cloudtaser.operator.rotation import Rotation
from cloudtaser.operator.serving_keys import (
    BACKDATED,
    ServingKeys,
    ca_id,
    make_keys,
    read_published,
    service_names,
)

NOW = 2_000_000_000.0
LIFE = 9_000.0
NAMES = service_names("cloudtaser-operator-webhook", "cloudtaser-system")
MADE = [make_keys(NAMES, NOW, LIFE) for _ in range(4)]


def later(number: int, now: float) -> ServingKeys:
    """The keys of that number, as if they had been made at `now`: making them takes time."""
    keys = MADE[number % len(MADE)]
    return ServingKeys(keys.ca_pem, f"{number:016x}", keys.identity, now, now + LIFE)


class Maker:
    def __init__(self) -> None:
        self.made: list[ServingKeys] = []

    def __call__(self, now: float) -> ServingKeys:
        self.made.append(later(len(self.made), now))
        return self.made[-1]


def ids(rotation: Rotation) -> int:
    return len(load_bundle(rotation.published, "published"))


def confirmed(rotation: Rotation) -> bool:
    return rotation.confirmed


def test_it_is_confirmed_once_its_ca_has_been_known_for_a_moment() -> None:
    make = Maker()
    rotation = Rotation(make, NOW, first_settle=2)
    known = {make.made[0].ca_id}
    rotation.tick(NOW, set())
    rotation.tick(NOW + 1, known)
    assert not rotation.confirmed
    rotation.tick(NOW + 2, set())  # somebody changed the configuration meanwhile
    rotation.tick(NOW + 3, known)
    rotation.tick(NOW + 4, known)
    assert not rotation.confirmed
    rotation.tick(NOW + 5, known)
    assert rotation.confirmed


def test_without_a_leader_a_replica_counts_as_ready_in_the_end() -> None:
    rotation = Rotation(Maker(), NOW, patience=90)
    rotation.tick(NOW + 89, set())
    assert not rotation.confirmed
    rotation.tick(NOW + 90, set())
    assert rotation.confirmed


def test_the_next_is_published_first_then_known_then_served_and_the_former_stays_for_a_while() -> None:
    make = Maker()
    rotation = Rotation(make, NOW, settle=15)
    first = make.made[0]
    due = NOW + LIFE * 2 / 3
    assert not rotation.tick(due - 1, {first.ca_id})
    assert ids(rotation) == 1
    assert not rotation.tick(due, {first.ca_id})
    assert ids(rotation) == 2
    second = make.made[1]
    both = {first.ca_id, second.ca_id}
    assert not rotation.tick(due + 100, {first.ca_id})  # no leader has put it in place yet
    assert not rotation.tick(due + 101, both)
    assert not rotation.tick(due + 115, both)
    assert rotation.current is first
    assert rotation.tick(due + 116, both)
    assert rotation.current is second
    assert ids(rotation) == 2
    rotation.tick(due + 130, both)
    assert ids(rotation) == 2
    rotation.tick(due + 131, both)
    assert ids(rotation) == 1
    assert len(make.made) == 2


def test_a_ca_that_is_taken_away_meanwhile_is_waited_for_anew() -> None:
    make = Maker()
    rotation = Rotation(make, NOW, settle=15)
    rotation.renew()
    rotation.tick(NOW, set())
    known = {make.made[1].ca_id}
    rotation.tick(NOW + 1, known)
    rotation.tick(NOW + 10, set())
    assert not rotation.tick(NOW + 17, known)
    assert rotation.tick(NOW + 32, known)


def test_an_expired_certificate_is_not_kept_for_the_sake_of_order() -> None:
    make = Maker()
    rotation = Rotation(make, NOW)
    rotation.tick(NOW + LIFE - 1, set())
    assert not rotation.tick(NOW + LIFE - 0.5, set())
    assert rotation.tick(NOW + LIFE, set())
    assert rotation.current is make.made[1]


def test_a_clock_that_was_ahead_at_the_start_makes_new_keys_once_it_is_right() -> None:
    make = Maker()
    ahead = NOW + 10 * 24 * 3600
    rotation = Rotation(make, ahead, first_settle=2)
    known = {make.made[0].ca_id}
    rotation.tick(ahead, known)
    rotation.tick(ahead + 2, known)
    assert confirmed(rotation)
    assert rotation.tick(NOW, known)
    assert rotation.current is make.made[1]
    assert rotation.published == make.made[1].ca_pem
    assert not confirmed(rotation)  # no API server has heard of it
    known = {make.made[1].ca_id}
    assert not rotation.tick(NOW + 1, known)
    assert not rotation.tick(NOW + 3, known)
    assert confirmed(rotation)
    assert len(make.made) == 2


def test_a_clock_that_is_set_back_by_less_than_keys_are_backdated_changes_nothing() -> None:
    make = Maker()
    rotation = Rotation(make, NOW, first_settle=2, patience=90)
    known = {make.made[0].ca_id}
    rotation.tick(NOW, known)
    back = NOW - BACKDATED.total_seconds()
    assert not rotation.tick(back, known)
    assert rotation.current is make.made[0]
    rotation.tick(back + 2, known)
    assert rotation.confirmed  # and not an hour later


def test_a_next_one_from_the_future_is_let_go_and_made_anew_when_it_is_due() -> None:
    make = Maker()
    rotation = Rotation(make, NOW, settle=15)
    due = NOW + LIFE * 2 / 3
    assert not rotation.tick(due, set())
    assert ids(rotation) == 2
    known = {one.ca_id for one in make.made}
    assert not rotation.tick(due - BACKDATED.total_seconds() - 1, known)
    assert ids(rotation) == 1
    assert not rotation.tick(due - 1, known)
    assert not rotation.tick(due, known)
    assert make.made[2].ca_pem in rotation.published
    known = {one.ca_id for one in make.made}
    rotation.tick(due + 1, known)
    assert rotation.tick(due + 16, known)
    assert rotation.current is make.made[2]


def test_a_clock_that_jumps_ahead_and_back_is_followed_within_a_few_ticks_each_time() -> None:
    make = Maker()
    rotation = Rotation(make, NOW)
    rotation.renew()
    rotation.tick(NOW, set())  # the next is made and waits
    for clock in (NOW + 1e7, NOW, NOW + 2e7, NOW + 1e7):
        for second in range(6):
            rotation.tick(clock + second, set())
        current = rotation.current
        assert current.not_before - BACKDATED.total_seconds() <= clock < current.not_after
        assert current.ca_pem in rotation.published


@given(st.lists(st.tuples(st.floats(0, 4000), st.booleans()), max_size=60))
def test_what_is_served_is_always_published_and_was_known_for_as_long_as_it_takes(
    steps: list[tuple[float, bool]],
) -> None:
    make, now, settle = Maker(), NOW, 15.0
    rotation = Rotation(make, now, settle=settle)
    known_since: dict[str, float] = {}
    for pause, leader in steps:
        now += pause
        known = {one.ca_id for one in make.made} if leader else {make.made[0].ca_id}
        for one in make.made:
            if one.ca_id in known:
                known_since.setdefault(one.ca_id, now)
            else:
                known_since.pop(one.ca_id, None)
        before = rotation.current
        if rotation.tick(now, known):
            served = rotation.current
            in_time = now < before.not_after
            assert not in_time or now - known_since[served.ca_id] >= settle
            assert before.ca_pem in rotation.published
        assert rotation.current.ca_pem in rotation.published
        assert ids(rotation) <= 3


def test_the_certificate_is_what_an_api_server_asks_for() -> None:
    keys = MADE[0]
    ca = load_certificate(keys.ca_pem, "ca")
    leaf = load_certificate(keys.identity.certificate_pem.decode(), "leaf")
    leaf.verify_directly_issued_by(ca)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName)[0] == "cloudtaser-operator-webhook.cloudtaser-system.svc"
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert leaf.not_valid_before_utc < datetime.fromtimestamp(NOW, UTC) < leaf.not_valid_after_utc
    assert keys.not_after == NOW + LIFE
    assert keys.ca_id == ca_id(ca)


def test_every_start_makes_other_keys() -> None:
    assert len({one.ca_id for one in MADE}) == len(MADE)


def test_of_what_a_replica_publishes_only_cas_in_time_count() -> None:
    now = datetime.fromtimestamp(NOW, UTC)
    keys, leaf = MADE[0], MADE[1].identity.certificate_pem.decode()
    assert read_published(keys.ca_pem + leaf, now) == {keys.ca_id: keys.ca_pem}
    assert read_published("", now) == {}
    assert read_published("junk", now) == {}
    late = datetime.fromtimestamp(NOW + LIFE + 1, UTC)
    assert read_published(keys.ca_pem, late) == {}
    assert len(read_published(keys.ca_pem * 100, now)) == 1
