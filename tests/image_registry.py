"""A real image registry on loopback, with TLS, and what is pushed to it; a token server beside it.

Used by the tests of `cloudtaser.kube.registry`. The registry is Debian's `docker-registry` (CNCF Distribution
2.8); the token server is ours, since Distribution has none, and its tokens are checked by the registry.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import RSAKey

from cloudtaser.demo.certificates import CertificateFiles, write_server_certificate
from cloudtaser.demo.ports import free_port
from cloudtaser.demo.process import PartProcess

HOSTS: Final = ("127.0.0.1", "localhost")
ALICE: Final = "alice", "alice-password-1"
BOB: Final = "bob", "bob-password-2"
_HTPASSWD: Final = (
    # bcrypt, the only form that Distribution takes, of the two passwords above
    "alice:$2b$05$abcdefghijklmnopqrstuuLwGeh7QSiLNtaFoQjPJAuXvAPPkEYNK\n"
    "bob:$2b$05$abcdefghijklmnopqrstuueV7ybEd4nEvjBBwygll8FTHdDpYHiHy\n"
)
ISSUER: Final = "tokens.test"
SERVICE: Final = "registry.test"

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_LAYER: Final = b"not a layer: nobody reads it"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def encoded(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def described(media_type: str, data: bytes, **further: object) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **further}


def configuration(
    entrypoint: Sequence[str] | None = ("/app",),
    cmd: Sequence[str] | None = None,
    architecture: str = "amd64",
    **further: object,
) -> bytes:
    """An image's configuration, as builders write it."""
    config: dict[str, Any] = {"Env": ["PATH=/bin", "MODE=test"], **further}
    if entrypoint is not None:
        config["Entrypoint"] = list(entrypoint)
    if cmd is not None:
        config["Cmd"] = list(cmd)
    return encoded(
        {
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(_LAYER)]},
        }
    )


def manifest(config: bytes, *, docker: bool = False) -> bytes:
    """The manifest of an image with that configuration and one layer."""
    kind, config_kind = (DOCKER_MANIFEST, DOCKER_CONFIG) if docker else (OCI_MANIFEST, OCI_CONFIG)
    layer_kind = (
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        if docker
        else "application/vnd.oci.image.layer.v1.tar"
    )
    return encoded(
        {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": described(config_kind, config),
            "layers": [described(layer_kind, _LAYER)],
        }
    )


def index(entries: Sequence[Mapping[str, Any]], *, docker: bool = False) -> bytes:
    kind = DOCKER_LIST if docker else OCI_INDEX
    return encoded({"schemaVersion": 2, "mediaType": kind, "manifests": list(entries)})


def platform(architecture: str, variant: str | None = None, os: str = "linux") -> dict[str, str]:
    return {"architecture": architecture, "os": os} | ({"variant": variant} if variant else {})


def docker_config(host: str, user: tuple[str, str], **fields: str) -> bytes:
    """A docker configuration for one host, as `kubectl create secret docker-registry` makes it."""
    name, password = user
    auth = base64.b64encode(f"{name}:{password}".encode()).decode()
    return encoded({"auths": {host: {"username": name, "password": password, "auth": auth, **fields}}})


@dataclass
class TokenServer:
    """Gives a token to whoever may read a repository, as Docker's token specification has it."""

    directory: Path
    readers: dict[str, set[str]] = field(default_factory=dict)
    """Which repositories whom: `""` is everybody; `*` all."""
    refresh_tokens: dict[str, str] = field(default_factory=dict)
    """Identity tokens and whose they are."""
    asked: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = free_port()
        self.tls = write_server_certificate(self.directory, "tokens", HOSTS)
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        text = base64.b32encode(hashlib.sha256(public).digest()[:30]).decode()
        self._key_id = ":".join(text[at : at + 4] for at in range(0, 48, 4))  # as libtrust names keys
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ISSUER)])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )
        self.bundle = self.directory / "token-signer.crt"
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._jwk = RSAKey.import_key(pem)
        self._runner: web.AppRunner | None = None

    def realm(self, host: str = "127.0.0.1") -> str:
        return f"https://{host}:{self.port}/token"

    def token(self, repository: str, actions: Sequence[str], user: str) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "iat": now,
            "nbf": now - 30,
            "exp": now + 300,
            "jti": str(now),
            "access": [{"type": "repository", "name": repository, "actions": list(actions)}],
        }
        return jwt.encode({"alg": "RS256", "kid": self._key_id}, claims, self._jwk)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/token", self._get)
        app.router.add_post("/token", self._post)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.tls.certificate, self.tls.key)
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _get(self, request: web.Request) -> web.Response:
        user = ""
        if "Authorization" in request.headers:
            encoded_pair = request.headers["Authorization"].removeprefix("Basic ")
            user, _, password = base64.b64decode(encoded_pair).decode().partition(":")
            if (user, password) not in (ALICE, BOB):
                self.asked.append({"user": user, "outcome": "refused", **request.query})
                return web.json_response({"details": "wrong password"}, status=401)
        self.asked.append({"user": user, **request.query})
        return self._granted(user, request.query.get("scope", ""))

    async def _post(self, request: web.Request) -> web.Response:
        form = await request.post()
        token = str(form.get("refresh_token", ""))
        self.asked.append({"grant": str(form.get("grant_type")), "service": str(form.get("service"))})
        user = self.refresh_tokens.get(token)
        if user is None:
            return web.json_response({"details": "no such token"}, status=401)
        return self._granted(user, str(form.get("scope", "")))

    def _granted(self, user: str, scope: str) -> web.Response:
        _, _, rest = scope.partition(":")
        repository, _, actions = rest.rpartition(":")
        readable = self.readers.get("", set()) | self.readers.get(user, set())
        allowed = actions.split(",") if {repository, "*"} & readable else []
        return web.json_response({"token": self.token(repository, allowed, user), "expires_in": 300})


