"""Key sets: thumbprints as RFC 7638 has them, PEM as OpenBao takes it, and one digest for one set."""

from __future__ import annotations

import pytest
from joserfc.jwk import ECKey, RSAKey

from cloudtaser.errors import ProtocolError
from cloudtaser.openbao.jwks import Jwks, digest, signing_keys

# RFC 7638 §3.1
EXAMPLE = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWK"
    "RXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8"
    "KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBni"
    "Iqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}


def published(*keys: ECKey | RSAKey) -> Jwks:
    return {"keys": [dict(key.as_dict(private=False, kid=f"k{n}")) for n, key in enumerate(keys)]}


def test_the_thumbprint_is_the_one_of_the_rfc() -> None:
    (key,) = signing_keys({"keys": [EXAMPLE]})
    assert (key.kid, key.thumbprint) == ("2011-04-29", "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_a_key_is_written_as_another_library_writes_it(curve: str) -> None:
    keys: list[ECKey | RSAKey] = [ECKey.generate_key(curve), RSAKey.generate_key(2048)]
    read = signing_keys(published(*keys))
    assert [key.thumbprint for key in read] == [key.thumbprint() for key in keys]
    assert [key.pem.strip() for key in read] == [key.as_pem(private=False).decode().strip() for key in keys]


def test_one_set_has_one_digest_in_whatever_order() -> None:
    one, other = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
    entries = published(one, other)["keys"]
    assert digest({"keys": entries}) == digest({"keys": entries[::-1]})
    assert digest({"keys": entries}) != digest({"keys": entries[:1]})
    renamed = [entries[0] | {"kid": "x"}, entries[1]]
    assert digest({"keys": entries}) != digest({"keys": renamed})
    assert digest({"keys": [entries[0] | {"use": "sig", "alg": "ES256"}, entries[1]]}) == digest(
        {"keys": entries}
    )


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"keys": 1},
        {"keys": [{}]},
        {"keys": [{"kty": "oct", "k": "AA", "kid": "a"}]},
        {"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "a"}]},
        {"keys": [{"kty": "EC", "crv": "none", "x": "AA", "y": "AA", "kid": "a"}]},
        {"keys": [{"kty": "RSA", "n": "!", "e": "AQAB", "kid": "a"}]},
    ],
)
def test_what_is_no_key_set_is_a_typed_error(damaged: Jwks) -> None:
    with pytest.raises(ProtocolError):
        signing_keys(damaged)
