"""A real OpenBao with the spaces of two clusters, and the bridge's data plane before it on a loopback socket.

Used by `test_bridge_gate*`. Cluster A is the attacker: its widest role may do anything in A's space, so that
whatever keeps it out of B's is not a policy of A.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joserfc.jwk import RSAKey

from cloudtaser.bridge.audit import Audit
from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.limits import Limits
from cloudtaser.bridge.migration import Admin
from cloudtaser.bridge.operator_certificates import Requests
from cloudtaser.bridge.session import Services, Session, Times
from cloudtaser.bridge.tokens import KeySet
from cloudtaser.bridge.upstream import Upstream
from cloudtaser.demo.openbao import LocalServer, start_dev
from cloudtaser.demo.tokens import PodReference, SigningKey, service_account_claims
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.records import Grant, Grants, Initialized, Registered
from cloudtaser.secret import Secret
from cloudtaser.wire.names import OPERATOR_SUBJECT
from cloudtaser.wire.opening import Kind, Opening

ISSUER = "https://kubernetes.default.svc.cluster.local"
EVERYTHING = {
    "path": {"*": {"capabilities": ["create", "read", "update", "delete", "list", "scan", "patch", "sudo"]}}
}
POD = {
    "path": {
        "secret/data/shop/*": {"capabilities": ["read"]},
        "secret/metadata/shop/*": {"capabilities": ["read", "list"]},
        "auth/token/lookup-self": {"capabilities": ["read"]},
        "auth/token/renew-self": {"capabilities": ["update"]},
    }
}


@dataclass(eq=False)
class Space:
    """One cluster's space in OpenBao, and its signing key."""

    fingerprint: str
    key: SigningKey = field(default_factory=SigningKey)
    token: str = ""
    """One that may do everything in this space."""
    namespace_id: str = ""
    canary: str = ""

    @property
    def fp8(self) -> str:
        return self.fingerprint[:8]

    @property
    def namespace(self) -> str:
        return f"cloudtaser/{self.fp8}"

    def jwt(self, **changes: Any) -> str:
        """A pod's projected token; `changes` to arguments of the claims or to claims themselves."""
        arguments: dict[str, Any] = {
            "issuer": ISSUER,
            "namespace": "shop",
            "service_account": "web",
            "service_account_uid": "0d6e",
            "audiences": [f"cloudtaser:{self.fp8}"],
            "issued_at": int(time.time()),
            "seconds": 600,
            "pod": PodReference("web-5c9f", "0f0f0f0f-0000-4000-8000-000000000001"),
        }
        arguments |= {name: value for name, value in changes.items() if name in arguments}
        claims = service_account_claims(**arguments)
        claims |= {name: value for name, value in changes.items() if name not in arguments}
        return self.key.sign(claims)

    def operator_jwt(self) -> str:
        return self.jwt(
            namespace="cloudtaser-system",
            service_account="cloudtaser-operator",
            audiences=[f"cloudtaser-operator:{self.fp8}"],
        )

    def admin_jwt(self, **changes: Any) -> str:
        """What TokenRequest gives for ServiceAccount `cloudtaser-admin`."""
        arguments: dict[str, Any] = {
            "namespace": "cloudtaser-system",
            "service_account": "cloudtaser-admin",
            "audiences": [f"cloudtaser-admin:{self.fp8}"],
            "pod": None,
        }
        return self.jwt(**(arguments | changes))

    def cluster(self) -> Cluster:
        """As the control plane would hold it."""
        registered = Registered(
            fingerprint=self.fingerprint,
            created_at="2026-01-01T00:00:00Z",
            created_by="test",
            expires_at="2099-01-01T00:00:00Z",
            init_room="",
            info_hash="",
            tunnel_ca="",
            pod_ca="",
            space=self.fp8,
            namespace=self.namespace,
            operator_subject=OPERATOR_SUBJECT,
            mounts=("secret", "auth/jwt"),
        )
        initialized = Initialized("2026-01-01T00:00:00Z", "b", {}, ISSUER, "", OPERATOR_SUBJECT, "")
        grants = Grants({"shop_web": Grant("shop", "web", ("secret/data/shop/db",))})
        keys = KeySet.from_jwks({"keys": [self.key.public_jwk()]})
        return Cluster(self.fingerprint, registered, grants, keys, initialized)


