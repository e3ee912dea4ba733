"""Rooms: who meets whom, told as scripts, and as a machine that does anything in any order."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloudtaser.wire.rendezvous import Refusal, Role
from cloudtaser.wire.rooms import Event, Matched, Parked, RoomLimits, Rooms, TurnedAway

A, B = b"a" * 32, b"b" * 32
BRIDGE, BROKER = Role.BRIDGE, Role.BROKER


class Playbook:
    """`Playbook(…).arrives("x", BRIDGE, A) == [Parked("x")]`, at a time that only moves when told."""

    def __init__(self, *, random_pairing: bool = False, seed: int = 1, **limits: float) -> None:
        self.rooms: Rooms[str] = Rooms(
            RoomLimits(**limits),  # type: ignore[arg-type]  # numbers by name
            random_pairing=random_pairing,
            rng=random.Random(seed),
        )
        self.now = 1000.0
        self.dead: set[str] = set()

    def arrives(self, party: str, role: Role, room: bytes, source: str = "") -> Event[str]:
        return self.rooms.arrive(
            party, role, room, self.now, lambda other: other not in self.dead, source=source
        )

    def after(self, seconds: float) -> list[Event[str]]:
        self.now += seconds
        return self.rooms.tick(self.now)


def test_a_bridge_and_a_broker_of_the_same_room_meet() -> None:
    play = Playbook()
    assert play.arrives("bridge", BRIDGE, A) == Parked("bridge")
    play.now += 3
    assert play.arrives("broker", BROKER, A) == Matched("bridge", "broker", waited=3)
    assert (play.rooms.parked, play.rooms.rooms, play.rooms.pairs) == (0, 0, 1)


def test_who_came_first_does_not_matter() -> None:
    play = Playbook()
    play.arrives("broker", BROKER, A)
    assert play.arrives("bridge", BRIDGE, A) == Matched("bridge", "broker", waited=0)


@pytest.mark.parametrize("role", Role)
def test_two_of_the_same_role_never_meet(role: Role) -> None:
    play = Playbook()
    assert play.arrives("one", role, A) == Parked("one")
    assert play.arrives("two", role, A) == Parked("two")
    assert play.rooms.parked_as(role) == 2


def test_two_rooms_never_meet() -> None:
    play = Playbook()
    play.arrives("bridge", BRIDGE, A)
    assert play.arrives("broker", BROKER, B) == Parked("broker")
    assert play.rooms.rooms == 2


def test_the_longest_waiting_is_matched_first() -> None:
    play = Playbook()
    for name in ("first", "second", "third"):
        play.arrives(name, BRIDGE, A)
    matched = [play.arrives(f"broker {n}", BROKER, A) for n in range(3)]
    assert [event.bridge for event in matched if isinstance(event, Matched)] == ["first", "second", "third"]


def test_random_pairing_takes_any_of_the_parked() -> None:
    firsts = set()
    for seed in range(40):
        play = Playbook(random_pairing=True, seed=seed)
        for name in ("first", "second", "third"):
            play.arrives(name, BRIDGE, A)
        event = play.arrives("broker", BROKER, A)
        assert isinstance(event, Matched)
        firsts.add(event.bridge)
    assert firsts == {"first", "second", "third"}


def test_a_dead_party_is_passed_over_and_forgotten() -> None:
    play = Playbook()
    for name in ("dead", "dead too", "alive"):
        play.arrives(name, BRIDGE, A)
    play.dead = {"dead", "dead too"}
    assert play.arrives("broker", BROKER, A) == Matched("alive", "broker", waited=0)
    assert play.rooms.parked == 0


def test_with_only_dead_parties_the_newcomer_is_parked() -> None:
    play = Playbook()
    play.arrives("dead", BRIDGE, A)
    play.dead = {"dead"}
    assert play.arrives("broker", BROKER, A) == Parked("broker")
    assert (play.rooms.parked_as(BRIDGE), play.rooms.parked_as(BROKER)) == (0, 1)


def test_one_who_left_is_not_matched() -> None:
    play = Playbook()
    play.arrives("bridge", BRIDGE, A)
    assert play.rooms.leave("bridge")
    assert not play.rooms.leave("bridge")
    assert play.arrives("broker", BROKER, A) == Parked("broker")


def squatted(*, random_pairing: bool = False) -> Playbook:
    """A room in which one source has taken every place of a bridge."""
    play = Playbook(parked_per_room=8, random_pairing=random_pairing)
    for number in range(8):
        play.arrives(f"squatter {number}", BRIDGE, A, "squatter")
    return play


def test_whoever_took_every_place_gives_way_to_another_source() -> None:
    play = squatted()
    full = ("max-parked-per-room",)
    for number in (7, 6, 5, 4):  # its latest first
        assert play.rooms.make_room(BRIDGE, A, "bridge") == [
            TurnedAway(f"squatter {number}", Refusal.ROOM_FULL, 0, *full)
        ]
        assert play.arrives(f"bridge {number}", BRIDGE, A, "bridge") == Parked(f"bridge {number}")
    assert play.rooms.make_room(BRIDGE, A, "bridge") == [], "half the room is no reason to give way"
    assert play.rooms.make_room(BRIDGE, A, "squatter") == [], "and nobody gives way to himself"
    assert isinstance(play.arrives("squatter 8", BRIDGE, A, "squatter"), TurnedAway)


def test_nobody_gives_way_where_there_is_place_or_a_partner() -> None:
    play = Playbook(parked_per_room=8)
    for number in range(7):
        play.arrives(f"squatter {number}", BRIDGE, A, "squatter")
    assert play.rooms.make_room(BRIDGE, A, "bridge") == []
    play = squatted()
    assert play.rooms.make_room(BROKER, A, "broker") == []
    assert play.rooms.make_room(BRIDGE, B, "bridge") == []


@pytest.mark.parametrize("random_pairing", [False, True])
def test_in_a_crowded_room_the_source_with_the_fewest_places_is_matched_first(random_pairing: bool) -> None:
    play = squatted(random_pairing=random_pairing)
    play.rooms.make_room(BRIDGE, A, "bridge")
    play.arrives("bridge", BRIDGE, A, "bridge")
    matched = play.arrives("broker", BROKER, A, "broker")
    assert isinstance(matched, Matched)
    assert matched.bridge == "bridge"


def test_a_full_beacon_takes_places_back_from_the_source_that_has_most() -> None:
    play = Playbook(parked=6)
    for number in range(6):
        play.arrives(f"squatter {number}", BRIDGE, bytes([number]) * 32, "squatter")
    assert play.rooms.make_room(BRIDGE, A, "bridge") == [
        TurnedAway("squatter 5", Refusal.ROOM_FULL, 0, "max-parked")
    ]
    assert play.arrives("bridge", BRIDGE, A, "bridge") == Parked("bridge")
    assert play.rooms.parked == 6


def test_a_full_room_turns_away_and_takes_again_when_somebody_leaves() -> None:
    play = Playbook(parked_per_room=2)
    play.arrives("one", BRIDGE, A)
    play.arrives("two", BRIDGE, A)
    assert play.arrives("three", BRIDGE, A) == TurnedAway(
        "three", Refusal.ROOM_FULL, 0, "max-parked-per-room"
    )
    assert play.arrives("elsewhere", BRIDGE, B) == Parked("elsewhere")
    play.rooms.leave("one")
    assert play.arrives("four", BRIDGE, A) == Parked("four")


def test_a_full_beacon_turns_away_who_would_park_and_still_matches() -> None:
    play = Playbook(parked=1)
    play.arrives("bridge", BRIDGE, A)
    assert play.arrives("other", BRIDGE, B) == TurnedAway("other", Refusal.ROOM_FULL, 0, "max-parked")
    assert play.arrives("broker", BROKER, A) == Matched("bridge", "broker", waited=0)


def test_with_all_pairs_taken_the_parked_one_keeps_its_place() -> None:
    play = Playbook(pairs=1)
    play.arrives("b1", BRIDGE, A)
    play.arrives("b2", BRIDGE, A)
    play.arrives("o1", BROKER, A)
    assert play.arrives("o2", BROKER, A) == TurnedAway("o2", Refusal.ROOM_FULL, 0, "max-pairs")
    assert play.rooms.parked == 1
    play.rooms.pair_ended()
    assert play.arrives("o3", BROKER, A) == Matched("b2", "o3", waited=0)


def test_the_parked_are_told_so_every_twenty_seconds() -> None:
    play = Playbook()
    play.arrives("early", BRIDGE, A)
    play.now += 5
    play.arrives("late", BRIDGE, B)
    assert play.after(14.9) == []
    assert play.after(0.1) == [Parked("early")]
    assert play.after(5) == [Parked("late")]
    assert play.after(15) == [Parked("early")]


def test_a_day_is_long_enough() -> None:
    play = Playbook()
    play.arrives("old", BRIDGE, A)
    play.now += 3600
    play.arrives("younger", BRIDGE, A)
    old = TurnedAway("old", Refusal.PARKED_TOO_LONG, 0, "max-parked-age")
    assert old in play.after(23 * 3600)
    assert play.arrives("broker", BROKER, A) == Matched("younger", "broker", waited=23 * 3600)


def test_draining_turns_everybody_away_at_times_that_are_spread() -> None:
    play = Playbook(drain_spread=5.0)
    for number in range(60):
        play.arrives(str(number), BRIDGE, A)
    events = play.rooms.drain()
    assert len(events) == 60
    retries = []
    for event in events:
        assert isinstance(event, TurnedAway)
        assert event.refusal is Refusal.SHUTTING_DOWN
        retries.append(event.retry_ms)
    assert 200 <= min(retries) < 1500
    assert 3500 < max(retries) <= 5000
    assert play.rooms.parked == 0
    late = play.arrives("late", BROKER, A)
    assert isinstance(late, TurnedAway)
    assert late.refusal is Refusal.SHUTTING_DOWN


class AnyOrder(RuleBasedStateMachine):
    """Parties come, leave, die and are matched in any order; the model only knows who must be where."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = RoomLimits(parked_per_room=3, parked=7, pairs=4, parked_age=50, remind_every=20)
        self.rooms: Rooms[int] = Rooms(self.limits, rng=random.Random(0))
        self.now = 0.0
        self.next = 0
        self.parked: dict[int, tuple[Role, bytes, float]] = {}
        self.dead: set[int] = set()
        self.pairs = 0
        self.told: dict[int, float] = {}

    def is_live(self, asked: list[int]) -> Callable[[int], bool]:
        def answer(party: int) -> bool:
            asked.append(party)
            return party not in self.dead

        return answer

    @rule(role=st.sampled_from(Role), room=st.sampled_from([A, B]))
    def arrive(self, role: Role, room: bytes) -> None:
        self.next += 1
        me = self.next
        asked: list[int] = []
        event = self.rooms.arrive(me, role, room, self.now, self.is_live(asked))
        for party in asked:
            if party in self.dead:
                del self.parked[party]
        waiting = [p for p, (r, where, _) in self.parked.items() if r is not role and where == room]
        live = [p for p in waiting if p not in self.dead]
        match event:
            case Matched(bridge, broker, waited):
                other = broker if role is Role.BRIDGE else bridge
                assert me == (bridge if role is Role.BRIDGE else broker)
                assert other == waiting[0] == live[0]
                assert waited == self.now - self.parked[other][2]
                del self.parked[other]
                self.pairs += 1
                assert self.pairs <= self.limits.pairs
            case Parked(party):
                assert party == me
                assert not waiting
                self.parked[me] = (role, room, self.now)
                self.told[me] = self.now
            case TurnedAway(party, refusal, _, limit):
                assert party == me
                assert refusal is Refusal.ROOM_FULL
                if limit == "max-pairs":
                    assert live
                    assert self.pairs == self.limits.pairs
                elif limit == "max-parked":
                    assert len(self.parked) == self.limits.parked
                else:
                    same = [p for p, (r, where, _) in self.parked.items() if r is role and where == room]
                    assert len(same) == self.limits.parked_per_room

    @precondition(lambda self: self.parked)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from(sorted(self.parked)))
        assert self.rooms.leave(party)
        assert not self.rooms.leave(party)
        del self.parked[party]

    @precondition(lambda self: self.parked)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.dead.add(data.draw(st.sampled_from(sorted(self.parked))))

    @precondition(lambda self: self.pairs)
    @rule()
    def pair_ends(self) -> None:
        self.rooms.pair_ended()
        self.pairs -= 1

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for event in self.rooms.tick(self.now):
            match event:
                case TurnedAway(party, refusal, _, _):
                    assert refusal is Refusal.PARKED_TOO_LONG
                    assert self.now - self.parked.pop(party)[2] >= self.limits.parked_age
                case Parked(party):
                    assert self.now - self.told[party] >= self.limits.remind_every - 1e-9
                    self.told[party] = self.now
                case Matched():
                    raise AssertionError("time alone matches nobody")
        for party, (_, _, since) in self.parked.items():
            assert self.now - since < self.limits.parked_age
            assert self.now - self.told[party] < self.limits.remind_every

    @invariant()
    def counts_are_right(self) -> None:
        assert self.rooms.parked == len(self.parked) <= self.limits.parked
        for role in Role:
            assert self.rooms.parked_as(role) == sum(r is role for r, _, _ in self.parked.values())
        assert self.rooms.pairs == self.pairs
        assert self.rooms.rooms == len({room for _, room, _ in self.parked.values()})

    def teardown(self) -> None:
        """Nobody is lost: whoever is parked by the model is turned away by draining, once."""
        assert sorted(event.party for event in self.rooms.drain() if isinstance(event, TurnedAway)) == sorted(
            self.parked
        )


TestAnyOrder = AnyOrder.TestCase
