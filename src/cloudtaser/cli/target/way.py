"""Way: from here to a secret as a pod goes it, through a port-forward to the broker.

Used by `validate`. TLS under the pod CA to the bridge, a login with a ten-minute token of an injected pod, a
read of its first path. The OpenBao token is revoked at once; what was read is dropped unseen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from cloudtaser.cli.target.diagnosis import Step
from cloudtaser.cli.target.system import BROKER_PORT, pod_ca
from cloudtaser.errors import CloudtaserError, NotAuthorisedError, RefusedError, UnavailableError
from cloudtaser.kube.injection import is_injected, wrapped_containers
from cloudtaser.kube.kinds import PODS
from cloudtaser.kube.objects import BoundPod
from cloudtaser.kube.portforward import PortForward
from cloudtaser.net.admin import AdminDoor
from cloudtaser.net.dial import Address
from cloudtaser.net.http import request
from cloudtaser.wire.hashes import short_fingerprint
from cloudtaser.wire.names import BRIDGE_NAME, pod_audience

if TYPE_CHECKING:
    from cloudtaser.kube.client import KubeApi
    from cloudtaser.secret import Secret

Json = dict[str, Any]

SKIPPED: Final = "not tried: an earlier step does not work"
TOKEN_SECONDS: Final = 600
_REQUEST_SECONDS: Final = 20.0


async def tried(name: str, action: Callable[[], Awaitable[str]]) -> Step:
    """One step, timed; its error is the step's."""
    began = time.monotonic()
    try:
        detail = await action()
    except CloudtaserError as error:
        what = f"{error.what} ({error.on})" if error.on else error.what
        return Step(name, False, what, _since(began), error.fix)
    return Step(name, True, detail, _since(began))


async def as_a_pod(kube: KubeApi, system: str, operator: str, namespace: str, pod: str) -> list[Step]:
    """The steps `TLS to the bridge`, `login` and `read`, through the operator's pod of that name."""
    try:
        authority = await pod_ca(kube, system)
        async with PortForward(kube, system, operator, BROKER_PORT) as forward:
            door = AdminDoor(Address(*forward.address), authority)

            async def reach() -> str:
                try:
                    await _request(door, b"GET", b"/v1/sys/health")
                except UnavailableError as error:
                    what = forward.complaint or error.what
                    raise UnavailableError(what, on=error.on, fix=error.fix) from None
                return "its certificate is under the cluster's pod CA"

            steps = [await tried("TLS to the bridge", reach)]
            if steps[-1].ok:
                steps += await _login_and_read(kube, door, namespace, pod)
            return steps
    except CloudtaserError as error:
        return [Step("TLS to the bridge", False, error.what, fix=error.fix)]


async def _login_and_read(kube: KubeApi, door: AdminDoor, namespace: str, pod: str) -> list[Step]:
    chosen = await _injected(kube, namespace, pod)
    if chosen is None:
        return [Step("login", None, f"not tried: no injected pod runs in {namespace}; give -n or --pod")]
    try:
        jwt = await _pod_token(kube, namespace, chosen)
    except NotAuthorisedError as error:
        return [Step("login", None, f"not tried: {error.diagnostic()}")]
    containers = wrapped_containers(chosen)
    tokens: list[str] = []

    async def login() -> str:
        tokens.append(await _log_in(door, containers[0].role, jwt))
        return f"as pod {namespace}/{chosen['metadata']['name']}"

    step = await tried("login", login)
    if not tokens:
        return [step, Step("read", None, SKIPPED)]
    paths = [path for one in containers for path in one.paths]
    try:
        if not paths:
            return [step, Step("read", None, "not tried: the pod's annotations name no path")]
        return [step, await tried("read", lambda: _read(door, tokens[0], paths[0]))]
    finally:
        await tried("revoke", lambda: _revoke(door, tokens[0]))


async def _injected(kube: KubeApi, namespace: str, pod: str) -> Json | None:
    if pod:
        found = await kube.get_object(PODS, namespace, pod)
        return found if is_injected(found) else None
    for one in (await kube.list_objects(PODS, namespace)).items:
        if is_injected(one) and (one.get("status") or {}).get("phase") == "Running":
            return one
    return None


async def _pod_token(kube: KubeApi, namespace: str, pod: Json) -> Secret:
    metadata = pod["metadata"]
    fingerprint = await kube.namespace_uid("kube-system")
    made = await kube.token_request(
        namespace,
        str(pod["spec"].get("serviceAccountName") or "default"),
        (pod_audience(short_fingerprint(fingerprint)),),
        TOKEN_SECONDS,
        BoundPod(str(metadata["name"]), str(metadata["uid"])),
    )
    return made.token


async def _log_in(door: AdminDoor, role: str, jwt: Secret) -> str:
    """An OpenBao token of the pod's own kind. RefusedError with the bridge's words."""
    body = json.dumps({"role": role, "jwt": jwt.reveal_text()}).encode()
    status, answer = await _request(door, b"POST", b"/v1/auth/jwt/login", body)
    auth = answer.get("auth")
    if status != 200 or not isinstance(auth, dict) or not isinstance(auth.get("client_token"), str):
        raise RefusedError(
            f"the login is refused: {_said(answer, status)}",
            on=f"role {role}",
            fix="the login of this cluster may not be set up: `cloudtaser-cli source status` beside OpenBao",
        )
    return str(auth["client_token"])


async def _read(door: AdminDoor, token: str, path: str) -> str:
    status, answer = await _request(door, b"GET", f"/v1/{path}".encode(), token=token.encode())
    if status != 200:
        raise RefusedError(
            f"it cannot be read: {_said(answer, status)}",
            on=path,
            fix="fill it in, or allow it: `cloudtaser-cli source allow`",
        )
    return f"{path} can be read"


async def _revoke(door: AdminDoor, token: str) -> str:
    await _request(door, b"POST", b"/v1/auth/token/revoke-self", b"{}", token.encode())
    return ""


async def _request(
    door: AdminDoor, method: bytes, target: bytes, body: bytes = b"", token: bytes = b""
) -> tuple[int, Json]:
    headers = [(b"host", BRIDGE_NAME.encode()), (b"x-vault-request", b"true")]
    headers += [(b"content-type", b"application/json")] if body else []
    headers += [(b"x-vault-token", token)] if token else []
    status, _, raw = await request(door.open, method, target, headers, body, timeout=_REQUEST_SECONDS)
    try:
        answer = json.loads(raw) if raw else {}
    except ValueError:
        answer = {}
    return status, answer if isinstance(answer, dict) else {}


def _said(answer: Json, status: int) -> str:
    errors = answer.get("errors")
    text = "; ".join(map(str, errors)) if isinstance(errors, list) and errors else f"status {status}"
    return "".join(letter if letter.isprintable() else " " for letter in text[:300])


def _since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)
