"""Bootstrap against a real OpenBao, under a bridge token's own rights: one initialisation, no impostor."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from cloudtaser.bridge import bootstrap, reception
from cloudtaser.bridge.authorities import authorities_of
from cloudtaser.bridge.bootstrap import Denied, Granted, Responder, Signed
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.csr import CertificateRequest
from cloudtaser.bridge.identity import Certificates
from cloudtaser.bridge.reception import ComingBack, FirstTime
from cloudtaser.bridge.tokens import KeySet, Reason
from cloudtaser.demo.openbao import LocalServer, start_dev
from cloudtaser.errors import CloudtaserError, RefusedError, UnavailableError
from cloudtaser.net.tls import require_party
from cloudtaser.openbao import pki
from cloudtaser.openbao.bridge_token import make_bridge_token
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.openbao.records import Grants, Initialized, Records, Registered, instant, seconds
from cloudtaser.openbao.registration import register
from cloudtaser.wire.bootstrap import (
    InitAnswer,
    Mode,
    Refusal,
    ReturnProof,
    decode_answer,
    init_signature_message,
    return_signature_message,
)
from cloudtaser.wire.hashes import init_room, return_room
from cloudtaser.wire.names import OPERATOR_SUBJECT, bridge_uri, broker_uri, return_audience
from tests.unit.bridge.scripted_operator import (
    FakeCluster,
    Recorder,
    ScriptedOperator,
    csr_of,
    dial,
    hang_up,
    initiator,
    stranger,
)

HASH = bytes(range(32))


@pytest.fixture(autouse=True)
async def _hang_up() -> AsyncIterator[None]:
    yield
    await hang_up()


def tampered(csr: str) -> str:
    """The request with the last byte of its signature changed."""
    data = bytearray(x509.load_pem_x509_csr(csr.encode()).public_bytes(Encoding.DER))
    data[-1] ^= 1
    body = base64.encodebytes(bytes(data)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    running = start_dev(tmp_path_factory.mktemp("openbao"))
    yield running
    running.stop()


@dataclasses.dataclass
class House:
    """One registered cluster, and what a bridge has of it."""

    cluster: FakeCluster
    admin: OpenBao
    client: OpenBao
    records: Records
    registered: Registered
    now: float = 0.0
    refetched: int = 0

    def bridge(self, bridge_id: str = "b1") -> BridgeSide:
        return BridgeSide(self, bridge_id)

    def operator(self) -> ScriptedOperator:
        return ScriptedOperator(self.cluster)

    @property
    def space(self) -> Space:
        return Space(self.registered.space, self.registered.namespace)

    def clock(self) -> float:
        return time.time() + self.now


class BridgeSide:
    """A bridge's responder for the cluster."""

    def __init__(self, house: House, bridge_id: str) -> None:
        self.house = house
        self.state = Cluster(house.cluster.fingerprint, house.registered, Grants(), KeySet())
        self.signed = 0
        self.responder = Responder(
            self.state,
            house.records,
            self._certify,
            bridge_id=bridge_id,
            now=house.clock,
            adopt=self._adopt,
            refetch_keys=self._refetch,
        )
        self.certificates = Certificates(
            house.client, house.space, house.cluster.fingerprint, bridge_id, 3600
        )
        self.authorities = authorities_of(house.registered)
        self.certificates.follow(self.authorities)

    def _adopt(self, initialized: Initialized) -> None:
        self.state.initialized = initialized
        self.state.keys = KeySet.from_jwks(initialized.keys)

    async def _refetch(self, _: Cluster) -> None:
        self.house.refetched += 1

    async def _certify(self, csr: CertificateRequest, broker: str) -> Signed:
        self.signed += 1
        uris = (broker_uri(self.house.cluster.fingerprint, broker),)
        issued = await pki.sign(self.house.client, self.house.space, PkiRole.BROKER, csr.pem, uris=uris)
        return Signed(issued.certificate_pem.decode(), int(issued.serial.replace(":", ""), 16))

    def first_time(self) -> FirstTime:
        room = init_room(self.house.cluster.fingerprint)
        return FirstTime(self.house.registered, room, self.responder)

    async def coming_back(self, broker: str | None = None) -> ComingBack:
        if not self.certificates.ready:
            await self.certificates.attend(time.time())
        prove = partial(self.certificates.proof, self.authorities.tunnel[0])
        fingerprint = self.house.cluster.fingerprint
        return ComingBack(fingerprint, return_room(der(self.house)), self.responder, prove, broker)