class RegistryServer:
    """One `docker-registry` on a port of its own."""

    def __init__(
        self,
        directory: Path,
        *,
        passwords: bool = False,
        tokens: TokenServer | None = None,
        realm: str = "",
        tls: bool = True,
        storage: Path | None = None,
        redirect: str = "",
        mirror_of: RegistryServer | None = None,
    ) -> None:
        """`redirect`: where blobs are sent for; `mirror_of`: a registry whose images it hands on."""
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self.storage = storage or directory / "storage"
        self.tls: CertificateFiles = write_server_certificate(directory, "registry", HOSTS)
        self._tokens = tokens
        self._passwords = passwords
        http: dict[str, Any] = {"addr": f"127.0.0.1:{self.port}", "secret": "of-this-test"}
        if tls:
            http["tls"] = {"certificate": str(self.tls.certificate), "key": str(self.tls.key)}
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": http,
        }
        if passwords:
            htpasswd = directory / "htpasswd"
            htpasswd.write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
        if tokens is not None:
            config["auth"] = {
                "token": {
                    "realm": realm or tokens.realm(),
                    "service": SERVICE,
                    "issuer": ISSUER,
                    "rootcertbundle": str(tokens.bundle),
                }
            }
        if redirect:
            config["middleware"] = {"storage": [{"name": "redirect", "options": {"baseurl": redirect}}]}
        environment = {}
        if mirror_of is not None:
            config["proxy"] = {"remoteurl": mirror_of.url}
            environment["SSL_CERT_FILE"] = str(mirror_of.tls.ca)
        path = directory / "registry.json"  # which is YAML too
        path.write_text(json.dumps(config))
        self.log = directory / "registry.log"
        self._process = PartProcess(
            "docker-registry", ["docker-registry", "serve", str(path)], self.log, environment
        )

    async def start(self) -> None:
        self._process.start()
        await self._process.wait_until(self._answers, "answering")

    async def stop(self) -> None:
        await self._process.stop()

    async def push(
        self, name: str, config: bytes, *, docker: bool = False, user: tuple[str, str] = ALICE
    ) -> str:
        """Push an image of one platform as `repository:tag`; its manifest's digest."""
        repository, _, tag = name.partition(":")
        document = manifest(config, docker=docker)
        kind = DOCKER_MANIFEST if docker else OCI_MANIFEST
        await self.push_blobs(repository, config, _LAYER, user=user)
        return await self.push_manifest(repository, tag or digest(document), document, kind, user=user)

    async def push_blobs(self, repository: str, *blobs: bytes, user: tuple[str, str] = ALICE) -> None:
        async with self._session(repository, user) as session:
            for blob in blobs:
                async with session.post(f"{self.url}/v2/{repository}/blobs/uploads/") as answer:
                    assert answer.status == 202, await answer.text()
                    place = answer.headers["Location"]
                mark = "&" if "?" in place else "?"
                headers = {"Content-Type": "application/octet-stream"}
                url = f"{place}{mark}digest={digest(blob)}"
                async with session.put(url, data=blob, headers=headers) as answer:
                    assert answer.status == 201, await answer.text()

    async def push_manifest(
        self, repository: str, selector: str, document: bytes, kind: str, *, user: tuple[str, str] = ALICE
    ) -> str:
        async with self._session(repository, user) as session:
            url = f"{self.url}/v2/{repository}/manifests/{selector}"
            async with session.put(url, data=document, headers={"Content-Type": kind}) as answer:
                assert answer.status == 201, await answer.text()
        return digest(document)

    def _session(self, repository: str, user: tuple[str, str]) -> aiohttp.ClientSession:
        headers = {}
        if self._tokens is not None:
            token = self._tokens.token(repository, ["pull", "push"], user[0])
            headers["Authorization"] = f"Bearer {token}"
        elif self._passwords:
            headers["Authorization"] = f"Basic {base64.b64encode(':'.join(user).encode()).decode()}"
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(self.tls.ca)))
        return aiohttp.ClientSession(connector=connector, headers=headers)

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True