@dataclass
class World:
    """OpenBao and the two spaces."""

    server: LocalServer
    a: Space
    b: Space
    parent_token: str

    def admin(self, namespace: str = "") -> OpenBao:
        return OpenBao(self.server.address, token=self.server.root_token, namespace=namespace)


def build_world(directory: Path) -> World:
    """Start OpenBao and fill it."""
    server = start_dev(directory)
    try:
        a = Space("aaaaaaaa-0000-4000-8000-00000000000a")
        b = Space("bbbbbbbb-0000-4000-8000-00000000000b")
        parent = asyncio.run(_fill(server, a, b))
    except BaseException:
        server.kill()
        raise
    return World(server, a, b, parent)


async def _fill(server: LocalServer, *spaces: Space) -> str:
    async with OpenBao(server.address, token=server.root_token) as admin:
        await admin.request("POST", "sys/namespaces/cloudtaser", body={})
        for space in spaces:
            made = await admin.request("POST", f"sys/namespaces/{space.fp8}", namespace="cloudtaser", body={})
            space.namespace_id = made["data"]["id"]
            await _fill_space(admin, space)
        await admin.request(
            "POST", "sys/policies/acl/all", namespace="cloudtaser", body={"policy": json.dumps(EVERYTHING)}
        )
        return await _token(admin, "cloudtaser")