def der(house: House) -> bytes:
    return x509.load_pem_x509_certificate(house.registered.tunnel_ca.encode()).public_bytes(Encoding.DER)


async def settle(server: LocalServer, **options: Any) -> tuple[House, str]:
    admin = OpenBao(server.address, token=server.root_token)
    cluster = FakeCluster()
    result = await register(admin, cluster.fingerprint, **options)
    made = await make_bridge_token(admin, "b1")
    client = OpenBao(server.address, token=made.token)
    records = Records(client, Layout())
    registered = await records.registered(cluster.fingerprint)
    assert registered is not None
    return House(cluster, admin, client, records, registered), result.join_code


@pytest.fixture
async def house(server: LocalServer) -> AsyncIterator[House]:
    made, _ = await settle(server)
    yield made
    await made.client.close()
    await made.admin.close()


async def initialise(house: House, bridge: BridgeSide | None = None) -> tuple[Granted, ScriptedOperator]:
    operator = house.operator()
    side = bridge or house.bridge()
    outcome = await side.responder.first_time(operator.init_request(HASH), HASH)
    assert isinstance(outcome, Granted), outcome
    return outcome, operator


def refusal(outcome: Granted | Denied) -> tuple[str, str]:
    assert isinstance(outcome, Denied)
    return outcome.error, outcome.reason


# The first time


async def test_the_first_operator_gets_its_certificate_and_the_record_is_there_before(house: House) -> None:
    granted, operator = await initialise(house)
    assert granted.first
    record = await house.records.initialized(house.cluster.fingerprint)
    assert record is not None
    assert (record.bridge, record.issuer, record.subject) == ("b1", house.cluster.issuer, OPERATOR_SUBJECT)
    assert record.keys == {"keys": [house.cluster.key.public_jwk()]}
    certificate = x509.load_pem_x509_certificate(granted.answer.cert.encode())
    ca = x509.load_pem_x509_certificate(granted.answer.tunnel_ca.encode())
    certificate.verify_directly_issued_by(ca)
    party = require_party(certificate, house.cluster.fingerprint, "broker")
    assert party.instance == granted.broker
    assert len(bytes.fromhex(party.instance)) == 8
    assert certificate.public_key() == operator.key.public_key()
    assert granted.answer.pod_ca == house.registered.pod_ca


