"""A stored pair is used only if it is whole, in time, under the CA, and names whom it is for."""

from __future__ import annotations

import datetime as dt
import time

import pytest

from cloudtaser.openbao.pregenerated import Authorities, Party, fault_of
from cloudtaser.openbao.records import Pair
from cloudtaser.wire.names import BRIDGE_NAME, bridge_uri, broker_uri
from tests.unit.operator.parties import CLIENT, FINGERPRINT, OTHER_FINGERPRINT, SERVER, Authority, Leaf

TUNNEL, POD, STRANGER = Authority("tunnel"), Authority("pod"), Authority("stranger")
BOTH = Authorities(TUNNEL.pem, POD.pem)
YEAR = dt.timedelta(days=365)


def leaf(party: Party, ca: Authority, fingerprint: str = FINGERPRINT, lifetime: dt.timedelta = YEAR) -> Leaf:
    match party:
        case Party.BRIDGE:
            return ca.issue([bridge_uri(fingerprint, "pregenerated")], CLIENT, lifetime=lifetime)
        case Party.BROKER:
            return ca.issue([broker_uri(fingerprint, "pregenerated")], SERVER, lifetime=lifetime)
        case Party.BRIDGE_POD:
            return ca.issue([], SERVER, dns=(BRIDGE_NAME,), lifetime=lifetime)


def pair(leaf: Leaf) -> Pair:
    return Pair(leaf.pem, leaf.identity.key.reveal_text())


def authority(party: Party) -> Authority:
    return POD if party is Party.BRIDGE_POD else TUNNEL


@pytest.mark.parametrize("party", list(Party))
def test_a_whole_pair_has_no_fault(party: Party) -> None:
    assert fault_of(pair(leaf(party, authority(party))), party, FINGERPRINT, BOTH, time.time()) == ""


@pytest.mark.parametrize("party", list(Party))
def test_a_pair_of_another_ca_another_key_or_no_time_left_has_one(party: Party) -> None:
    now, good = time.time(), leaf(party, authority(party))
    other = pair(leaf(party, authority(party)))
    assert fault_of(pair(leaf(party, STRANGER)), party, FINGERPRINT, BOTH, now) == "is of another CA"
    assert fault_of(pair(good), party, FINGERPRINT, None, now) == "is of another CA"
    assert fault_of(Pair(good.pem, other.key), party, FINGERPRINT, BOTH, now) == "is damaged"
    assert fault_of(Pair("nothing", other.key), party, FINGERPRINT, BOTH, now) == "is damaged"
    assert fault_of(Pair(good.pem, "nothing"), party, FINGERPRINT, BOTH, now) == "is damaged"
    assert fault_of(pair(good), party, FINGERPRINT, BOTH, now + 366 * 86400) == "has expired"
    assert fault_of(pair(good), party, FINGERPRINT, BOTH, now + 340 * 86400) == "ends soon"
    assert fault_of(pair(good), party, FINGERPRINT, BOTH, now + 340 * 86400, spare=0) == ""


@pytest.mark.parametrize("party", [Party.BRIDGE, Party.BROKER])
def test_a_pair_that_names_another_cluster_or_role_has_one(party: Party) -> None:
    foreign = pair(leaf(party, TUNNEL, OTHER_FINGERPRINT))
    assert fault_of(foreign, party, FINGERPRINT, BOTH, time.time()) == "names somebody else"
    swapped = Party.BROKER if party is Party.BRIDGE else Party.BRIDGE
    assert (
        fault_of(pair(leaf(swapped, TUNNEL)), party, FINGERPRINT, BOTH, time.time()) == "names somebody else"
    )
