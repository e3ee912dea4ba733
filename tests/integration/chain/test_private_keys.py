"""No private key, channel token, fingerprint or code of a bootstrap crosses beacon or broker, or comes to lie
in a log or a file; first bootstrap, coming back, login, read and rotation included."""

from __future__ import annotations

import asyncio
import base64
import uuid
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.search import occurrences
from cloudtaser.wire.bootstrap import derive_psk
from cloudtaser.wire.hashes import operational_room
from tests.chain_attackers import tunnel_ca
from tests.chain_tools import delivered, own_chain

pytestmark = pytest.mark.asyncio(loop_scope="session")

RUNNER = str(Path(__file__).parents[2] / "known_keys.py")
END = b"-----END PRIVATE KEY-----\n"


def with_known_keys(command: list[str], keys: Path) -> list[str]:
    """The same program, but each key that it makes is written to `keys` too."""
    interpreter, *rest = command
    return (
        [interpreter, RUNNER, str(keys), *rest]
        if rest[0] == "-m"
        else [str(Path(interpreter).parent / "python"), RUNNER, str(keys), *command]
    )


def forms_of_keys(keys: Path) -> dict[str, bytes]:
    """Every key as DER in two forms, as PEM line by line, and as the number that it is."""
    found: dict[str, bytes] = {}
    for number, pem in enumerate(keys.read_bytes().split(END)[:-1]):
        key = load_pem_private_key(pem + END, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        scalar = key.private_numbers().private_value
        found[f"{keys.name} {number} scalar"] = scalar.to_bytes(32)
        found[f"{keys.name} {number} scalar backwards"] = scalar.to_bytes(32, "little")
        found[f"{keys.name} {number} decimal"] = str(scalar).encode()
        forms = {"PKCS8": PrivateFormat.PKCS8, "SEC1": PrivateFormat.TraditionalOpenSSL}
        for name, form in forms.items():
            der = key.private_bytes(Encoding.DER, form, NoEncryption())
            found[f"{keys.name} {number} {name}"] = der
            for line, text in enumerate(base64.encodebytes(der).splitlines()):
                found[f"{keys.name} {number} {name} line {line}"] = text
    return found


def crossed(chain: Chain, part: str) -> bytes:
    """What the part could read."""
    return b"".join(path.read_bytes() for path in sorted(chain.records.glob(f"{part}-*")))


@pytest.mark.slow
async def test_what_is_secret_in_a_bootstrap_is_seen_by_nobody(tmp_path: Path) -> None:
    issued: list[str] = []
    async with own_chain(record=True) as chain:
        await chain.start_openbao()
        code = str((await chain.register("--join-code"))["join_code"])
        code_file = tmp_path / "code"
        code_file.write_text(code)
        bridge = await chain.new_bridge()
        bridge_keys, operator_keys = tmp_path / "bridge", tmp_path / "operator"
        bridge.arguments = with_known_keys(bridge.arguments, bridge_keys)
        await asyncio.gather(chain.start_beacon(), chain.start_bridge(), chain.start_apiserver())
        issue = chain.apiserver.issue

        def remember(*arguments: Any, **named: Any) -> str:
            issued.append(issue(*arguments, **named))
            return issued[-1]

        chain.apiserver.issue = remember  # type: ignore[method-assign]  # listens in
        arguments = [*chain.operator.arguments, "--join-code-file", str(code_file)]
        chain.operator.arguments = with_known_keys(arguments, operator_keys)
        await chain.start_operator()
        async with setup.administrator(chain) as admin:
            for value in ("before the rotation", "behind the rotation"):
                await setup.write_secret(admin, "shop/keys", {"value": value})
                assert (await delivered(chain, "secret/data/shop/keys", "value=V"))["V"] == value
                await chain.operator.restart()  # it comes back by the return room
                await chain.operator.wait_until(chain.tunnel_is_up, "connected again")

        wanted = forms_of_keys(bridge_keys) | forms_of_keys(operator_keys)
        assert len(wanted) >= 5 * (2 + 3), "two keys of the bridge, three of the operator"
        assert len(issued) >= 3 + 3 + 2, "channel tokens, reviewer's or operator's tokens, pods' tokens"
        for number, token in enumerate(issued):
            wanted[f"token {number}"] = token.encode()
            wanted[f"signature {number}"] = token.rpartition(".")[2].encode()
            wanted[f"claims {number}"] = token.split(".")[1].encode()
        wanted["join code"] = code.encode()
        wanted["psk"] = derive_psk(chain.fingerprint, code)
        wanted["psk of the return"] = derive_psk(chain.fingerprint)
        in_logs = dict(wanted)
        wanted["fingerprint"] = chain.fingerprint.encode()
        wanted["fingerprint without dashes"] = uuid.UUID(chain.fingerprint).bytes
        ca = x509.load_pem_x509_certificate(tunnel_ca(chain)).public_bytes(Encoding.DER)
        wanted["tunnel CA"] = ca[:200]
        for part in ("beacon", "operator"):
            data = crossed(chain, part)
            assert len(data) > 5000
            assert occurrences(data, wanted) == [], part
        in_logs["operational room"] = operational_room(ca)
        for log in chain.logs.iterdir():
            assert occurrences(log.read_bytes(), in_logs) == [], log.name
        keys_only = {name: value for name, value in wanted.items() if name.startswith(("bridge", "operator"))}
        for path in chain.directory.rglob("*"):
            if path.is_file():
                assert occurrences(path.read_bytes(), keys_only) == [], path
        for running in (chain.beacon, bridge, chain.operator):
            for name in ("cmdline", "environ"):
                assert occurrences(Path(f"/proc/{running.pid}/{name}").read_bytes(), in_logs) == []
