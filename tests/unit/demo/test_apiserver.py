"""The stand-in answers as a real API server would, refusals included."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cloudtaser.demo.apiserver import ISSUER, StandInApiServer
from cloudtaser.wire import names

FINGERPRINT = "0ad50c05-1153-4508-9237-4cb2912e2c23"
MAPS = f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/configmaps"
OPERATOR_TOKENS = (
    f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/serviceaccounts/{names.OPERATOR_SERVICE_ACCOUNT}/token"
)


class Client:
    """A client with one bearer token."""

    def __init__(self, server: StandInApiServer, token: str) -> None:
        self.server, self.token = server, token

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        context = ssl.create_default_context(cafile=str(self.server.ca_file))
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.token}"}) as session,
            session.request(method, self.server.url + path, json=body, ssl=context) as answer,
        ):
            return answer.status, await answer.json(content_type=None)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[StandInApiServer]:
    server = StandInApiServer(tmp_path, FINGERPRINT)
    await server.start()
    yield server
    await server.close()


@pytest.fixture
def operator(server: StandInApiServer) -> Client:
    return Client(server, server.operator_token_file.read_text())


async def test_nobody_gets_anything_without_a_token(server: StandInApiServer) -> None:
    for token in ("", "nonsense", server.issue("shop", "web", ["another-audience"])):
        status, body = await Client(server, token)("GET", "/openid/v1/jwks")
        assert status == 401
        assert body["kind"] == "Status"


async def test_the_operator_may_only_what_its_role_would_allow(operator: Client) -> None:
    assert (await operator("GET", "/api/v1/namespaces/kube-system"))[0] == 200
    assert (await operator("GET", "/api/v1/namespaces/shop/configmaps"))[0] == 403
    other = f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/serviceaccounts/default/token"
    assert (await operator("POST", other, {"spec": {}}))[0] == 403


async def test_a_requested_token_carries_its_audience_and_is_reviewed(
    server: StandInApiServer, operator: Client
) -> None:
    spec = {"audiences": ["somebody"], "expirationSeconds": 600}
    status, answer = await operator("POST", OPERATOR_TOKENS, {"spec": spec})
    assert status == 201
    token = answer["status"]["token"]
    review = "/apis/authentication.k8s.io/v1/tokenreviews"
    _, seen = await operator("POST", review, {"spec": {"token": token, "audiences": ["somebody"]}})
    assert seen["status"]["user"]["username"] == names.OPERATOR_SUBJECT
    _, seen = await operator("POST", review, {"spec": {"token": token, "audiences": ["somebody else"]}})
    assert "authenticated" not in seen["status"]


async def test_tokens_of_a_deleted_pod_are_refused(server: StandInApiServer, operator: Client) -> None:
    pod = server.add_pod("shop", "web-1", "web")
    token = server.issue("shop", "web", [ISSUER], pod=pod)
    review = "/apis/authentication.k8s.io/v1/tokenreviews"
    assert (await operator("POST", review, {"spec": {"token": token}}))[1]["status"]["authenticated"]
    server.delete_pod(pod)
    assert "authenticated" not in (await operator("POST", review, {"spec": {"token": token}}))[1]["status"]


async def test_config_maps_are_replaced_only_at_the_version_that_was_read(operator: Client) -> None:
    status, made = await operator("POST", MAPS, {"metadata": {"name": "m"}, "data": {"a": "1"}})
    assert status == 201
    assert (await operator("POST", MAPS, {"metadata": {"name": "m"}}))[0] == 409
    made["data"] = {"a": "2"}
    status, second = await operator("PUT", f"{MAPS}/m", made)
    assert status == 200
    assert second["data"] == {"a": "2"}
    assert (await operator("PUT", f"{MAPS}/m", made))[0] == 409
    assert (await operator("DELETE", f"{MAPS}/m"))[0] == 200
    assert (await operator("GET", f"{MAPS}/m"))[0] == 404


async def test_a_rotated_key_signs_while_the_old_one_still_verifies(
    server: StandInApiServer, operator: Client
) -> None:
    server.rotate_keys()
    status, jwks = await operator("GET", "/openid/v1/jwks")
    assert status == 200
    assert len({key["kid"] for key in jwks["keys"]}) == 2
    assert all("d" not in key for key in jwks["keys"])


async def test_garbage_is_a_bad_request(operator: Client) -> None:
    assert (await operator("POST", OPERATOR_TOKENS, {"spec": 5}))[0] == 400
    assert (await operator("POST", MAPS, []))[0] == 400
    short = {"spec": {"expirationSeconds": 10}}
    assert (await operator("POST", OPERATOR_TOKENS, short))[0] == 422
