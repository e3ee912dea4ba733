"""No copy of a token that came in an envelope: the sealed wrapper's memory is searched from outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtaser.demo.openbao import DevServer
from tests.integration.sealed.support import JWT, Sealed, Sealer, jwt_file, recently, settings
from tests.integration.test_wrapper_openbao import QUICK, Vault
from tests.memory_scan import copies, random_text, scan
from tests.unit.wrapper.launch import APPLICATION, application_of, wait_for_state


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    directory = tmp_path_factory.mktemp("vault")
    with DevServer(directory / "bao") as server:
        assert isinstance(server, DevServer)
        yield Vault(server, directory)


def look(wrapped: Sealed, secrets: dict[str, str]) -> None:
    wait_for_state(wrapped.process.pid, "S")
    found = scan(wrapped.process.pid, secrets)
    assert not found, "\n".join(map(str, found))


def test_an_envelope_leaves_no_copy_of_its_token(vault: Vault, tmp_path: Path) -> None:
    authority = recently()
    sealer = Sealer.of(authority)
    value = random_text(40)
    vault.put("secret/data/sealed", value=value)
    answer = vault.api("POST", "auth/token/create", {"policies": ["pod"], "ttl": "1h"})
    token = answer["auth"]["client_token"]
    secrets = {"token": token, "refused": random_text(40), "value": value, "JWT": JWT}
    mine = settings(
        authority.pem(),
        VAULT_ADDR=vault.server.address,
        CLOUDTASER_SECRET_PATHS="secret/data/sealed",
        CLOUDTASER_UNSEAL_JWT_FILE=str(jwt_file(tmp_path)),
        **QUICK,
    )
    with Sealed(*APPLICATION, settings=mine) as wrapped:
        for_another = sealer.envelope(wrapped.public_key(), container="other", token=secrets["refused"])
        assert wrapped.unseal(for_another) >= 400
        look(wrapped, secrets)
        assert wrapped.unseal(sealer.envelope(wrapped.public_key(), token=token)) < 300
        application = application_of(wrapped)
        look(wrapped, secrets)
        assert copies(application, value) == 1
        assert copies(application, token) == 0


def test_a_plain_token_leaves_no_copy(vault: Vault) -> None:
    vault.put("secret/data/sealed", value=random_text(40))
    answer = vault.api("POST", "auth/token/create", {"policies": ["pod"], "ttl": "1h"})
    token = answer["auth"]["client_token"]
    mine = settings(
        recently().pem(),
        VAULT_ADDR=vault.server.address,
        CLOUDTASER_SECRET_PATHS="secret/data/sealed",
        CLOUDTASER_ALLOW_PLAIN_UNSEAL="true",
        **QUICK,
    )
    with Sealed(*APPLICATION, settings=mine) as wrapped:
        assert wrapped.unseal(b'{"token":"%s"}' % token.encode()) < 300
        application_of(wrapped)
        look(wrapped, {"token": token})
