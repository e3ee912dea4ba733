"""No copy left behind by any way of delivery: the wrapper's memory is searched as in test_wrapper_memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_wrapper_memory import scanned, tap  # noqa: F401  # fixtures
from tests.integration.test_wrapper_openbao import vault  # noqa: F401  # a fixture
from tests.memory_scan import random_text
from tests.scanned import Scanned
from tests.unit.wrapper.launch import APPLICATION, application_of

DEAF = ("sh", "-c", "trap '' HUP; exec sleep 1000")


@pytest.mark.parametrize("delivery", ["memory", "file"])
def test_the_shown_environment_has_no_value_and_the_wrapper_no_copy(
    scanned: Scanned,  # noqa: F811  # the fixture
    delivery: str,
) -> None:
    scanned.put(value=random_text(40), user=random_text(30) + '"\n' + random_text(30))
    settings = scanned.quick(CLOUDTASER_DELIVERY=delivery)
    with scanned.start(*APPLICATION, settings=settings) as wrapped:
        first = application_of(wrapped)
        scanned.assert_clean(wrapped)
        assert b"VALUE=" in Path(f"/proc/{first}/environ").read_bytes()
        assert scanned.copies_in(first, "value 1") == 0  # its memfd_secret cannot be read from outside
        scanned.put(value=random_text(40), user=random_text(50))
        second = application_of(wrapped, other_than=first)
        scanned.assert_clean(wrapped)
        assert scanned.copies_in(second, "value 2") == 0


def test_new_values_that_come_with_a_hangup_leave_no_copy(scanned: Scanned) -> None:  # noqa: F811
    scanned.put(value=random_text(40))
    settings = scanned.quick(CLOUDTASER_DELIVERY="memory", CLOUDTASER_ROTATION="sighup")
    with scanned.start(*DEAF, settings=settings) as wrapped:
        application = application_of(wrapped)
        scanned.put(value=random_text(40))
        wrapped.event("secrets changed")
        scanned.assert_clean(wrapped)
        assert application_of(wrapped) == application


def test_templates_and_references_leave_no_copy(scanned: Scanned) -> None:  # noqa: F811
    scanned.put(value=random_text(40), user=random_text(40))
    settings = scanned.settings(CLOUDTASER_TEMPLATE_URL="postgres://{{user}}:{{value|urlencode}}@db/app")
    settings |= {"PLAIN": "vault:secret/data/scanned#value", "MIXED": "a ${vault:secret/data/scanned#user} b"}
    user, value = scanned.values["user 1"], scanned.values["value 1"]
    with scanned.start(*APPLICATION, settings=settings) as wrapped:
        environment = Path(f"/proc/{application_of(wrapped)}/environ").read_bytes().split(b"\0")
        assert f"URL=postgres://{user}:{value}@db/app".encode() in environment
        assert f"PLAIN={value}".encode() in environment
        assert f"MIXED=a {user} b".encode() in environment
        scanned.assert_clean(wrapped)
