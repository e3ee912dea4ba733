"""Sweep: which tokens belong to somebody, and when each is renewed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.operator.tokens.ledger import Entry, parse
from cloudtaser.operator.tokens.ports import LivePod, PodRef
from cloudtaser.operator.tokens.sweep import GRACE, RENEW_AT, Renewals, judge
from cloudtaser.operator.tokens.target import decode

NOW = 1_000_000


def entry(pod: str = "a", container: str = "web", accessor: str = "one", age: float = 1000.0) -> Entry:
    return Entry(PodRef("shop", f"pod-{pod}", pod), container, accessor, int(NOW - age), 3600)


def live(pod: str = "a", annotation: str = "web=one") -> dict[str, LivePod]:
    return {pod: LivePod(PodRef("shop", f"pod-{pod}", pod), annotation)}


def test_a_token_whose_pod_is_gone_is_revoked_however_young_it_is() -> None:
    old, young = entry("b", accessor="two"), entry("c", accessor="three", age=0)
    findings = judge([entry(), old, young], live(), NOW)
    assert findings.gone == (old, young)
    assert findings.kept == (entry(),)
    assert not findings.annotate


def test_of_two_tokens_of_a_container_the_later_one_is_kept_and_annotated() -> None:
    late = entry(accessor="late", age=GRACE + 1)
    findings = judge([entry(), late], live(), NOW)
    assert findings.gone == (entry(),)
    assert findings.annotate == {entry().pod: "web=late"}


def test_of_two_that_were_made_at_the_same_time_the_annotated_one_is_kept() -> None:
    twin = entry(accessor="twin", age=999)
    assert judge([entry(), twin], live(), NOW).gone == (twin,)


def test_a_token_that_may_be_on_its_way_is_left_alone() -> None:
    under_way = entry(accessor="new", age=GRACE - 1)
    findings = judge([under_way], live(annotation=""), NOW)
    assert findings.kept == (under_way,)
    assert not findings.annotate


def test_an_accessor_of_another_pod_in_an_annotation_changes_nothing_for_that_pod() -> None:
    victim = entry("b", accessor="victim")
    pods = live(annotation="web=victim") | live("b", "web=victim")
    findings = judge([entry(), victim], pods, NOW)
    assert findings.gone == ()
    assert findings.annotate == {entry().pod: "web=one"}


ages = st.integers(0, 5000)
entries = st.lists(
    st.builds(
        entry,
        st.sampled_from("abc"),
        st.sampled_from(("web", "side")),
        st.text("xyz", min_size=1, max_size=4),
        ages,
    ),
    unique_by=lambda one: one.accessor,
    max_size=12,
)


@given(entries, st.sets(st.sampled_from("abc")), st.text("webside=,xyz", max_size=12))
def test_every_container_that_has_tokens_keeps_one_and_every_token_is_judged_once(
    out: list[Entry], there: set[str], annotation: str
) -> None:
    pods = {uid: live(uid, annotation)[uid] for uid in there}
    findings = judge(out, pods, NOW)
    assert sorted(findings.gone + findings.kept, key=repr) == sorted(out, key=repr)
    kept = {(one.pod.uid, one.container) for one in findings.kept}
    assert kept == {(one.pod.uid, one.container) for one in out if one.pod.uid in there}
    for pod, value in findings.annotate.items():
        own = {one.accessor for one in findings.kept if one.pod == pod}
        held = decode(annotation)
        assert all(accessor in own or held.get(name) == accessor for name, accessor in decode(value).items())


@given(entries)
def test_the_ledger_reads_what_it_wrote_and_nothing_else(out: list[Entry]) -> None:
    data = {one.key: one.value for one in out}
    assert sorted(parse(data), key=repr) == sorted(out, key=repr)
    moved = {one.key.replace("web", "side"): one.value for one in out if one.container == "web"}
    strange = moved | {"x": "y", "a.web.0123456789ab": "acc shop pod-a 1 3600", "a.web.zz": ""}
    assert [one for one in parse(strange) if one.container == "web"] == []


def test_a_token_is_renewed_at_two_thirds_of_its_life() -> None:
    renewals = Renewals()
    renewals.follow([entry(age=0)], 500.0, NOW, 0.0)
    first = renewals.next()
    assert first is not None
    assert 0.9 * RENEW_AT * 3600 <= first - 500 <= RENEW_AT * 3600
    assert renewals.due(first - 1) == []
    assert renewals.due(first) == [entry(age=0)]
    renewals.renewed("one", 3600, first, 1.0)
    assert renewals.next() == first + 3600 * RENEW_AT * 0.9


def test_a_new_leader_renews_what_may_be_late_soon_and_not_all_at_once() -> None:
    old = [entry(accessor=f"token-{number}", age=50_000) for number in range(100)]
    renewals = Renewals()
    renewals.follow(old, 0.0, NOW, 0.3)
    first, last = (len(renewals.due(time)) for time in (60.0, 450.0))
    assert 5 < first < 20
    assert last == 100


def test_what_could_not_be_renewed_is_tried_again_long_before_it_ends() -> None:
    renewals = Renewals()
    renewals.follow([entry(age=50_000)], 0.0, NOW, 0.0)
    renewals.failed("one", 1000.0, 0.5)
    again = renewals.next()
    assert again is not None
    assert 10 < again - 1000 < 60
    renewals.forget("one")
    assert renewals.next() is None
    renewals.renewed("one", 3600, 0.0, 0.0)
    renewals.failed("one", 0.0, 0.0)
    assert len(renewals) == 0
