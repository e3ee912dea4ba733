"""Clouds: the operator's own identity opens the cloud's registries, and is shown nowhere else.

No cloud can be had here: a stand-in answers as their documents say, behind a proxy, under their names.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cloudtaser.errors import CloudtaserError, UnavailableError
from cloudtaser.kube.registry import cloud_aws, cloud_google
from cloudtaser.kube.registry.cloud import CloudIdentity, CloudServices, Grant
from cloudtaser.kube.registry.cloud_aws import Amazon, Keys, sign
from cloudtaser.kube.registry.cloud_azure import Azure
from cloudtaser.kube.registry.cloud_google import Google
from cloudtaser.kube.registry.credentials import Credential
from cloudtaser.kube.registry.errors import ImageForbiddenError
from cloudtaser.net.proxy import Proxies
from cloudtaser.secret import Secret
from tests.image_registry import encoded
from tests.integration.registry.support import PATIENT, Clock, Resolving
from tests.unit.kube.registry.stand_in import StandInRegistry
from tests.unit.net.forward_proxy import ForwardProxy, forward_proxy

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
ACR = "example.azurecr.io"
ALL = frozenset(("*",))
NOW = dt.datetime(2015, 8, 30, 12, 36, tzinfo=dt.UTC)
EXAMPLE = Keys("AKIDEXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        # AWS Signature Version 4 test suite: get-vanilla, post-vanilla
        ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ],
)
def test_a_request_is_signed_as_amazon_signs_it(method: str, signature: str) -> None:
    signed = sign(method, "https://example.amazonaws.com/", {}, b"", EXAMPLE, "us-east-1", "service", NOW)
    assert signed["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}"
    )


@pytest.mark.parametrize(
    ("host", "amazon", "google", "azure"),
    [
        (ECR, "eu-central-1.amazonaws.com", None, None),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1.amazonaws.com.cn", None, None),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1.amazonaws.com", None, None),
        (f"{ECR}.evil.example", None, None, None),
        (f"{ECR}:5000", None, None, None),
        ("public.ecr.aws", None, None, None),
        ("gcr.io", None, "google", None),
        ("eu.gcr.io", None, "google", None),
        ("europe-west4-docker.pkg.dev", None, "google", None),
        ("europe-npm.pkg.dev", None, None, None),
        ("gcr.io.evil.example", None, None, None),
        ("evilgcr.io", None, None, None),
        (ACR, None, None, ACR),
        ("azurecr.io", None, None, None),
        ("a.b.azurecr.io", None, None, None),
        ("example.azurecr.io.evil.example", None, None, None),
        ("docker.io", None, None, None),
    ],
)
async def test_each_cloud_knows_its_own_registries(
    host: str, amazon: str | None, google: str | None, azure: str | None
) -> None:
    services = CloudServices({}, PATIENT)
    assert Amazon(services).place(host) == amazon
    assert Google(services).place(host) == google
    assert Azure(services).place(host) == azure


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[StandInRegistry]:
    names = (ECR, "sts.eu-central-1.amazonaws.com", "api.ecr.eu-central-1.amazonaws.com", ACR)
    stand_in = StandInRegistry(tmp_path, (*names, "login.microsoftonline.com", "evil.example.test"))
    await stand_in.start()
    yield stand_in
    await stand_in.close()


@pytest.fixture
async def proxy(cloud: StandInRegistry) -> AsyncIterator[ForwardProxy]:
    async with forward_proxy(cloud.port) as proxy:
        yield proxy


def token_file(directory: Path) -> str:
    file = directory / "token"
    file.write_text("jwt-of-the-operator\n")
    return str(file)


def resolving(
    cloud: StandInRegistry, proxy: ForwardProxy, name: str, environment: dict[str, str]
) -> Resolving:
    return Resolving(
        ca=cloud.tls.ca.read_text(),
        proxies=Proxies.read({}, f"http://127.0.0.1:{proxy.port}"),
        cloud_identity=name,
        environment=environment,
        docker_config_namespaces=frozenset(("shop",)),
    )


def wanting(cloud: StandInRegistry, authorization: str, challenge: str) -> None:
    """Let the registry answer only to that Authorization."""
    served = cloud.manifest

    async def manifests(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != authorization:
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return web.Response(body=served, content_type="application/vnd.oci.image.manifest.v1+json")

    cloud.answers["manifests"] = manifests


async def test_a_role_opens_ecr_for_the_namespaces_that_may_profit(
    cloud: StandInRegistry, proxy: ForwardProxy, tmp_path: Path
) -> None:
    password = base64.b64encode(b"AWS:ecr-password").decode()
    wanting(cloud, f"Basic {password}", f'Basic realm="https://{ECR}/"')
    asked: list[dict[str, str]] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        asked.append({"host": request.host, **{k.lower(): v for k, v in request.headers.items()}})
        if request.host.startswith("sts."):
            form = await request.post()
            assert form["WebIdentityToken"] == "jwt-of-the-operator"
            assert form["RoleArn"] == "arn:aws:iam::123456789012:role/operator"
            keys = {
                "AccessKeyId": "AKID",
                "SecretAccessKey": "s",
                "SessionToken": "session",
                "Expiration": 1.0,
            }
            result = {"AssumeRoleWithWebIdentityResult": {"Credentials": keys}}
            return web.json_response({"AssumeRoleWithWebIdentityResponse": result})
        assert request.headers["X-Amz-Target"].endswith(".GetAuthorizationToken")
        return web.json_response({"authorizationData": [{"authorizationToken": password}]})

    cloud.answers["elsewhere"] = elsewhere
    environment = {
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/operator",
        "AWS_WEB_IDENTITY_TOKEN_FILE": token_file(tmp_path),
    }
    async with resolving(cloud, proxy, "aws", environment) as resolve:
        for _ in range(2):
            assert (await resolve(f"{ECR}/team/app:1")).entrypoint == ("/app",)
        assert [each["host"].partition(".")[0] for each in asked] == ["sts", "api"]
        assert asked[1]["x-amz-security-token"] == "session"
        assert "Credential=AKID/" in asked[1]["authorization"]
        with pytest.raises(ImageForbiddenError):
            await resolve(f"{ECR}/team/app:1", namespace="evil")
        cloud.requests.clear()
        with pytest.raises(ImageForbiddenError):
            await resolve("evil.example.test/team/app:1")
        assert all("Authorization" not in request.headers for request in cloud.requests)
        resolve.clock.now += 10 * 3600
        assert (await resolve(f"{ECR}/team/app:1")).entrypoint == ("/app",)
        assert len(asked) == 4


async def test_a_workload_identity_opens_acr(
    cloud: StandInRegistry, proxy: ForwardProxy, tmp_path: Path
) -> None:
    wanting(cloud, "Bearer registry-token", f'Bearer realm="https://{ACR}/oauth2/token",service="{ACR}"')

    async def token(request: web.Request) -> web.StreamResponse:
        form = await request.post()
        if request.path == "/tenant-1/oauth2/v2.0/token":
            assert form["client_assertion"] == "jwt-of-the-operator"
            assert form["scope"] == "https://containerregistry.azure.net/.default"
            return web.json_response({"access_token": "entra", "expires_in": 3600})
        assert (request.host, form["refresh_token"]) == (ACR, "acr-refresh")
        return web.json_response({"access_token": "registry-token"})

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        form = await request.post()
        assert request.path == "/oauth2/exchange"
        assert (form["access_token"], form["service"], form["tenant"]) == ("entra", ACR, "tenant-1")
        return web.json_response({"refresh_token": "acr-refresh"})

    cloud.answers |= {"token": token, "elsewhere": elsewhere}
    environment = {
        "AZURE_TENANT_ID": "tenant-1",
        "AZURE_CLIENT_ID": "client-1",
        "AZURE_FEDERATED_TOKEN_FILE": token_file(tmp_path),
    }
    async with resolving(cloud, proxy, "azure", environment) as resolve:
        assert (await resolve(f"{ACR}/team/app:1")).entrypoint == ("/app",)


async def test_why_a_cloud_gives_nothing_is_part_of_the_error(
    cloud: StandInRegistry, proxy: ForwardProxy, tmp_path: Path
) -> None:
    wanting(cloud, "never", f'Basic realm="https://{ECR}/"')
    refusal = encoded({"Error": {"Code": "AccessDenied", "Message": "canary"}})
    cloud.answers["elsewhere"] = cloud.says(403, refusal)
    for environment, told in (
        ({}, "AWS_WEB_IDENTITY_TOKEN_FILE is not set"),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/nonexistent"}, "cannot read a token"),
        (
            {"AWS_WEB_IDENTITY_TOKEN_FILE": token_file(tmp_path), "AWS_ROLE_ARN": "arn"},
            "it is answered 403 AccessDenied (https://sts.eu-central-1.amazonaws.com/)",
        ),
    ):
        async with resolving(cloud, proxy, "aws", environment) as resolve:
            with pytest.raises(ImageForbiddenError) as caught:
                await resolve(f"{ECR}/team/app:1")
            assert told in caught.value.diagnostic()
            assert "canary" not in caught.value.diagnostic()
            assert "jwt-of-the-operator" not in caught.value.diagnostic()


class Scripted(CloudServices):
    """Services that a test answers for; the metadata services' addresses cannot be had here."""

    def __init__(self, environment: Mapping[str, str], *answers: dict[str, Any]) -> None:
        super().__init__(environment, PATIENT)
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self._answers = list(answers)

    async def ask(self, method: str, url: str, headers: Mapping[str, str], **_: Any) -> dict[str, Any]:
        self.asked.append((url, headers))
        return self._answers.pop(0)


