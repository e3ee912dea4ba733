"""KubeApi: the handful of calls that cloudtaser makes to a Kubernetes API server.

Used by `operator`. Small on purpose: one CA, one bearer token read from a file that the kubelet replaces,
bounded answers, bounded time, and errors that name what is missing. No watch, no cache.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp

from cloudtaser.errors import CloudtaserError, ConfigError
from cloudtaser.kube.errors import (
    ConflictError,
    KubeForbiddenError,
    KubeRefusedError,
    KubeUnauthorisedError,
    KubeUnavailableError,
    NotFoundError,
)
from cloudtaser.kube.objects import BoundPod, ConfigMap, ServiceAccountToken, TokenReview
from cloudtaser.net.connector import ProxiedConnector
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.net.tls import UntrustedError
from cloudtaser.secret import Secret
from cloudtaser.version import VERSION

Json = dict[str, Any]
_T = TypeVar("_T", str, dict)  # type: ignore[type-arg]  # a constraint is a class, never a parametrised one

MAX_ANSWER: Final = 3 * 1024 * 1024
"""Bytes of one answer; etcd holds no object larger than 1.5 MiB."""
MAX_TOKEN_FILE: Final = 64 * 1024
MAX_CONNECTIONS: Final = 8
_VERBS: Final = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class TokenFile:
    """The kubelet's token file, read again when it was replaced (a symlink is swapped)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = Secret(b"")

    def current(self) -> Secret:
        """The token as it is in the file now; KubeUnauthorisedError when there is none."""
        try:
            status = os.stat(self.path)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                with open(self.path, "rb") as file:
                    self._token = Secret(file.read(MAX_TOKEN_FILE).strip())
                self._seen = seen
        except OSError as error:
            raise KubeUnauthorisedError(
                f"cannot read the API server token: {error.strerror}", on=self.path, fix="check that file"
            ) from None
        if not self._token:
            raise KubeUnauthorisedError(
                "the API server token file is empty", on=self.path, fix="check that file"
            )
        return self._token


