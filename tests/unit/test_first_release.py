"""What the first release said and stored is read by this one and means the same, and this one's readers are
as patient with what a later release adds (docs/compatibility.md)."""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudtaser.bridge.control import Control as BridgeControl
from cloudtaser.bridge.tokens import KeySet
from cloudtaser.errors import ProtocolError
from cloudtaser.openbao import records
from cloudtaser.openbao.client import KvValue, OpenBao
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.records import Records
from cloudtaser.operator.control import Control as OperatorControl
from cloudtaser.wire import bootstrap, hashes, names
from cloudtaser.wire.bootstrap import Mode, decode_answer
from cloudtaser.wire.opening import OpeningReader
from cloudtaser.wire.rendezvous import Hello, Matched, Parked, Refused, Role, Visitor

FOLDER = Path(__file__).parents[1] / "vectors" / "v1"


def vectors(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


HASHES, NAMES, RENDEZVOUS = vectors("hashes"), vectors("names"), vectors("rendezvous")
BOOTSTRAP, OPENINGS, CONTROL, RECORDS = (
    vectors("bootstrap"),
    vectors("openings"),
    vectors("control"),
    vectors("records"),
)
MESSAGES = BOOTSTRAP["messages"]
UNKNOWN_NAMES = st.from_regex(r"zz_[a-z_]{1,8}", fullmatch=True)
"""No field of any release begins so."""
UNKNOWN_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="ascii"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(UNKNOWN_NAMES, inner, max_size=3),
    max_leaves=5,
)


def says(read: Any, means: dict[str, Any]) -> bool:
    """Whether what was read has every field that it had in the first release; later ones may have more."""
    return all(_plain(getattr(read, name)) == value for name, value in means.items())


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return list(value) if isinstance(value, tuple) else value


# Hashes and names


def test_rooms_route_keys_labels_and_pins_are_those_of_the_first_release() -> None:
    ca = bytes.fromhex(HASHES["ca_der"])
    init = hashes.init_room(HASHES["fingerprint"])
    assert init.hex() == HASHES["init_room"]
    assert hashes.operational_room(ca).hex() == HASHES["operational_room"]
    assert hashes.return_room(ca).hex() == HASHES["return_room"]
    assert hashes.route_key(init) == HASHES["init_route_key"]
    assert hashes.pod_ca_label(ca) == HASHES["pod_ca_label"]
    assert hashes.short_fingerprint(HASHES["fingerprint"]) == HASHES["fp8"]


def test_parties_and_audiences_are_named_as_in_the_first_release() -> None:
    fingerprint, ca = NAMES["fingerprint"], bytes.fromhex(HASHES["ca_der"])
    for role, instance in NAMES["instances"].items():
        party = names.parse_uri(NAMES["uris"][role])
        assert (party.fingerprint, party.role, party.instance) == (fingerprint, role, instance)
    assert names.parse_successor(NAMES["uris"]["successor"], fingerprint) == hashes.operational_room(ca)
    fp8, bound = hashes.short_fingerprint(fingerprint), NAMES["return_of"]
    assert NAMES["audiences"] == {
        "pod": names.pod_audience(fp8),
        "operator": names.operator_audience(fp8),
        "admin": names.admin_audience(fp8),
        "unseal": names.unseal_audience(fp8),
        "return": names.return_audience(
            fp8, bytes.fromhex(bound["handshake_hash"]), bytes.fromhex(bound["spki"])
        ),
    }


# Rendezvous


@pytest.mark.parametrize("vector", RENDEZVOUS["hellos"], ids=lambda vector: vector["role"])
def test_a_hello_of_the_first_release_is_understood(vector: dict[str, str]) -> None:
    hello = Hello.decode(bytes.fromhex(vector["bytes"]))
    assert (hello.role.name.lower(), hello.room.hex()) == (vector["role"], vector["room"])
    assert hello.encode().hex() == vector["bytes"]


@pytest.mark.parametrize("vector", RENDEZVOUS["answers"], ids=lambda vector: vector["bytes"])
def test_an_answer_of_the_first_releases_beacon_is_understood(vector: dict[str, Any]) -> None:
    (answer,) = Visitor(Role.BRIDGE, bytes(32)).receive(bytes.fromhex(vector["bytes"]))
    match answer:
        case Parked():
            assert vector["means"] == "parked"
        case Matched(early):
            assert (vector["means"], vector.get("early", "")) == ("matched", early.hex())
        case Refused(refusal, retry_ms):
            assert (vector["means"], vector["retry_ms"]) == (refusal.name.lower(), retry_ms)


# Bootstrap


