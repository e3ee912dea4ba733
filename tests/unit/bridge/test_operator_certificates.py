"""The operator's certificates: what is read of a request for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudtaser.bridge.operator_certificates import read
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.openbao.pki import new_key

_, SERVER = new_key()
_, SEAL = new_key()


def test_two_requests_of_two_keys_are_read() -> None:
    requests = read(json.dumps({"server": SERVER, "seal": SEAL}).encode())
    assert (requests.server.pem, requests.seal.pem) == (SERVER, SEAL)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"server": SERVER},
        {"server": SERVER, "seal": SEAL, "names": ["bridge.cloudtaser.internal"]},
        {"server": SERVER, "seal": 1},
        {"server": SERVER, "seal": "-----BEGIN CERTIFICATE REQUEST-----"},
        {"server": SERVER, "seal": SERVER},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_anything_else_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused) as caught:
        read(json.dumps(fields).encode())
    assert caught.value.status == 400