async def test_an_evil_request_gets_one_name_only_whatever_it_asks_for(house: House) -> None:
    operator = house.operator()
    evil = csr_of(
        operator.key,
        x509.UniformResourceIdentifier(bridge_uri(house.cluster.fingerprint, "b1")),
        x509.DNSName("bridge.cloudtaser.internal"),
        common_name="bridge.cloudtaser.internal",
    )
    outcome = await house.bridge().responder.first_time(operator.init_request(HASH, csr=evil), HASH)
    assert isinstance(outcome, Granted)
    certificate = x509.load_pem_x509_certificate(outcome.answer.cert.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [broker_uri(house.cluster.fingerprint, outcome.broker)]
    assert certificate.subject == x509.Name([])
    with pytest.raises(x509.ExtensionNotFound):  # without it a certificate signs no other
        certificate.extensions.get_extension_for_class(x509.BasicConstraints)


async def test_requests_with_other_kinds_of_keys_or_foreign_signatures_are_denied(house: House) -> None:
    responder = house.bridge().responder
    operator = house.operator()
    other = ec.generate_private_key(ec.SECP256R1())
    cases = [
        csr_of(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        csr_of(ec.generate_private_key(ec.SECP384R1())),
        csr_of(other),  # well-formed, but the signature over the channel is not by its key
        tampered(operator.csr),
    ]
    for csr in cases:
        outcome = await responder.first_time(operator.init_request(HASH, csr=csr), HASH)
        assert refusal(outcome)[0] == "denied"
    assert await house.records.initialized(house.cluster.fingerprint) is None


async def test_tokens_that_were_made_for_something_else_are_denied(house: House) -> None:
    responder = house.bridge().responder
    operator, cluster = house.operator(), house.cluster
    other = bytes(32)
    cases = {
        operator.token(other): Reason.WRONG_AUDIENCE,  # another channel
        ScriptedOperator(cluster).token(HASH): Reason.WRONG_AUDIENCE,  # another key
        cluster.token(f"cloudtaser:{cluster.fp8}"): Reason.WRONG_AUDIENCE,  # a pod's
        cluster.token(return_audience("00000000", HASH, operator.spki)): Reason.WRONG_AUDIENCE,
        operator.token(HASH, account="default"): Reason.WRONG_SUBJECT,
        operator.token(HASH, issuer="https://evil.example"): Reason.WRONG_ISSUER,
        operator.token(HASH, key=stranger()): Reason.UNKNOWN_KEY,
        operator.token(HASH, age=3600): Reason.EXPIRED,
        operator.token(HASH, age=-600): Reason.NOT_YET_VALID,
    }
    for token, reason in cases.items():
        outcome = await responder.first_time(operator.init_request(HASH, token=token), HASH)
        assert refusal(outcome) == ("denied", reason)
    assert await house.records.initialized(house.cluster.fingerprint) is None


async def test_a_request_is_signed_by_its_own_key_over_its_own_channel(house: House) -> None:
    """All else is right each time, the token included."""
    responder, operator = house.bridge().responder, house.operator()
    signatures = {
        "another channel": operator.key.sign(init_signature_message(bytes(32)), ec.ECDSA(hashes.SHA256())),
        "another key": house.operator().key.sign(init_signature_message(HASH), ec.ECDSA(hashes.SHA256())),
        "another purpose": operator.key.sign(return_signature_message(HASH), ec.ECDSA(hashes.SHA256())),
        "none": b"x",
    }
    for what, signature in signatures.items():
        outcome = await responder.first_time(operator.init_request(HASH, sig=signature), HASH)
        assert refusal(outcome)[0] == "denied", what
    assert await house.records.initialized(house.cluster.fingerprint) is None


async def test_only_the_registered_service_account_initialises(house: House) -> None:
    """Another one of the same cluster says so itself, and shows its own good token."""
    operator = house.operator()
    subject = OPERATOR_SUBJECT.replace("cloudtaser-operator", "default")
    request = operator.init_request(HASH, subject=subject, token=operator.token(HASH, account="default"))
    assert refusal(await house.bridge().responder.first_time(request, HASH))[0] == "denied"
    assert await house.records.initialized(house.cluster.fingerprint) is None


async def test_a_registration_made_anew_meanwhile_is_not_answered_under_the_old_authorities(
    house: House,
) -> None:
    side = house.bridge()
    await initialise(house, side)
    side.state.registered = dataclasses.replace(house.registered, tunnel_ca=house.cluster.ca)
    for outcome in (
        await side.responder.first_time(house.operator().init_request(HASH), HASH),
        await side.responder.coming_back(house.operator().return_request(HASH), HASH),
    ):
        assert refusal(outcome)[0] == "busy"


async def test_no_more_than_so_many_requests_are_judged_at_a_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "EXCHANGES_LIMIT", 2)
    side = house.bridge()
    await initialise(house, side)
    operators = [house.operator() for _ in range(5)]
    outcomes = await asyncio.gather(
        *(side.responder.coming_back(one.return_request(HASH), HASH) for one in operators)
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, Denied)]
    assert [outcome.error for outcome in refused] == ["busy"] * 3
    assert isinstance(await side.responder.coming_back(operators[0].return_request(HASH), HASH), Granted)


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "system:serviceaccount:default:default"},
        {"jwks": {"keys": [{"kty": "oct", "kid": "1", "k": "AAAA"}]}},
        {"cluster_ca": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
        {"fingerprint": str(uuid.uuid4())},
    ],
)
async def test_a_cluster_that_does_not_add_up_is_denied(house: House, changes: dict[str, Any]) -> None:
    outcome = await house.bridge().responder.first_time(house.operator().init_request(HASH, **changes), HASH)
    assert refusal(outcome)[0] == "denied"
    assert await house.records.initialized(house.cluster.fingerprint) is None


