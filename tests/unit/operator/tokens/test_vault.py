"""The vault: what the operator asks of a bridge, what it makes of the answers, and its own token's life."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.errors import NotAuthorisedError, ProtocolError, RefusedError, UnavailableError
from cloudtaser.operator.tokens.ports import PodRef
from cloudtaser.operator.tokens.vault import NoGrantError, TokenGoneError, Vault
from cloudtaser.secret import Secret

POD = PodRef("shop", "web-0", "u-1")
JWT = "eyJh.eyJD.CANARYjwt"
Answer = tuple[int, dict[str, Any]]
Call = Callable[[Vault], Awaitable[object]]
MINT: Call = lambda vault: vault.mint(POD, "web", "app")  # noqa: E731
RENEW: Call = lambda vault: vault.renew("acc")  # noqa: E731
REVOKE: Call = lambda vault: vault.revoke("acc")  # noqa: E731


@dataclass
class Bridge:
    """A scripted bridge: `answers` by path, or what `otherwise` says."""

    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    connections: int = 0
    closes: bool = False
    """Each answer is the last of its connection."""
    logins: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                body = json.loads(await reader.readexactly(int(headers["content-length"])) or b"{}")
                path = lines[0].split(" ")[1]
                self.asked.append((path, headers.get("x-vault-token", ""), body))
                status, answer = self._answer(path)
                content = json.dumps(answer).encode()
                last = b"Connection: close\r\n" if self.closes else b""
                head_line = b"HTTP/1.1 %d x\r\n%bContent-Length: %d\r\n\r\n"
                writer.write(head_line % (status, last, len(content)) + content)
                await writer.drain()
                if self.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, path: str) -> Answer:
        waiting = self.answers.get(path)
        if waiting:
            return waiting.pop(0)
        if path == "/v1/auth/jwt/login":
            self.logins += 1
            return 200, {"auth": {"client_token": f"s.own{self.logins}", "lease_duration": 3600}}
        if path == "/v1/auth/token/create/cloudtaser-pod":
            return 200, {"auth": {"client_token": "s.CANARY", "accessor": "acc", "lease_duration": 3600}}
        if path.startswith("/v1/auth/token/re"):
            return 200, {"auth": {"lease_duration": 3600}}
        return 404, {"errors": []}


@dataclass
class Manager:
    pod_ca: str | None

    async def refresh_pod_ca(self) -> None: ...

    async def operator_token(self) -> Secret:
        return Secret(JWT)


@dataclass
class Scene:
    bridge: Bridge
    vault: Vault
    now: float = 0.0
    away: bool = False

    async def mint(self) -> None:
        await self.vault.mint(POD, "web", "app")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    files = write_server_certificate(tmp_path, "pod", ["*.bridge.cloudtaser.internal"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    bridge = Bridge()
    server = await asyncio.start_server(bridge.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]

    async def pipe(protocol: asyncio.Protocol) -> None:
        if made.away:
            raise UnavailableError("no tunnel to a bridge is up")
        await asyncio.get_running_loop().create_connection(lambda: protocol, "127.0.0.1", port)

    made = Scene(bridge, Vault(pipe, Manager(files.ca.read_text()), clock=lambda: made.now))
    yield made
    await made.vault.close()
    server.close()


def paths(scene: Scene) -> list[str]:
    return [path.removeprefix("/v1/auth/") for path, _, _ in scene.bridge.asked]


async def test_a_token_is_minted_for_the_pod_and_its_namespace_under_the_operators_own_login(
    scene: Scene,
) -> None:
    minted = await scene.vault.mint(POD, "web", "app")
    assert (minted.token.reveal_text(), minted.accessor, minted.ttl) == ("s.CANARY", "acc", 3600)
    assert "CANARY" not in repr(minted)
    (_, _, login), (_, token, asked) = scene.bridge.asked
    assert login == {"role": "cloudtaser-operator", "jwt": JWT}
    assert token == "s.own1"
    assert asked["policies"] == ["ct-pod_shop_web", "ct-pod_shop_"]
    assert asked["meta"]["pod_uid"] == "u-1"


async def test_one_login_and_one_connection_do_for_many_calls(scene: Scene) -> None:
    await asyncio.gather(*(scene.mint() for _ in range(40)))
    assert scene.bridge.logins == 1
    assert scene.bridge.connections <= 4


async def test_the_operators_token_is_renewed_at_two_thirds_and_given_back_at_the_end(scene: Scene) -> None:
    await scene.mint()
    scene.now = 2401.0
    await scene.mint()
    await scene.vault.close()
    assert paths(scene)[2:] == ["token/renew-self", "token/create/cloudtaser-pod", "token/revoke-self"]
    assert scene.bridge.logins == 1


async def test_a_refused_token_means_one_new_login_and_one_more_try(scene: Scene) -> None:
    await scene.mint()
    create = "/v1/auth/token/create/cloudtaser-pod"
    scene.bridge.answers[create] = [(403, {"errors": ["permission denied"]})]
    await scene.mint()
    assert scene.bridge.logins == 2
    scene.bridge.answers[create] = [(403, {"errors": ["permission denied"]})] * 2
    with pytest.raises(NotAuthorisedError, match="permission denied"):
        await scene.mint()


async def test_who_waits_for_a_login_that_fails_hears_of_that_one(scene: Scene) -> None:
    scene.bridge.answers["/v1/auth/jwt/login"] = [(503, {"errors": ["OpenBao is sealed"]})] * 2
    results = await asyncio.gather(*(scene.mint() for _ in range(20)), return_exceptions=True)
    assert all(isinstance(result, UnavailableError) for result in results)
    assert len(scene.bridge.asked) == 1
    scene.now += 2.0
    with pytest.raises(UnavailableError, match="OpenBao is sealed"):
        await scene.mint()
    scene.now += 2.0
    await scene.mint()


@pytest.mark.parametrize(
    ("call", "path", "answer", "error"),
    [
        (MINT, "create/cloudtaser-pod", (404, {"errors": ["nothing is granted"]}), NoGrantError),
        (MINT, "create/cloudtaser-pod", (429, {"errors": ["too many"]}), UnavailableError),
        (MINT, "create/cloudtaser-pod", (400, {"errors": ["no"]}), RefusedError),
        (MINT, "create/cloudtaser-pod", (200, {"auth": {}}), ProtocolError),
        (RENEW, "renew-accessor", (403, {"errors": ["invalid accessor"]}), TokenGoneError),
        (RENEW, "renew-accessor", (503, {}), UnavailableError),
        (REVOKE, "revoke-accessor", (503, {}), UnavailableError),
    ],
)
async def test_an_answer_that_is_no_yes_is_told_apart(
    scene: Scene, call: Call, path: str, answer: Answer, error: type[Exception]
) -> None:
    scene.bridge.answers[f"/v1/auth/token/{path}"] = [answer] * 2
    with pytest.raises(error):
        await call(scene.vault)


async def test_what_is_revoked_already_is_revoked(scene: Scene) -> None:
    gone = (403, {"errors": ["1 error occurred: invalid accessor"]})
    scene.bridge.answers["/v1/auth/token/revoke-accessor"] = [gone] * 2
    await scene.vault.revoke("acc")


async def test_without_a_tunnel_nothing_waits(scene: Scene) -> None:
    scene.away = True
    with pytest.raises(UnavailableError, match="no tunnel"):
        await scene.mint()


async def test_a_connection_that_the_bridge_closes_is_not_used_again(scene: Scene) -> None:
    scene.bridge.closes = True
    await scene.mint()
    await scene.mint()
    assert scene.bridge.connections == 3, "one for the login and each call"