async def test_googles_metadata_server_gives_an_access_token() -> None:
    services = Scripted({}, {"access_token": "ya29", "expires_in": 3599})
    grant = await Google(services).grant("google")
    assert grant.credential.username == "oauth2accesstoken"
    assert grant.credential.password == Secret("ya29")
    assert grant.seconds == 3599
    ((url, headers),) = services.asked
    assert url.startswith("http://metadata.google.internal/computeMetadata/v1/")
    assert headers["Metadata-Flavor"] == "Google"


async def test_pod_identitys_agent_gives_keys(tmp_path: Path) -> None:
    environment = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": token_file(tmp_path),
    }
    password = base64.b64encode(b"AWS:ecr-password").decode()
    ends = NOW.timestamp() + 600
    services = Scripted(
        environment,
        {"AccessKeyId": "AKID", "SecretAccessKey": "s", "Token": "session"},
        {"authorizationData": [{"authorizationToken": password, "expiresAt": ends}]},
    )
    grant = await Amazon(services, lambda: NOW).grant("eu-central-1.amazonaws.com")
    assert (grant.credential.username, grant.credential.password) == ("AWS", Secret("ecr-password"))
    assert grant.seconds == 600
    assert services.asked[0] == (
        environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"],
        {"Authorization": "jwt-of-the-operator"},
    )


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"authorizationData": []},
        {"authorizationData": [{"authorizationToken": "!"}]},
        {"authorizationData": [{"authorizationToken": base64.b64encode(b"AWS").decode()}]},
    ],
)
async def test_an_answer_without_a_password_is_an_error(tmp_path: Path, answer: dict[str, Any]) -> None:
    environment = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": token_file(tmp_path),
    }
    keys = {"AccessKeyId": "AKID", "SecretAccessKey": "s", "Token": "session"}
    with pytest.raises(UnavailableError):
        await Amazon(Scripted(environment, keys, answer)).grant("eu-central-1.amazonaws.com")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1/v1/credentials",
        "http://example.com/v1/credentials",
        "https://169.254.170.2/v1/credentials",
    ],
)
async def test_the_operators_token_goes_to_the_agent_of_pod_identity_and_to_no_other_place(
    tmp_path: Path, url: str
) -> None:
    environment = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": token_file(tmp_path),
    }
    services = CloudServices(environment, PATIENT, metadata=cloud_aws.METADATA)
    with pytest.raises(CloudtaserError, match="not allowed"):
        await Amazon(services).grant("eu-central-1.amazonaws.com")
    await services.close()