async def test_an_unused_registration_lapses(house: House) -> None:
    house.now = 24 * 3600 + 60
    operator = house.operator()
    token = operator.token(HASH, age=-int(house.now))
    outcome = await house.bridge().responder.first_time(operator.init_request(HASH, token=token), HASH)
    assert refusal(outcome)[0] == "expired"
    assert await house.records.initialized(house.cluster.fingerprint) is None


async def test_a_suspended_or_unregistered_cluster_gets_nothing(house: House) -> None:
    operator_records = Records(house.admin, Layout())
    _, version = await operator_records.registered_version(house.cluster.fingerprint)
    suspended = dataclasses.replace(house.registered, suspended=True)
    await operator_records.write_registered(suspended, version)
    outcome = await house.bridge().responder.first_time(house.operator().init_request(HASH), HASH)
    assert refusal(outcome)[0] == "unregistered"
    await operator_records.forget(Layout().registered(house.cluster.fingerprint))
    outcome = await house.bridge().responder.first_time(house.operator().init_request(HASH), HASH)
    assert refusal(outcome)[0] == "unregistered"


async def test_twenty_brokers_and_three_bridges_race_and_one_initialises(house: House) -> None:
    bridges = [house.bridge(f"b{number}") for number in range(3)]
    rivals = [FakeCluster(house.cluster.fingerprint, key=stranger()), house.cluster]
    operators = [ScriptedOperator(rivals[number % 2]) for number in range(20)]
    outcomes = await asyncio.gather(
        *(
            bridges[number % 3].responder.first_time(operator.init_request(HASH), HASH)
            for number, operator in enumerate(operators)
        )
    )
    granted = [outcome for outcome in outcomes if isinstance(outcome, Granted)]
    assert sum(outcome.first for outcome in granted) == 1
    record = await house.records.initialized(house.cluster.fingerprint)
    assert record is not None
    for number, outcome in enumerate(outcomes):
        if rivals[number % 2].jwks == record.keys:  # the operators of the cluster that won are one operator
            assert isinstance(outcome, Granted)
        else:
            assert refusal(outcome)[0] == "already_initialized"


async def test_an_operator_killed_before_it_stored_the_answer_is_served_again_by_any_bridge(
    house: House,
) -> None:
    _, operator = await initialise(house)
    again = await house.bridge("b2").responder.first_time(operator.init_request(HASH), HASH)
    assert isinstance(again, Granted)
    assert not again.first
    fresh = house.operator()  # restarted: another key, and a token of the same operator
    outcome = await house.bridge("b2").responder.first_time(fresh.init_request(HASH), HASH)
    assert isinstance(outcome, Granted)
    assert not outcome.first


async def test_served_again_needs_the_recorded_keys_issuer_and_subject(house: House) -> None:
    await initialise(house)
    responder = house.bridge("b2").responder
    impostor = ScriptedOperator(FakeCluster(house.cluster.fingerprint, key=stranger()))
    assert refusal(await responder.first_time(impostor.init_request(HASH), HASH)) == (
        "already_initialized",
        Reason.UNKNOWN_KEY,
    )
    other = ScriptedOperator(FakeCluster(house.cluster.fingerprint, issuer="https://other.example"))
    assert refusal(await responder.first_time(other.init_request(HASH), HASH))[0] == "already_initialized"
    account = house.operator()
    request = account.init_request(HASH, token=account.token(HASH, account="default"))
    assert refusal(await responder.first_time(request, HASH)) == (
        "already_initialized",
        Reason.WRONG_SUBJECT,
    )


async def test_after_ten_minutes_nobody_is_served_again_not_even_the_first(house: House) -> None:
    _, operator = await initialise(house)
    house.now = bootstrap.AGAIN_WITHIN + 1
    outcome = await house.bridge().responder.first_time(operator.init_request(HASH), HASH)
    assert refusal(outcome)[0] == "already_initialized"


async def test_a_bridge_killed_between_record_and_signature_locks_nobody_out(house: House) -> None:
    operator, side = house.operator(), house.bridge()

    async def fails(_: CertificateRequest, __: str) -> Signed:
        raise UnavailableError("OpenBao is sealed")

    broken = Responder(
        side.state,
        house.records,
        fails,
        bridge_id="b1",
        now=house.clock,
        adopt=side._adopt,
        refetch_keys=side._refetch,
    )
    assert refusal(await broken.first_time(operator.init_request(HASH), HASH))[0] == "busy"
    assert await house.records.initialized(house.cluster.fingerprint) is not None
    outcome = await house.bridge("b2").responder.first_time(operator.init_request(HASH), HASH)
    assert isinstance(outcome, Granted)


