"""Which entry of the two configurations asks about which namespace."""

from __future__ import annotations

import pytest

from cloudtaser.operator.webhook.configuration import Registration, mutating, validating
from cloudtaser.operator.webhook.plan import selects
from tests.unit.operator.webhook.pods_rig import Json

NAME = "kubernetes.io/metadata.name"


def asking(made: Json, labels: dict[str, str]) -> list[str]:
    return [one["name"] for one in made["webhooks"] if selects(one["namespaceSelector"], labels)]


@pytest.mark.parametrize(
    ("label", "entry"),
    [(None, "{}.cloudtaser.io"), ("required", "{}-required.cloudtaser.io"), ("x", "{}.cloudtaser.io")],
)
def test_each_namespace_meets_one_entry_of_each_kind(label: str | None, entry: str) -> None:
    labels = {NAME: "shop"} | ({} if label is None else {"cloudtaser.io/enforce": label})
    registration = Registration()
    assert asking(mutating(registration), labels) == [entry.format("inject")]
    assert asking(validating(registration), labels) == [entry.format("validate"), "workloads.cloudtaser.io"]


@pytest.mark.parametrize("name", ["kube-system", "kube-public", "kube-node-lease", "cloudtaser-system"])
def test_system_namespaces_and_our_own_meet_none(name: str) -> None:
    for labels in ({NAME: name}, {NAME: name, "cloudtaser.io/enforce": "required"}):
        assert asking(mutating(Registration()), labels) == []
        assert asking(validating(Registration()), labels) == []


def test_a_selector_of_the_administrators_narrows_every_entry() -> None:
    registration = Registration(
        namespace_selector={"matchLabels": {"team": "web"}}, object_selector={"matchLabels": {"a": "b"}}
    )
    for made in (mutating(registration), validating(registration)):
        assert asking(made, {NAME: "shop"}) == []
        assert len(asking(made, {NAME: "shop", "team": "web"})) == len(made["webhooks"]) - 1
        narrowed = {one["name"]: "objectSelector" in one for one in made["webhooks"]}
        assert all(narrowed[name] is ("required" not in name) for name in narrowed)


def test_fail_closed_entries_fail_whatever_is_said_of_the_others() -> None:
    for policy in ("Ignore", "Fail"):
        registration = Registration(failure_policy=policy)
        policies = {
            one["name"]: one["failurePolicy"]
            for made in (mutating(registration), validating(registration))
            for one in made["webhooks"]
        }
        assert (
            policies["inject-required.cloudtaser.io"] == policies["validate-required.cloudtaser.io"] == "Fail"
        )
        assert policies["inject.cloudtaser.io"] == policies["validate.cloudtaser.io"] == policy
        assert policies["workloads.cloudtaser.io"] == "Ignore"


def test_changes_of_pods_are_asked_about_in_fail_closed_namespaces_alone() -> None:
    asked = {
        one["name"]
        for made in (mutating(Registration()), validating(Registration()))
        for one in made["webhooks"]
        for rule in one["rules"]
        if "pods" in rule["resources"] and "UPDATE" in rule["operations"]
    }
    assert asked == {"validate-required.cloudtaser.io"}
