"""Which pod holds which token."""

from __future__ import annotations

from cloudtaser.bridge.holders import Holder, Holders
from cloudtaser.bridge.tokens import PodIdentity

WEB = PodIdentity("shop", "web", "p", "u", "s", 0.0, "a")


def test_a_token_seen_at_its_login_keeps_its_name() -> None:
    holders = Holders()
    holders.note(b"x", Holder("f", None))
    holders.note(b"x", Holder("f", WEB))
    holders.note(b"x", Holder("f", None))
    assert holders.find(b"x") == Holder("f", WEB)
    assert holders.find(b"y") is None


def test_a_revoked_token_and_a_cluster_that_is_gone_are_forgotten() -> None:
    holders = Holders()
    for key, cluster in ((b"x", "f"), (b"y", "f"), (b"z", "g")):
        holders.note(key, Holder(cluster, WEB))
    holders.forget(b"x")
    holders.forget(b"not there")
    assert holders.find(b"x") is None
    holders.forget_cluster("f")
    assert len(holders) == 1
    assert holders.find(b"z") is not None


def test_the_table_is_bounded_and_forgets_the_least_used() -> None:
    holders = Holders(size=2)
    holders.note(b"x", Holder("f", WEB))
    holders.note(b"y", Holder("f", WEB))
    holders.find(b"x")
    holders.note(b"z", Holder("f", WEB))
    assert len(holders) == 2
    assert holders.find(b"y") is None
    assert holders.find(b"x") is not None