# Coming back


async def test_coming_back_takes_a_token_for_this_channel_and_key(house: House) -> None:
    side = house.bridge()
    await initialise(house, side)
    operator = house.operator()
    outcome = await side.responder.coming_back(operator.return_request(HASH), HASH)
    assert isinstance(outcome, Granted)
    certificate = x509.load_pem_x509_certificate(outcome.answer.cert.encode())
    assert certificate.public_key() == operator.key.public_key()
    cases = {
        operator.token(bytes(32)): Reason.WRONG_AUDIENCE,
        ScriptedOperator(house.cluster).token(HASH): Reason.WRONG_AUDIENCE,
        operator.token(HASH, account="default"): Reason.WRONG_SUBJECT,
        operator.token(HASH, issuer="https://evil.example"): Reason.WRONG_ISSUER,
        operator.token(HASH, key=stranger()): Reason.UNKNOWN_KEY,
    }
    for token, reason in cases.items():
        refused = await side.responder.coming_back(operator.return_request(HASH, token=token), HASH)
        assert refusal(refused) == ("denied", reason)
    assert house.refetched == 1  # the unknown key was looked for, once


async def test_before_initialisation_nobody_comes_back(house: House) -> None:
    outcome = await house.bridge().responder.coming_back(house.operator().return_request(HASH), HASH)
    assert refusal(outcome)[0] == "unregistered"


async def test_a_renewal_keeps_the_brokers_name(house: House) -> None:
    side = house.bridge()
    granted, _ = await initialise(house, side)
    outcome = await side.responder.coming_back(house.operator().return_request(HASH), HASH, granted.broker)
    assert isinstance(outcome, Granted)
    assert outcome.broker == granted.broker
    assert outcome.serial != granted.serial


# The dialogue


async def test_the_whole_first_exchange_over_noise(house: House) -> None:
    guest = house.bridge().first_time()
    operator = house.operator()
    line = initiator(init_room(house.cluster.fingerprint), Mode.INIT, house.cluster.fingerprint)
    await dial(guest.protocol, line)
    served = asyncio.ensure_future(guest.receive())
    await line.establish(5)
    line.send(operator.init_request(line.handshake_hash))
    answer = decode_answer(await line.receive(10))
    assert isinstance(answer, InitAnswer)
    line.close()
    await served


async def test_coming_back_the_bridge_proves_itself_before_the_operator_speaks(house: House) -> None:
    side = house.bridge()
    await initialise(house, side)
    guest = await side.coming_back()
    operator = house.operator()
    line = initiator(return_room(der(house)), Mode.RETURN, house.cluster.fingerprint)
    await dial(guest.protocol, line)
    served = asyncio.ensure_future(guest.receive())
    await line.establish(5)
    proof = ReturnProof.decode(await line.receive(5))
    certificate = x509.load_pem_x509_certificate(proof.cert.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(house.registered.tunnel_ca.encode()))
    assert require_party(certificate, house.cluster.fingerprint, "bridge").instance == "b1"
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert CertificateRequest("", key).proves(proof.sig, return_signature_message(line.handshake_hash))
    line.send(operator.return_request(line.handshake_hash))
    assert isinstance(decode_answer(await line.receive(10)), InitAnswer)
    line.close()
    await served
    assert guest.granted is not None


async def test_a_recorded_bootstrap_played_again_is_refused(house: House) -> None:
    side = house.bridge()
    guest = side.first_time()
    line = initiator(init_room(house.cluster.fingerprint), Mode.INIT, house.cluster.fingerprint)
    recorder = Recorder(line)
    await dial(guest.protocol, recorder)
    served = asyncio.ensure_future(guest.receive())
    await line.establish(5)
    line.send(house.operator().init_request(line.handshake_hash))
    await line.receive(10)
    line.close()
    await served
    signed = side.signed

    again = side.first_time()
    loop = asyncio.get_running_loop()
    replay = _Replay(recorder.sent, loop.create_future())
    await dial(again.protocol, replay)
    with pytest.raises(CloudtaserError):
        await again.receive()
    async with asyncio.timeout(30):
        await replay.over
    assert side.signed == signed