def decode(kind: str, payload: bytes) -> object:
    return getattr(bootstrap, kind).decode(payload)


def test_keys_and_prologues_are_those_of_the_first_release() -> None:
    fingerprint, psk = BOOTSTRAP["fingerprint"], BOOTSTRAP["psk"]
    assert bootstrap.derive_psk(fingerprint).hex() == psk["plain"]
    assert bootstrap.derive_psk(fingerprint, psk["join_code"]).hex() == psk["with_code"]
    room = bytes.fromhex(BOOTSTRAP["room"])
    for mode, prologue in BOOTSTRAP["prologues"].items():
        assert bootstrap.prologue(room, Mode(int(mode))).hex() == prologue


@pytest.mark.parametrize("vector", MESSAGES, ids=lambda vector: vector["type"])
def test_a_message_of_the_first_release_means_the_same(vector: dict[str, Any]) -> None:
    payload = vector["payload"].encode()
    assert says(decode(vector["type"], payload), vector["means"])
    if vector["type"] in ("InitAnswer", "Refusal"):
        assert says(decode_answer(payload), vector["means"])


@given(st.data())
def test_a_field_that_a_later_release_adds_to_a_message_is_ignored(data: st.DataObject) -> None:
    vector = data.draw(st.sampled_from(MESSAGES))
    fields = json.loads(vector["payload"])
    fields[data.draw(UNKNOWN_NAMES)] = data.draw(UNKNOWN_VALUES)
    assert says(decode(vector["type"], json.dumps(fields).encode()), vector["means"])


@given(st.data())
def test_a_field_that_a_later_kubernetes_adds_to_its_keys_is_ignored(data: st.DataObject) -> None:
    jwks = copy.deepcopy(next(vector for vector in RECORDS if vector["type"] == "Keys")["data"]["jwks"])
    known = KeySet.from_jwks(jwks).kids
    place = data.draw(st.sampled_from([jwks, jwks["keys"][0]]))
    place[data.draw(UNKNOWN_NAMES)] = data.draw(UNKNOWN_VALUES)
    assert KeySet.from_jwks(jwks).kids == known != frozenset()


@pytest.mark.parametrize("version", [0, 2, 3, 2**40, -1])
@pytest.mark.parametrize("vector", MESSAGES, ids=lambda vector: vector["type"])
def test_a_message_of_another_version_is_refused_and_a_refusal_is_read(
    vector: dict[str, Any], version: int
) -> None:
    payload = json.dumps(json.loads(vector["payload"]) | {"v": version}).encode()
    if vector["type"] == "Refusal":
        assert says(decode_answer(payload), vector["means"])
        return
    with pytest.raises(bootstrap.VersionError) as refused:
        decode(vector["type"], payload)
    assert "\n" not in refused.value.diagnostic()
    assert str(version) in refused.value.diagnostic()
    assert "upgrade the older" in refused.value.diagnostic()


# Openings


@pytest.mark.parametrize("vector", OPENINGS, ids=lambda vector: vector["means"]["kind"])
def test_an_opening_of_the_first_release_means_the_same(vector: dict[str, Any]) -> None:
    found = OpeningReader().receive(vector["line"].encode() + b"rest")
    assert found is not None
    assert says(found[0], vector["means"])
    assert found[1] == b"rest"


@given(st.data())
def test_a_field_that_a_later_release_adds_to_an_opening_is_ignored(data: st.DataObject) -> None:
    vector = data.draw(st.sampled_from(OPENINGS))
    fields = json.loads(vector["line"])
    fields[data.draw(UNKNOWN_NAMES)] = data.draw(UNKNOWN_VALUES)
    found = OpeningReader().receive(json.dumps(fields).encode() + b"\n")
    assert found is not None
    assert says(found[0], vector["means"])


def test_a_kind_of_stream_that_a_later_release_adds_is_refused_as_that() -> None:
    with pytest.raises(ProtocolError, match="no kind that we know"):
        OpeningReader().receive(b'{"kind":"audit","peer":"","id":""}\n')


# Control lines


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[dict[str, Any]] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(json.loads(bytes(data)))

    def get_write_buffer_size(self) -> int:
        return 0


def heard_by_bridge(line: bytes) -> str:
    """What a broker's control line brings about."""
    hints: list[str] = []
    wire = Wire()
    control = BridgeControl("eu-1", lambda: {"keys": 1}, lambda: hints.append("signing keys changed"))
    control.connection_made(wire)
    control.data_received(line)
    if control.broker_version:
        return "version"
    if control.parked_at > 0:
        return "waits for a further bridge"
    return hints[0] if hints else "asks for health" if len(wire.written) == 2 else "nothing"