async def _fill_space(admin: OpenBao, space: Space) -> None:
    async def post(path: str, body: dict[str, Any]) -> Any:
        return await admin.request("POST", path, namespace=space.namespace, body=body)

    await post("sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    await post("sys/mounts/certificates", {"type": "pki"})
    await post("sys/mounts/pki-tunnel", {"type": "pki"})
    await post("sys/mounts/transit", {"type": "transit"})
    await post("sys/auth/jwt", {"type": "jwt"})
    await post("auth/jwt/config", {"jwt_validation_pubkeys": [_pem(space.key)], "bound_issuer": ISSUER})
    await post("sys/policies/acl/all", {"policy": json.dumps(EVERYTHING)})
    await post("sys/policies/acl/pod", {"policy": json.dumps(POD)})
    for role, policy, audience in (
        ("default", "pod", "cloudtaser"),
        ("shop_web", "pod", "cloudtaser"),
        ("all", "all", "cloudtaser"),
        ("cloudtaser-operator", "all", "cloudtaser-operator"),
    ):
        await post(
            f"auth/jwt/role/{role}",
            {
                "role_type": "jwt",
                "user_claim": "sub",
                "bound_audiences": [f"{audience}:{space.fp8}"],
                "token_policies": [policy],
                "token_ttl": "1h",
            },
        )
    await post("certificates/root/generate/internal", {"common_name": "x", "key_type": "ec", "key_bits": 256})
    await post(
        "certificates/roles/leased",
        {"allow_any_name": True, "generate_lease": True, "ttl": "1h", "key_type": "ec", "key_bits": 256},
    )
    space.canary = f"CANARY-{space.fp8}"
    for attempt in range(50):
        try:
            await post("secret/data/shop/db", {"data": {"password": space.canary}})
            break
        except Exception:
            if attempt == 49:
                raise
            await asyncio.sleep(0.1)  # a fresh KV v2 mount prepares itself; there is no event to wait for
    await post("secret/data/x", {"data": {"v": space.canary}})
    space.token = await _token(admin, space.namespace)


def _pem(key: SigningKey) -> str:
    return RSAKey.import_key(key.public_jwk()).as_pem(private=False).decode()


async def _token(admin: OpenBao, namespace: str) -> str:
    body = {"policies": ["all"], "no_parent": True, "ttl": "1h"}
    made = await admin.request("POST", "auth/token/create", namespace=namespace, body=body)
    return str(made["auth"]["client_token"])


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def errors(self) -> str:
        return " ".join(self.json["errors"])


class Pod:
    """A client on a plain socket that can also say what no client should."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(
        self,
        method: str,
        target: str,
        *,
        token: str = "",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | dict[str, Any] | None = None,
    ) -> Answer:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        lines = [f"{method} {target} HTTP/1.1", "Host: bridge.cloudtaser.internal"]
        lines += [f"X-Vault-Token: {token}"] if token else []
        lines += [f"{name}: {value}" for name, value in headers]
        lines += [f"Content-Length: {len(data)}"] if data is not None else []
        return await self.say("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (data or b""))

    async def say(self, data: bytes) -> Answer:
        self.writer.write(data)
        return await self.answer()

    async def answer(self) -> Answer:
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")[:-2]
            headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
            status = int(first.split()[1])
            if status in (100, 204):
                return Answer(status, headers, b"")
            if "content-length" in headers:
                return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])))
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
            return Answer(status, headers, body)

    async def rest(self) -> bytes:
        """Everything until the bridge closes."""
        async with asyncio.timeout(20):
            return await self.reader.read()

    async def login(self, space: Space, role: str = "all", **changes: Any) -> str:
        answer = await self.ask(
            "POST", "/v1/auth/jwt/login", body={"role": role, "jwt": space.jwt(**changes)}
        )
        assert answer.status == 200, answer.body
        return str(answer.json["auth"]["client_token"])

    def close(self) -> None:
        self.writer.transport.abort()

    def reset(self) -> None:
        """Leave as one that was killed: with a reset, which no half-close looks like."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class Bridge:
    """The data plane of one cluster."""

    cluster: Cluster
    services: Services
    lines: list[dict[str, Any]]
    reviewer_tokens: list[Secret]
    port: int
    audited: asyncio.Event
    certified: list[Requests]
    refetched: int = 0

    @asynccontextmanager
    async def pod(self) -> AsyncIterator[Pod]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        pod = Pod(reader, writer)
        try:
            yield pod
        finally:
            pod.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass


class Watched(Session):
    """A session whose end can be awaited."""

    def __init__(self, among: set[Watched], cluster: Cluster, opening: Opening, services: Services) -> None:
        super().__init__(cluster, opening, services)
        self.among = among
        self.lost: asyncio.Future[None] = self.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.among.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.among.discard(self)
        self.lost.set_result(None)


@asynccontextmanager
async def bridge_for(
    space: Space,
    address: str,
    *,
    operator: bool = False,
    admin: Admin | None = None,
    limits: Limits | None = None,
    times: Times | None = None,
    upstream: Upstream | None = None,
) -> AsyncIterator[Bridge]:
    """Sessions of `space`'s cluster on a loopback port, with OpenBao at `address` behind them: of pods, of
    the `operator`, or of administrators where `admin` is given."""
    lines: list[dict[str, Any]] = []
    reviewer_tokens: list[Secret] = []
    cluster = space.cluster()
    certified: list[Requests] = []
    audited = asyncio.Event()

    def take_line(line: bytes) -> None:
        lines.append(json.loads(line))
        audited.set()

    async def refetch(_: Cluster) -> None:
        bridge.refetched += 1

    async def certify(_: Cluster, requests: Requests) -> bytes:
        certified.append(requests)
        return b"{}"

    services = Services(
        upstream=upstream or Upstream(address),
        audit=Audit(take_line),
        limits=limits or Limits(),
        refetch_keys=refetch,
        reviewer_token=lambda _, token: reviewer_tokens.append(token),
        certify_operator=certify,
        now=time.time,
        times=times or Times(),
        admin=admin or Admin(),
    )
    open_sessions: set[Watched] = set()
    kind = Kind.OPERATOR if operator else Kind.POD if admin is None else Kind.ADMIN
    opening = Opening(kind, "10.0.0.7:51324", "c0ffee")
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        lambda: Watched(open_sessions, cluster, opening, services), "127.0.0.1", 0
    )
    port = listener.sockets[0].getsockname()[1]
    bridge = Bridge(cluster, services, lines, reviewer_tokens, port, audited, certified)
    try:
        yield bridge
    finally:
        listener.close()
        for session in list(open_sessions):
            session.abort()
        await asyncio.gather(*(session.lost for session in open_sessions))
        await services.upstream.close()