class _Replay(asyncio.Protocol):
    def __init__(self, messages: list[bytes], over: asyncio.Future[None]) -> None:
        self.messages = messages
        self.over = over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        for message in self.messages:
            cast("asyncio.Transport", transport).write(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(None)


async def test_with_a_join_code_no_other_code_and_no_code_gets_in(server: LocalServer) -> None:
    house, code = await settle(server, join_code=True)
    assert code
    room = init_room(house.cluster.fingerprint)
    for mode, attempt in [
        (Mode.INIT, ""),
        (Mode.INIT_WITH_CODE, ""),
        (Mode.INIT_WITH_CODE, "AAAAAAAAAAAAAAAAAAAAAAAAAA"),
    ]:
        guest = house.bridge().first_time()
        line = initiator(room, mode, house.cluster.fingerprint, attempt)
        await dial(guest.protocol, line)
        with pytest.raises(CloudtaserError):
            await guest.receive()
        with pytest.raises(CloudtaserError):
            await line.establish(5)
    guest = house.bridge().first_time()
    line = initiator(room, Mode.INIT_WITH_CODE, house.cluster.fingerprint, code)
    await dial(guest.protocol, line)
    served = asyncio.ensure_future(guest.receive())
    await line.establish(5)
    line.send(house.operator().init_request(line.handshake_hash))
    assert isinstance(decode_answer(await line.receive(10)), InitAnswer)
    line.close()
    await served
    await house.client.close()
    await house.admin.close()


async def test_a_refusal_is_typed_for_the_operator_and_holds_no_token(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = house.bridge().first_time()
    operator = house.operator()
    line = initiator(init_room(house.cluster.fingerprint), Mode.INIT, house.cluster.fingerprint)
    await dial(guest.protocol, line)
    served = asyncio.ensure_future(guest.receive())
    await line.establish(5)
    token = operator.token(line.handshake_hash, account="default")
    line.send(operator.init_request(line.handshake_hash, token=token))
    answer = decode_answer(await line.receive(10))
    assert not isinstance(answer, InitAnswer)
    assert answer.error == "denied"
    line.close()
    with pytest.raises(RefusedError) as caught:
        await served
    printed = capsys.readouterr()
    for text in (answer.message, caught.value.diagnostic(), printed.out, printed.err):
        assert token not in text
        assert token.split(".")[2] not in text


async def test_a_guest_that_says_nothing_is_shown_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "HANDSHAKE_TIMEOUT", 0.05)
    guest = house.bridge().first_time()
    silent = _Replay([], asyncio.get_running_loop().create_future())
    await dial(guest.protocol, silent)
    with pytest.raises(UnavailableError):
        await guest.receive()
    async with asyncio.timeout(30):
        await silent.over


# Without a server


def test_ten_minutes_are_counted_from_the_record() -> None:
    record = Initialized(instant(1000.0), "b", {}, "", "", "", "")
    assert seconds(record.at) == 1000.0
    assert bootstrap.initialisable_again(record, 1599.0)
    assert not bootstrap.initialisable_again(record, 1600.0)


# Other releases


async def test_an_operator_of_another_release_hears_which_versions_fit(house: House) -> None:
    side, operator = house.bridge(), house.operator()
    first = await side.responder.first_time(of_version(2, operator.init_request(HASH)), HASH)
    again = await side.responder.coming_back(of_version(2, operator.return_request(HASH)), HASH)
    for outcome in (first, again):
        assert isinstance(outcome, Denied)
        assert (outcome.answer.error, outcome.answer.speaks) == ("version", (1,))
        assert "the bridge speaks version 1 of the bootstrap, this operator 2" in outcome.reason
    assert await house.records.initialized(house.cluster.fingerprint) is None


async def test_an_operator_that_refuses_our_proof_is_logged_in_its_words(house: House) -> None:
    said = Refusal("version", "the operator speaks version 2 of the bootstrap, this bridge 1")
    with pytest.raises(RefusedError, match="the operator refused, version: the operator speaks version 2"):
        await house.bridge().responder.coming_back(said.encode(), HASH)


def of_version(version: int, message: bytes) -> bytes:
    return json.dumps(json.loads(message) | {"v": version}).encode()