def heard_by_broker(line: bytes) -> str:
    """What a bridge's control line brings about."""
    heard: list[str] = []
    control = OperatorControl(lambda: heard.append("renew"), lambda _: heard.append("version"))
    control.connection_made(Wire())
    control.data_received(line)
    return "logins are open" if control.logins_open else heard[0] if heard else "nothing"


LISTENERS: dict[str, Callable[[bytes], str]] = {
    "from_broker": heard_by_bridge,
    "from_bridge": heard_by_broker,
}


@pytest.mark.parametrize("side", LISTENERS)
async def test_a_control_line_of_the_first_release_means_the_same(side: str) -> None:
    for vector in CONTROL[side]:
        assert LISTENERS[side](vector["line"].encode()) == vector["means"]


@pytest.mark.parametrize("side", LISTENERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.data())
def test_a_field_or_type_that_a_later_release_adds_to_control_lines_is_ignored(
    side: str, data: st.DataObject
) -> None:
    vector = data.draw(st.sampled_from(CONTROL[side]))
    name, value = data.draw(UNKNOWN_NAMES), data.draw(UNKNOWN_VALUES)

    async def listen() -> tuple[str, str]:
        more = json.dumps(json.loads(vector["line"]) | {name: value}).encode() + b"\n"
        other = json.dumps({"type": name, "value": value}).encode() + b"\n"
        return LISTENERS[side](more), LISTENERS[side](other)

    assert asyncio.run(listen()) == (vector["means"], "nothing")


# Records


class Shelf:
    """OpenBao with one record in it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    async def kv_read(self, *_: object, **__: object) -> KvValue:
        return KvValue(self._data, 1, {})


def stored(kind: str, data: dict[str, Any]) -> Any:
    """The record as every reader of this release reads it."""
    shelf = Records(cast("OpenBao", Shelf(data)), Layout())
    return asyncio.run(shelf._read("anywhere", getattr(records, kind)))[0]


def covers(read: Any, data: Any) -> bool:
    """Whether what was read holds what was stored; later releases may have more fields."""
    if isinstance(data, dict) and isinstance(read, dict):
        return all(name in read and covers(read[name], value) for name, value in data.items())
    if isinstance(data, list) and isinstance(read, list | tuple):
        return len(read) == len(data) and all(map(covers, read, data))
    return bool(read == data)


@pytest.mark.parametrize("vector", RECORDS, ids=lambda vector: vector["type"])
def test_a_record_of_the_first_release_means_the_same(vector: dict[str, Any]) -> None:
    read = stored(vector["type"], vector["data"])
    assert covers(msgspec.to_builtins(read), vector["data"])


@pytest.mark.parametrize("vector", RECORDS, ids=lambda vector: vector["type"])
def test_a_record_needs_no_more_than_it_needed_in_the_first_release(vector: dict[str, Any]) -> None:
    least = {name: vector["data"][name] for name in vector["needed"]}
    read = stored(vector["type"], least)
    assert covers(msgspec.to_builtins(read), least)
    for field in dataclasses.fields(read):
        if field.name not in least:
            assert not getattr(read, field.name), f"{field.name} is made up where it is missing"


@given(st.data())
def test_a_field_that_a_later_release_adds_anywhere_in_a_record_is_ignored(data: st.DataObject) -> None:
    vector = data.draw(st.sampled_from(RECORDS))
    plain = msgspec.to_builtins(stored(vector["type"], vector["data"]))
    newer = copy.deepcopy(vector["data"])
    data.draw(st.sampled_from(_objects(vector["type"], newer)))[data.draw(UNKNOWN_NAMES)] = data.draw(
        UNKNOWN_VALUES
    )
    assert msgspec.to_builtins(stored(vector["type"], newer)) == plain


def _objects(kind: str, data: dict[str, Any]) -> list[dict[str, Any]]:
    """The record and every object of fields in it; not the tables in which names are data."""
    match kind:
        case "Registered":
            return [data, data["former_tunnel_ca"], *data["former_pod_cas"]]
        case "Grants":
            return [data, *data["roles"].values()]
        case "Reads":
            return [data, *data["paths"].values()]
        case "BridgeRecord":
            served = data["served"].values()
            return [data, *served, *(use for one in served for use in one["pod_cas"].values())]
        case _:
            return [data]


def test_every_record_of_this_release_has_a_vector_of_the_release_that_brought_it() -> None:
    brought = {vector["type"] for vector in RECORDS}
    assert {kind.__name__ for kind in records.Record.__constraints__} <= brought
