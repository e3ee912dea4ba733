"""Incidents: the last errors, in words that a program can sort by."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cloudtaser.errors import UnavailableError
from cloudtaser.net.rendezvous import BeaconRefusedError
from cloudtaser.net.tls import UntrustedError
from cloudtaser.operator.incidents import KEPT, Incident, Incidents, code_of
from cloudtaser.wire.rendezvous import Refusal

FIELDS = Incident(1.0, "part", "code", "message").to_json()


def test_the_last_ones_are_kept() -> None:
    incidents = Incidents(now=lambda: 5.0)
    for number in range(3 * KEPT):
        incidents.note("relay", "refused", f"number {number}")
    assert incidents.count == 3 * KEPT
    assert [one.message for one in incidents.all()] == [f"number {n}" for n in range(2 * KEPT, 3 * KEPT)]
    assert incidents.all()[0] == Incident(5.0, "relay", "refused", f"number {2 * KEPT}")


def test_the_code_is_the_beacons_answer_or_the_kind_of_error() -> None:
    assert code_of(BeaconRefusedError(Refusal.BAD_HELLO, 0, "b:443")) == "bad-hello"
    assert code_of(UnavailableError("away")) == "unavailable"
    assert code_of(UntrustedError("unknown CA")) == "untrusted"


def test_what_is_told_is_what_was_recorded() -> None:
    incidents = Incidents()
    incidents.record("beacon", UnavailableError("away", on="b:443"), beacon="b:443", delay=1.23456)
    (incident,) = incidents.all()
    assert Incident.from_json(incident.to_json()) == incident
    assert incident.delay == 1.235


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        {"time": "now"},
        {"time": 1, "part": 2, "code": "", "message": "", "beacon": ""},
        *(FIELDS | {"time": time} for time in (1e18, 10**400, -1.0, math.inf, math.nan)),
        *(FIELDS | {"delay": delay} for delay in (10**400, -1.0, math.inf, math.nan)),
    ],
)
def test_what_is_no_incident_is_none(fields: Any) -> None:
    assert Incident.from_json(fields) is None


def test_what_another_process_tells_is_cut_and_printable() -> None:
    fields = Incident(1.0, "p" * 1000, "c" * 1000, "m\n\x1b" * 1000, "b" * 1000).to_json()
    incident = Incident.from_json(fields)
    assert incident is not None
    assert incident.message.isprintable()
    assert max(map(len, (incident.part, incident.code, incident.message, incident.beacon))) <= 400
