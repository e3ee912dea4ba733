"""The bridge believes a pod's token only under the cluster's recorded keys, and never logs one."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from cloudtaser.bridge.keys import AT_MOST_EVERY
from cloudtaser.demo import setup
from cloudtaser.demo.apiserver import ISSUER
from cloudtaser.demo.chain import Chain, Pod
from cloudtaser.demo.tokens import SigningKey, service_account_claims
from cloudtaser.openbao.client import OpenBao
from cloudtaser.wire import names
from cloudtaser.wire.hashes import short_fingerprint
from tests.chain_tools import audited, eventually, pod_client

pytestmark = pytest.mark.asyncio(loop_scope="session")


def claims(chain: Chain, pod: Pod, **changes: Any) -> dict[str, Any]:
    """A good token's claims for `pod`, changed; a change to None leaves the claim out."""
    good = service_account_claims(
        issuer=ISSUER,
        namespace=pod.namespace,
        service_account=pod.service_account,
        service_account_uid="8a4b5c1e-0000-4000-8000-000000000001",
        audiences=[chain.audience],
        issued_at=int(time.time()),
        seconds=600,
        pod=pod.reference,
    )
    return {name: value for name, value in (good | changes).items() if value is not None}


def unsigned(content: dict[str, Any]) -> str:
    """`alg: none`, the oldest trick."""
    parts = [json.dumps({"alg": "none", "typ": "JWT"}), json.dumps(content)]
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts) + "."


def bent(chain: Chain, pod: Pod, how: str) -> str:
    """A token that is wrong in one way."""
    now = int(time.time())
    good = chain.apiserver.sign(claims(chain, pod))
    if how == "signature":
        head, _, signature = good.rpartition(".")
        return f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    if how == "none":
        return unsigned(claims(chain, pod))
    if how == "another cluster's key":
        return SigningKey().sign(claims(chain, pod))
    if how == "another key under our kid":
        kid = chain.apiserver.jwks()["keys"][0]["kid"]
        return SigningKey().sign(claims(chain, pod), header={"kid": kid})
    changes: dict[str, dict[str, Any]] = {
        "audience": {"aud": ["cloudtaser:ffffffff"]},
        "operator's audience": {"aud": [names.operator_audience(short_fingerprint(chain.fingerprint))]},
        "issuer": {"iss": "https://kubernetes.example"},
        "expired": {"exp": now - 120, "iat": now - 720, "nbf": now - 720},
        "not yet valid": {"nbf": now + 300, "iat": now + 300, "exp": now + 900},
        "no pod": {
            "kubernetes.io": {"namespace": pod.namespace, "serviceaccount": {"name": "x", "uid": "y"}}
        },
        "no expiry": {"exp": None},
        "no subject": {"sub": None},
    }
    return chain.apiserver.sign(claims(chain, pod, **changes[how]))


@pytest.mark.parametrize(
    "how",
    [
        "signature",
        "none",
        "another cluster's key",
        "another key under our kid",
        "audience",
        "operator's audience",
        "issuer",
        "expired",
        "not yet valid",
        "no pod",
        "no expiry",
        "no subject",
    ],
)
async def test_a_token_that_is_wrong_in_one_way_is_refused_and_logged_without_it(
    chain: Chain, how: str
) -> None:
    assert chain.bridge is not None
    pod = chain.pod("shop", "thief")
    token = bent(chain, pod, how)
    before = chain.bridge.log.stat().st_size
    with pod_client(chain) as client:
        status, body = await client.request("POST", "/v1/auth/jwt/login", {"role": "default", "jwt": token})
    assert status in (400, 403), body
    assert list(json.loads(body)) == ["errors"]
    logged = await audited(chain, '"verdict":"refused"', after=before)
    for piece in token.split("."):
        if len(piece) > 20:
            assert piece not in logged
            assert piece.encode() not in body


async def test_a_good_token_logs_in_and_reads(chain: Chain, admin: OpenBao) -> None:
    await setup.write_secret(admin, "shop/hello", {"value": "there"})
    pod = chain.pod("shop", "web")
    with pod_client(chain) as client:
        await client.login(chain.apiserver.sign(claims(chain, pod)))
        status, body = await client.request("GET", "/v1/secret/data/shop/hello")
    assert status == 200
    assert json.loads(body)["data"]["data"] == {"value": "there"}


async def test_a_key_that_the_cluster_rotated_in_is_fetched_once_a_token_shows_it(chain: Chain) -> None:
    chain.apiserver.rotate_keys()
    token = chain.apiserver.sign(claims(chain, chain.pod("shop", "web")))

    async def logs_in() -> bool:
        with pod_client(chain) as client:
            body = {"role": "default", "jwt": token}
            return (await client.request("POST", "/v1/auth/jwt/login", body))[0] == 200

    # the tokens of strangers before this test have used up the one look of these ten seconds
    await eventually(logs_in, "the bridge reads the cluster's keys again", every=1.0)


async def test_unknown_keys_do_not_make_the_bridge_ask_without_end(chain: Chain) -> None:
    pod = chain.pod("shop", "thief")
    asked = sum("/openid/v1/jwks" in line for line in chain.apiserver.audit)
    began = time.monotonic()
    with pod_client(chain) as client:
        for _ in range(20):
            token = SigningKey().sign(claims(chain, pod))
            status, _ = await client.request("POST", "/v1/auth/jwt/login", {"role": "default", "jwt": token})
            assert status in (400, 403)
    windows = 2 + (time.monotonic() - began) // AT_MOST_EVERY
    assert sum("/openid/v1/jwks" in line for line in chain.apiserver.audit) - asked <= windows