async def test_only_the_metadata_server_itself_is_asked_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio
    import socket

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    services = CloudServices({}, PATIENT, metadata=cloud_google.METADATA)
    with pytest.raises(CloudtaserError, match="resolves to a loopback address"):
        await Google(services).grant("google")
    await services.close()


async def test_a_grant_is_kept_for_most_of_its_life_and_a_failure_briefly() -> None:
    class Some:
        grants = 0

        def place(self, host: str) -> str | None:
            return "here" if host == "registry" else None

        async def grant(self, place: str) -> Grant:
            self.grants += 1
            if self.grants == 1:
                raise UnavailableError("the cloud is away")
            return Grant(Credential("c", "u", Secret(f"p{self.grants}")), 1000.0)

    cloud, clock = Some(), Clock()
    identity = CloudIdentity(cloud, ALL, clock=clock)
    assert await identity.credential("other", "shop") is None
    assert "the cloud is away" in str(await identity.credential("registry", "shop"))
    assert "the cloud is away" in str(await identity.credential("registry", "shop"))
    for later, grants in ((31, 2), (790, 2), (20, 3)):
        clock.now += later
        found = await identity.credential("registry", "shop")
        assert isinstance(found, Credential)
        assert found.password == Secret(f"p{grants}")
        assert cloud.grants == grants
