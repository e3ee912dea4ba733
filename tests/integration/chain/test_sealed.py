"""A sealed wrapper behind the broker: its token comes in an envelope under the cluster's own pod CA,
everything else by way of broker, beacon and bridge."""

from __future__ import annotations

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.grants import allow
from cloudtaser.openbao.pki import PkiRole, new_key, sign
from cloudtaser.wire.names import operator_uri
from tests.integration.sealed.support import Sealed, Sealer
from tests.integration.wrapper_vault import QUICK
from tests.sealing import CONTAINER, POD_UID
from tests.unit.wrapper.launch import python

pytestmark = pytest.mark.asyncio(loop_scope="session")

PRINT_AND_WAIT = python(
    "import os, time\nprint(os.environ['VALUE'], flush=True)\nwhile True: time.sleep(3600)"
)


async def sealer(chain: Chain, admin: OpenBao) -> Sealer:
    """The operator's sealing certificate, as the bridge has it signed."""
    key, csr = new_key()
    issued = await sign(
        admin, chain.space, PkiRole.OPERATOR_SEAL, csr, uris=[operator_uri(chain.fingerprint)]
    )
    private = load_pem_private_key(key.reveal(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
    return Sealer(private, leaf.public_bytes(Encoding.DER))


async def mint(chain: Chain, admin: OpenBao) -> tuple[str, str]:
    """A token for a pod of namespace shop, and its accessor."""
    body = {"policies": [chain.space.pod_policy("shop", "sealed")], "meta": {"pod_uid": POD_UID}}
    path = f"auth/token/create/{chain.space.pod_token_role}"
    answer = await admin.request("POST", path, body=body)
    return answer["auth"]["client_token"], answer["auth"]["accessor"]


async def test_a_sealed_pod_gets_its_secrets_and_again_after_a_revocation(
    chain: Chain, admin: OpenBao
) -> None:
    await setup.write_secret(admin, "shop/sealed", {"value": "first"})
    async with OpenBao(
        chain.openbao.address, ca_file=chain.openbao.ca_file, token=chain.openbao.root_token
    ) as root:
        await allow(
            root, chain.fingerprint, "shop", "sealed", ["secret/data/shop/sealed"], layout=chain.layout
        )
    seal = await sealer(chain, admin)
    settings = chain.pod("shop").environment | {
        "VAULT_AUTH_METHOD": "token",
        "CLOUDTASER_SECRET_PATHS": "secret/data/shop/sealed",
        "CLOUDTASER_ENV_MAP": "value=VALUE",
        "CLOUDTASER_POD_UID": POD_UID,
        "CLOUDTASER_CONTAINER": CONTAINER,
        "CLOUDTASER_FINGERPRINT": chain.fingerprint,
        "CLOUDTASER_LISTEN_ADDR": "127.0.0.1:0",
        "CLOUDTASER_EBPF": "off",
        **QUICK,
    }
    wrapper = await asyncio.to_thread(Sealed, *PRINT_AND_WAIT, settings=settings)
    try:
        token, accessor = await mint(chain, admin)
        key = await asyncio.to_thread(wrapper.public_key)
        assert await asyncio.to_thread(wrapper.unseal, seal.envelope(key, token=token)) == 200
        assert await asyncio.to_thread(wrapper.line) == "first"
        await admin.request("POST", "auth/token/revoke-accessor", body={"accessor": accessor})
        await asyncio.to_thread(wrapper.event, "sealed again")
        await setup.write_secret(admin, "shop/sealed", {"value": "second"})
        token, _ = await mint(chain, admin)
        key = await asyncio.to_thread(wrapper.public_key)
        assert await asyncio.to_thread(wrapper.unseal, seal.envelope(key, token=token)) == 200
        assert await asyncio.to_thread(wrapper.line) == "second"
    finally:
        await asyncio.to_thread(wrapper.__exit__)
