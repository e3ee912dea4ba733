"""Sets of signing keys: the public part only, and a change of name or of key is a change."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from joserfc.jwk import ECKey, OctKey, RSAKey

from cloudtaser.bridge import keyset
from cloudtaser.errors import ProtocolError

EC = ECKey.generate_key("P-256", {"kid": "ec"})
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})


def document(*keys: ECKey | RSAKey | OctKey, private: bool = False) -> dict[str, Any]:
    return {"keys": [key.as_dict(private=private) for key in keys]}


def test_private_parts_and_strangers_are_left_out() -> None:
    kept = keyset.normalise(document(RSA, EC, OctKey.generate_key(256, {"kid": "oct"}), private=True))
    assert [entry["kid"] for entry in kept["keys"]] == ["ec", "rsa"]
    assert not any(name in entry for entry in kept["keys"] for name in ("d", "p", "q", "k"))


@pytest.mark.parametrize("bad", [{}, {"keys": []}, {"keys": [{"kty": "EC"}]}, {"keys": "EC"}])
def test_a_set_without_a_usable_key_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        keyset.normalise(bad)


def test_pems_are_what_openbao_reads() -> None:
    pems = keyset.pems(document(EC, RSA))
    assert len(pems) == 2
    for pem in pems:
        load_pem_public_key(pem.encode())


def test_order_does_not_matter_and_an_added_key_does() -> None:
    assert keyset.same(document(EC, RSA), document(RSA, EC))
    assert not keyset.same(document(EC), document(RSA, EC))


def test_a_rotation_continues_the_set_and_a_replacement_does_not() -> None:
    assert keyset.continues(document(EC), document(EC, RSA))
    assert not keyset.continues(document(EC), document(RSA))


def test_another_key_under_a_recorded_name_does_not_continue_the_set() -> None:
    impostor = ECKey.generate_key("P-256", {"kid": "ec"})
    assert not keyset.continues(document(EC), document(impostor))
    assert not keyset.same(document(EC), document(impostor))
