"""Beacon and broker learn nothing: all that crossed them is searched for every secret, in every form."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.demo.search import occurrences
from cloudtaser.openbao.client import OpenBao
from cloudtaser.wire import names
from tests.chain_tools import delivered, eventually, pod_client

pytestmark = pytest.mark.asyncio(loop_scope="session")


def crossed(chain: Chain, part: str) -> bytes:
    """Every byte that the part could read, as its recorder wrote it."""
    recorded = b"".join(path.read_bytes() for path in sorted(chain.records.glob(f"{part}*")))
    assert len(recorded) > 10_000, f"{part} recorded too little to mean anything"
    return recorded


async def test_neither_beacon_nor_broker_sees_a_secret(chain: Chain, admin: OpenBao) -> None:
    wanted: dict[str, bytes] = {}
    first, second = f"first-{secrets.token_hex(16)}", f'second-"{secrets.token_hex(16)}"\\ü'
    await setup.write_secret(admin, "shop/blind", {"value": first})
    assert (await delivered(chain, "secret/data/shop/blind", "value=V"))["V"] == first
    wanted["the first value"] = first.encode()

    application = chain.wrap(
        chain.pod("shop"),
        ["/bin/sh", "-c", 'echo "len ${#V}"; trap "exit 0" TERM; while :; do sleep 1 & wait $!; done'],
        {
            "CLOUDTASER_SECRET_PATHS": "secret/data/shop/blind",
            "CLOUDTASER_ENV_MAP": "value=V",
            "CLOUDTASER_ROTATION_INTERVAL": "1",
        },
    )
    application.start()

    async def printed(length: int) -> bool:
        return f"len {length}" in application.log.read_text()

    await eventually(lambda: printed(len(first)), "the program starts")
    await setup.write_secret(admin, "shop/blind", {"value": second})
    # the shell counts bytes or letters, as its locale has it
    await eventually(
        lambda: printed_any(application.log, {len(second), len(second.encode())}), "the program restarts"
    )
    wanted["the rotated value"] = second.encode()

    pod = chain.pod("shop")
    jwt = pod.token_file.read_text()
    wanted["a pod's token"] = jwt.encode()
    wanted["the JWT's signature"] = jwt.rpartition(".")[2].encode()
    with pod_client(chain) as client:
        await client.login(jwt)
        wanted["a pod's OpenBao token"] = client.token.encode()
        status, body = await client.request("GET", "/v1/secret/data/shop/blind")
        assert status == 200
        assert b"second-" in body
    wanted["the operator's token"] = chain.apiserver.operator_token_file.read_bytes()
    for part in ("beacon", "operator"):
        assert occurrences(crossed(chain, part), wanted) == []
    await application.stop()


async def test_the_recorders_do_record(chain: Chain) -> None:
    """What each part can see is there: the pods' ClientHello at the broker, TLS records at the beacon."""
    assert names.BRIDGE_NAME.encode() in crossed(chain, "operator")
    assert b"\x17\x03\x03" in crossed(chain, "beacon")


async def test_no_private_key_and_no_channel_token_crossed(chain: Chain) -> None:
    for part in ("beacon", "operator"):
        recorded = crossed(chain, part)
        for marker in (
            b"PRIVATE KEY",
            b"eyJhbGciOi",
            b"BEGIN CERTIFICATE",
            b"X-Vault-Token",
            b"x-vault-token",
        ):
            assert marker not in recorded, f"{marker!r} crossed {part}"


async def test_the_beacon_never_saw_the_operational_hash_in_its_log(chain: Chain) -> None:
    shown = (await chain.cli("source", "show", chain.fingerprint, "-o", "json")).json()
    for log in chain.logs.iterdir():
        assert shown["info_hash"] not in log.read_text(), f"{log.name} holds the full hash"


async def printed_any(log: Path, lengths: set[int]) -> bool:
    """Whether the program printed any of these lengths."""
    text = log.read_text()
    return any(f"len {length}" in text for length in lengths)