class KubeApi:
    """One API server under one identity. Every method raises the errors of `kube.errors` and no other."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: str,
        token_file: str,
        timeout: float = 10.0,
        proxies: Proxies = DIRECT,
    ) -> None:
        """`timeout`: seconds for one whole call, connect included. Nothing is sent before the first call."""
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ConfigError("the API server must be https://HOST[:PORT]", on=url, fix="correct the URL")
        self.url = url.rstrip("/")
        self.host = parts.hostname
        self.port = parts.port or 443
        try:
            with open(ca_file, encoding="ascii") as file:
                self.ca_pem = file.read(MAX_TOKEN_FILE * 16)
            self._context = ssl.SSLContext(
                ssl.PROTOCOL_TLS_CLIENT
            )  # not the system's CAs, whatever the file holds
            self._context.load_verify_locations(cadata=self.ca_pem)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            why = getattr(error, "strerror", None) or "it holds no PEM certificate"
            raise ConfigError(
                f"cannot use the API server's CA: {why}", on=ca_file, fix="give a PEM file"
            ) from None
        self._token_file = TokenFile(token_file)
        self._timeout = timeout
        self._proxies = proxies
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the object is done."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- tokens

    async def token_request(
        self,
        namespace: str,
        serviceaccount: str,
        audiences: Sequence[str],
        seconds: int,
        bound_pod: BoundPod | None = None,
    ) -> ServiceAccountToken:
        """A fresh token of a ServiceAccount (TokenRequest). No audience means the API server's own."""
        spec: Json = {"expirationSeconds": seconds}
        if audiences:
            spec["audiences"] = list(audiences)
        if bound_pod is not None:
            spec["boundObjectRef"] = {
                "kind": "Pod",
                "apiVersion": "v1",
                "name": bound_pod.name,
                "uid": bound_pod.uid,
            }
        answer = await self._call(
            "POST",
            f"/api/v1/namespaces/{_segment(namespace)}/serviceaccounts/{_segment(serviceaccount)}/token",
            f"serviceaccounts/token {namespace}/{serviceaccount}",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        status = self._field(answer, "status", dict)
        token = self._field(status, "token", str)
        expires = self._field(status, "expirationTimestamp", str)
        try:
            return ServiceAccountToken(Secret(token), datetime.fromisoformat(expires).timestamp())
        except ValueError:
            return ServiceAccountToken(Secret(token), time.time() + seconds)

    async def token_review(self, token: Secret, audiences: Sequence[str] = ()) -> TokenReview:
        """Ask the API server whether a token is good; its verdict is data, not an error."""
        spec: Json = {"token": token.reveal_text()}
        if audiences:
            spec["audiences"] = list(audiences)
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        answer = await self._call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", "tokenreviews", body)
        status = self._field(answer, "status", dict)
        user = status.get("user") or {}
        extra = {str(key): tuple(map(str, value)) for key, value in (user.get("extra") or {}).items()}
        return TokenReview(
            authenticated=status.get("authenticated") is True,
            username=str(user.get("username", "")),
            uid=str(user.get("uid", "")),
            audiences=tuple(map(str, status.get("audiences") or ())),
            extra=extra,
            error=str(status.get("error", "")),
        )

    async def jwks(self) -> Json:
        """The cluster's public signing keys, as a JWK set."""
        return await self._call("GET", "/openid/v1/jwks", "the cluster's keys /openid/v1/jwks")

    async def issuer(self) -> str:
        """The issuer (`iss`) of the cluster's ServiceAccount tokens."""
        where = "/.well-known/openid-configuration"
        return self._field(await self._call("GET", where, f"the issuer {where}"), "issuer", str)

    # --- objects

    async def namespace_uid(self, name: str) -> str:
        """The UID of a namespace; that of kube-system is the cluster's fingerprint."""
        answer = await self._call("GET", f"/api/v1/namespaces/{_segment(name)}", f"namespaces {name}")
        return self._field(self._field(answer, "metadata", dict), "uid", str)

    async def get_config_map(self, namespace: str, name: str) -> ConfigMap | None:
        """The ConfigMap, or None when there is none."""
        try:
            answer = await self._call(
                "GET", _config_map_path(namespace, name), f"configmaps {namespace}/{name}"
            )
        except NotFoundError:
            return None
        return self._config_map(answer)

    async def create_config_map(
        self, namespace: str, name: str, data: Mapping[str, str], labels: Mapping[str, str] | None = None
    ) -> ConfigMap:
        """Create it; ConflictError when it is there already."""
        path = f"/api/v1/namespaces/{_segment(namespace)}/configmaps"
        metadata: Json = {"namespace": namespace, "name": name, "labels": dict(labels or {})}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}
        return self._config_map(await self._call("POST", path, f"configmaps {namespace}/{name}", body))

    async def update_config_map(self, current: ConfigMap, data: Mapping[str, str]) -> ConfigMap:
        """Replace the data of the version that was read; ConflictError when it changed since."""
        namespace, name = current.namespace, current.name
        metadata: Json = {
            "namespace": namespace,
            "name": name,
            "resourceVersion": current.resource_version,
            "labels": dict(current.labels),
            "annotations": dict(current.annotations),
        }
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}
        answer = await self._call(
            "PUT", _config_map_path(namespace, name), f"configmaps {namespace}/{name}", body
        )
        return self._config_map(answer)

    # --- one call

    async def _call(self, method: str, path: str, resource: str, body: Json | None = None) -> Json:
        """One request and its JSON object. The token is read anew and tried once more when it is refused."""
        token = self._token_file.current()
        status, answer = await self._send(method, path, body, token)
        if status == 401 and self._token_file.current() != token:
            status, answer = await self._send(method, path, body, self._token_file.current())
        if 200 <= status < 300:
            return answer
        raise self._error(method, resource, status, answer)

    async def _send(self, method: str, path: str, body: Json | None, token: Secret) -> tuple[int, Json]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                headers={"User-Agent": f"cloudtaser/{VERSION}", "Accept": "application/json"},
                trust_env=False,
            )
        headers = {"Authorization": f"Bearer {token.reveal_text()}"}
        try:
            async with self._session.request(
                method, self.url + path, json=body, headers=headers, allow_redirects=False
            ) as response:
                raw = await self._bounded(response)
                status = response.status
        except (aiohttp.ClientConnectorCertificateError, UntrustedError):
            raise KubeUnavailableError(
                "the API server's certificate does not match the CA that was given",
                on=self.url,
                fix="check --apiserver-ca",
            ) from None
        except TimeoutError:
            raise KubeUnavailableError(
                f"the API server did not answer within {self._timeout:g} s",
                on=self.url,
                fix="check that it is up and reachable from here",
            ) from None
        except KubeUnavailableError:
            raise
        except CloudtaserError as error:  # of the proxy, or of the TLS inside
            raise KubeUnavailableError(
                f"cannot reach the API server: {error.what}", on=error.on or self.url, fix=error.fix
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise KubeUnavailableError(
                f"cannot reach the API server: {why}",
                on=self.url,
                fix="check that it is up and reachable from here",
            ) from None
        try:
            answer = json.loads(raw) if raw else {}
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            if 200 <= status < 300:
                raise KubeUnavailableError("the API server's answer is not a JSON object", on=self.url + path)
            answer = {}
        return status, answer

    def _connector(self) -> aiohttp.BaseConnector:
        if self._proxies.route(self.host, self.port) is not None:
            return ProxiedConnector(self._proxies, self._context, limit=MAX_CONNECTIONS)
        return aiohttp.TCPConnector(ssl=self._context, limit=MAX_CONNECTIONS)

    async def _bounded(self, response: aiohttp.ClientResponse) -> bytes:
        raw = bytearray()
        async for piece in response.content.iter_any():
            raw += piece
            if len(raw) > MAX_ANSWER:
                response.close()
                raise KubeUnavailableError(
                    f"the API server's answer is larger than {MAX_ANSWER} bytes", on=self.url
                )
        return bytes(raw)

    def _error(self, method: str, resource: str, status: int, answer: Json) -> Exception:
        verb, message = _VERBS[method], str(answer.get("message") or f"status {status}")[:300]
        if status == 401:
            return KubeUnauthorisedError(
                "the API server does not accept our token",
                on=f"{verb} {resource}",
                fix=f"check that {self._token_file.path} holds a current token of this cluster",
            )
        if status == 403:
            return KubeForbiddenError(
                f"not permitted to {verb} {resource}",
                on=self.url,
                fix="grant that verb on that resource to our ServiceAccount by a Role",
            )
        if status == 404:
            return NotFoundError(f"{resource} does not exist", on=self.url)
        if status == 409:
            return ConflictError(f"{resource} was changed by somebody else", on=self.url, fix="read it again")
        if status == 429 or status >= 500:
            return KubeUnavailableError(
                f"the API server is not ready: {message}",
                on=f"{verb} {resource}",
                fix="it will be tried again",
            )
        return KubeRefusedError(f"the API server refused to {verb} {resource}: {message}", on=self.url)

    def _field(self, holder: Json, name: str, kind: type[_T]) -> _T:
        value = holder.get(name)
        if not isinstance(value, kind):
            raise KubeUnavailableError(f"the API server's answer has no {name}", on=self.url)
        return value

    def _config_map(self, answer: Json) -> ConfigMap:
        metadata = self._field(answer, "metadata", dict)
        return ConfigMap(
            namespace=self._field(metadata, "namespace", str),
            name=self._field(metadata, "name", str),
            data=_texts(answer.get("data")),
            resource_version=self._field(metadata, "resourceVersion", str),
            labels=_texts(metadata.get("labels")),
            annotations=_texts(metadata.get("annotations")),
        )


def _texts(value: object) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


def _segment(text: str) -> str:
    return quote(text, safe="")


def _config_map_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{_segment(namespace)}/configmaps/{_segment(name)}"
