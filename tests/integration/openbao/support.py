"""What the tests against a real OpenBao share: clusters, their tokens, a client that is killed on the way."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey
from yarl import URL

from cloudtaser.demo.openbao import DevServer
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.errors import OpenBaoError
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.records import (
    BridgeRecord,
    Initialized,
    PodCaUse,
    Records,
    Registered,
    Served,
    instant,
)
from cloudtaser.openbao.registration import register
from cloudtaser.secret import Secret
from cloudtaser.wire.names import OPERATOR_SUBJECT, operator_audience, pod_audience

Run = Callable[..., tuple[int, str, str]]
"""`source` as a person runs it: exit code, standard output, standard error."""

ISSUER = "https://kubernetes.default.svc.cluster.local"

Subject = TypeVar("Subject")

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_REQUESTS = _WRITES | {"GET", "LIST"}

_names = (f"test{number}" for number in itertools.count())


def new_fingerprint() -> str:
    return str(uuid.uuid4())


def new_layout() -> Layout:
    """A corner of the shared server that no other test uses."""
    return Layout(next(_names))


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


class DyingClient(OpenBao):
    """Is killed right after the server has done its n-th request."""

    def __init__(self, server: DevServer, *, dies_after: int, counts: frozenset[str] = _REQUESTS) -> None:
        super().__init__(server.address, token=server.root_token)
        self.dies_after = dies_after
        self._counts = counts
        self.requests = 0

    async def _exchange(
        self, method: str, url: URL, headers: dict[str, str], body: Mapping[str, Any] | None
    ) -> tuple[int, bytes]:
        answer = await super()._exchange(method, url, headers, body)
        self.requests += method in self._counts
        if method in self._counts and self.requests == self.dies_after:
            raise Killed
        return answer


@dataclass(slots=True)
class RegisteredCluster:
    """A registered cluster whose signing key is known to OpenBao, as a bridge would have made it."""

    fingerprint: str
    layout: Layout
    space: Space
    server: DevServer
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def fp8(self) -> str:
        return self.fingerprint[:8]

    def public_key(self) -> str:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()

    def jwks(self) -> dict[str, Any]:
        """The key as the cluster's API server publishes it."""
        return {"keys": [dict(ECKey.import_key(self.public_key()).as_dict(private=False, kid="k"))]}

    def token(self, namespace: str, service_account: str, *, audience: str = "") -> str:
        """A pod's ServiceAccount token."""
        subject = f"system:serviceaccount:{namespace}:{service_account}"
        kubernetes = {"namespace": namespace, "serviceaccount": {"name": service_account, "uid": "u"}}
        return self._sign(subject, audience or pod_audience(self.fp8), {"kubernetes.io": kubernetes})

    def operator_token(self, *, subject: str = OPERATOR_SUBJECT, audience: str = "") -> str:
        return self._sign(subject, audience or operator_audience(self.fp8), {})

    def _sign(self, subject: str, audience: str, more: dict[str, Any]) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": subject, "aud": [audience], "iat": now, "nbf": now, "exp": now + 600}
        key = ECKey.import_key(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return jwt.encode({"alg": "ES256", "kid": "k"}, claims | more, key)

    async def log_in(self, role: str, token: str) -> OpenBao:
        """A client that holds what a login at the space's JWT mount gave; OpenBaoError if it gave nothing."""
        async with OpenBao(self.server.address) as anonymous:
            answer = await anonymous.request(
                "POST",
                f"auth/{self.space.jwt}/login",
                namespace=self.space.namespace,
                body={"role": role, "jwt": token},
            )
        secret = Secret(answer["auth"]["client_token"])
        return OpenBao(self.server.address, token=secret, namespace=self.space.namespace)


async def registered_cluster(
    server: DevServer, root: OpenBao, layout: Layout | None = None, **options: Any
) -> RegisteredCluster:
    layout = layout or new_layout()
    fingerprint = new_fingerprint()
    result = await register(root, fingerprint, layout=layout, **options)
    cluster = RegisteredCluster(fingerprint, layout, result.space, server)
    await root.request(
        "POST",
        f"auth/{result.space.jwt}/config",
        namespace=result.space.namespace,
        body={"jwt_validation_pubkeys": [cluster.public_key()], "bound_issuer": ISSUER},
    )
    return cluster


async def put_secret(root: OpenBao, cluster: RegisteredCluster, path: str, value: str = "v") -> None:
    await root.kv_write(cluster.space.secret, path, {"value": value}, namespace=cluster.space.namespace)


async def may(client: OpenBao, path: str, namespace: str | None = None) -> set[str]:
    """The capabilities of the client's token on a path, by OpenBao's own account."""
    answer = await client.request(
        "POST", "sys/capabilities-self", namespace=namespace, body={"paths": [path]}
    )
    return set(answer["data"][path])


def every(maximum: int) -> Iterator[int]:
    """1 … maximum."""
    return iter(range(1, maximum + 1))


async def each_kill(
    server: DevServer,
    prepare: Callable[[], Awaitable[Subject]],
    run: Callable[[OpenBao, Subject], Awaitable[object]],
) -> AsyncIterator[tuple[int, int, Subject]]:
    """For each write that `run` makes over what `prepare` gives: that write, their number, and a subject that
    was left as a kill right after it leaves it. (A kill after a request that only reads leaves the same.)"""
    counted = await prepare()
    async with DyingClient(server, dies_after=0, counts=_WRITES) as counting:
        await run(counting, counted)
    assert counting.requests
    for last in every(counting.requests):
        subject = await prepare()
        async with DyingClient(server, dies_after=last, counts=_WRITES) as dying:
            with pytest.raises(Killed):
                await run(dying, subject)
        yield last, counting.requests, subject


class InterruptedClient(OpenBao):
    """Right after the server has done its n-th request somebody else does something."""

    def __init__(self, server: DevServer, interrupt: Callable[[], Awaitable[object]], *, after: int) -> None:
        super().__init__(server.address, token=server.root_token)
        self.after = after
        self.requests = 0
        self._interrupt = interrupt

    async def _exchange(
        self, method: str, url: URL, headers: dict[str, str], body: Mapping[str, Any] | None
    ) -> tuple[int, bytes]:
        answer = await super()._exchange(method, url, headers, body)
        self.requests += 1
        if self.requests == self.after:
            await self._interrupt()
        return answer


async def come_in(root: OpenBao, cluster: RegisteredCluster) -> Initialized:
    """What a bridge records of the operator that came first."""
    record = Initialized(instant(time.time()), "eu-1", cluster.jwks(), ISSUER, "ca", OPERATOR_SUBJECT, "00")
    assert await Records(root, cluster.layout).create_initialized(cluster.fingerprint, record)
    return record


async def recorded(root: OpenBao, cluster: RegisteredCluster) -> Registered:
    found = await Records(root, cluster.layout).registered(cluster.fingerprint)
    assert found is not None
    return found


async def logs_in(cluster: RegisteredCluster) -> bool:
    """Whether OpenBao gives a pod of the cluster a token."""
    try:
        async with await cluster.log_in("default", cluster.token("shop", "web")):
            return True
    except OpenBaoError:
        return False


async def accessors(root: OpenBao, cluster: RegisteredCluster) -> list[str]:
    """Of all tokens in the cluster's space."""
    return await root.list("auth/token/accessors", namespace=cluster.space.namespace)


async def report(
    root: OpenBao,
    cluster: RegisteredCluster,
    *,
    bridge: str = "eu-1",
    tunnels: Mapping[str, int] | None = None,
    pods: Mapping[str, int] | None = None,
    started_at: str = "2026-01-01T00:00:00Z",
    **more: Any,
) -> None:
    """A bridge's sign of life: open tunnels by tunnel CA, pods by pod CA."""
    now = instant(time.time())
    uses = {ca: PodCaUse(count, now) for ca, count in (pods or {}).items()}
    served = Served(tunnels=dict(tunnels or {}), pod_cas=uses, **more)
    record = BridgeRecord(
        bridge, "0.1.0", now, started_at, 1, sum((tunnels or {}).values()), {cluster.fingerprint: served}
    )
    await Records(root, cluster.layout).write_bridge(record)
