"""What an answer of another form or another release does to an operator."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest

from cloudtaser.errors import ProtocolError
from cloudtaser.operator.exchange import BridgeRefusedError
from cloudtaser.wire.bootstrap import InitAnswer, Refusal
from tests.unit.operator.parties import FakeManager, ScriptedDialogue
from tests.unit.operator.test_exchange import TUNNEL, again, answer, first, good_answer, proof


async def test_a_pregenerated_pair_comes_with_its_key_which_must_fit() -> None:
    pair = TUNNEL.broker()
    key = pair.identity.key.reveal_text()
    stored = answer(partial(_with_pair, pair.pem, key))
    manager = FakeManager()
    certified = await first(ScriptedDialogue(stored), manager)
    assert certified.identity.key.reveal_text() == key
    assert certified.identity.certificate_pem.decode() == pair.pem
    assert manager.trust == TUNNEL.trust
    other = TUNNEL.broker().identity.key.reveal_text()
    for bad in (other, key.replace("M", "!", 1), _rsa_key()):
        manager = FakeManager()
        with pytest.raises(ProtocolError, match="key"):
            await first(ScriptedDialogue(answer(partial(_with_pair, pair.pem, bad))), manager)
        assert manager.trust is None


def _with_pair(cert: str, key: str, request: bytes) -> InitAnswer:
    return replace(good_answer(request), cert=cert, key=key)


def _rsa_key() -> str:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


async def test_a_bridge_of_a_newer_release_hears_which_versions_fit() -> None:
    newer = json.loads(proof()) | {"v": 2}
    dialogue = ScriptedDialogue(json.dumps(newer).encode())
    with pytest.raises(ProtocolError, match="version 2 of the bootstrap, this one version 1"):
        await again(dialogue, FakeManager())
    said = Refusal.decode(dialogue.sent[0])
    assert (said.error, said.speaks) == ("version", (1,))
    assert said.message.startswith("the operator speaks version 1 of the bootstrap, this bridge 2")


async def test_an_older_bridge_says_which_versions_fit() -> None:
    refused = b'{"error":"version","message":"the bridge speaks version 0, this operator 1","speaks":[0]}'
    with pytest.raises(BridgeRefusedError, match="the bridge speaks version 0, this operator 1") as told:
        await first(ScriptedDialogue(refused), FakeManager())
    assert told.value.code == "version"


def test_the_info_hash_fits_a_ca_and_those_that_descend_from_it() -> None:
    import hashlib

    from cloudtaser.operator.certificates import check_room, der
    from tests.unit.operator.parties import Authority

    next_ca = Authority("next").certificate
    pinned = hashlib.sha256(der(TUNNEL.certificate)).hexdigest()
    check_room(TUNNEL.certificate, "")
    check_room(TUNNEL.certificate, pinned)
    check_room(next_ca, pinned, [TUNNEL.certificate])
    with pytest.raises(ProtocolError, match="not the one of the info hash"):
        check_room(next_ca, pinned)
