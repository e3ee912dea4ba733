"""A stand-in for the Kubernetes API server, for a machine without a cluster.

It is no Kubernetes: it answers just what the chain asks of one, as a real API server does, with TLS, bearer
authentication and a small table of who may do what. Offered: TokenRequest, TokenReview, `/openid/v1/jwks` and
discovery, ConfigMaps with resourceVersion, namespace `kube-system` (whose UID is the fingerprint), and pods
only so that tokens can be bound to them. Started by the demo and by tests.
"""

from __future__ import annotations

import json
import re
import secrets
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from cloudtaser.demo.certificates import write_server_certificate
from cloudtaser.demo.tokens import ALGORITHM, PodReference, SigningKey, service_account_claims
from cloudtaser.wire import names

APISERVER_NAME = "apiserver.demo.internal"
ISSUER = "https://kubernetes.default.svc.cluster.local"
_ADMIN = "system:admin"
_REVIEWER = f"system:serviceaccount:{names.SYSTEM_NAMESPACE}:{names.REVIEWER_SERVICE_ACCOUNT}"
_MIN_TOKEN_SECONDS = 600
_MAX_TOKEN_SECONDS = 86_400
_CONFIG_MAPS = re.compile(rf"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/configmaps(/.*)?")
_TOKEN_REQUESTS = re.compile(
    rf"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/serviceaccounts/"
    rf"({names.OPERATOR_SERVICE_ACCOUNT}|{names.REVIEWER_SERVICE_ACCOUNT})/token"
)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class _Pod:
    namespace: str
    service_account: str
    reference: PodReference


class StandInApiServer:
    """One stand-in API server on loopback; its files (certificates, tokens) lie in `directory`."""

    def __init__(self, directory: Path, fingerprint: str, *, port: int = 0) -> None:
        self.directory = directory
        self.fingerprint = fingerprint
        self.port = port
        self.audit: list[str] = []
        self._keys = [SigningKey()]
        self._admin_token = secrets.token_urlsafe(24)
        self._config_maps: dict[tuple[str, str], dict[str, Any]] = {}
        self._pods: dict[str, _Pod] = {}
        self._account_uids: dict[tuple[str, str], str] = {}
        self._revision = 0
        self._runner: web.AppRunner | None = None
        self.ca_file = Path()
        self.admin_token_file = directory / "admin.token"
        self.operator_token_file = directory / "operator.token"

    @property
    def url(self) -> str:
        """`https://127.0.0.1:<port>` once started."""
        return f"https://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; a second start after `close` keeps port, keys and objects."""
        if not self.ca_file.name:
            hosts = ["127.0.0.1", "localhost", "kubernetes.default.svc", APISERVER_NAME]
            self._files = write_server_certificate(self.directory, "apiserver", hosts)
            self.ca_file = self._files.ca
            _write_private(self.admin_token_file, self._admin_token)
            operator = self.issue(
                names.SYSTEM_NAMESPACE, names.OPERATOR_SERVICE_ACCOUNT, [ISSUER], seconds=_MAX_TOKEN_SECONDS
            )
            _write_private(self.operator_token_file, operator)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._files.certificate, self._files.key)
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def rotate_keys(self, *, keep_old: bool = True) -> None:
        """Sign with a new key from now on; the old one stays in the JWKS unless told otherwise."""
        self._keys = [SigningKey(), *(self._keys if keep_old else [])]

    def add_pod(self, namespace: str, name: str, service_account: str) -> PodReference:
        """Record a pod, so that tokens can be bound to it."""
        reference = PodReference(name, str(uuid.uuid4()))
        self._pods[reference.uid] = _Pod(namespace, service_account, reference)
        return reference

    def delete_pod(self, pod: PodReference) -> None:
        """Forget a pod; from now on TokenReview refuses its tokens."""
        self._pods.pop(pod.uid, None)

    def issue(
        self,
        namespace: str,
        service_account: str,
        audiences: Sequence[str],
        *,
        pod: PodReference | None = None,
        seconds: int = _MIN_TOKEN_SECONDS,
        issued_at: int | None = None,
    ) -> str:
        """A token as the kubelet would fetch it."""
        claims = service_account_claims(
            issuer=ISSUER,
            namespace=namespace,
            service_account=service_account,
            service_account_uid=self._account_uid(namespace, service_account),
            audiences=audiences,
            issued_at=int(time.time()) if issued_at is None else issued_at,
            seconds=seconds,
            pod=pod,
        )
        return self._keys[0].sign(claims)

    def sign(self, claims: dict[str, Any], *, header: dict[str, Any] | None = None) -> str:
        """Any claims under the cluster's key: what a compromised API server could sign."""
        return self._keys[0].sign(claims, header=header)

    def jwks(self) -> dict[str, Any]:
        """The JWKS document."""
        return {"keys": [key.public_jwk() for key in self._keys]}

    def config_map(self, namespace: str, name: str) -> dict[str, str]:
        """The data of a ConfigMap; empty when there is none."""
        found = self._config_maps.get((namespace, name))
        return {} if found is None else dict(found["data"])

    def put_config_map(self, namespace: str, name: str, data: dict[str, str]) -> None:
        """Store a ConfigMap, as somebody with the right to would."""
        self._stored(namespace, {"metadata": {"name": name}, "data": data})

    def _account_uid(self, namespace: str, name: str) -> str:
        return self._account_uids.setdefault((namespace, name), str(uuid.uuid4()))

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._authenticate], client_max_size=1 << 20)
        maps = "/api/v1/namespaces/{namespace}/configmaps"
        application.add_routes(
            [
                web.get("/openid/v1/jwks", self._get_jwks),
                web.get("/.well-known/openid-configuration", self._get_discovery),
                web.get("/api/v1/namespaces/{namespace}", self._get_namespace),
                web.post("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", self._token_request),
                web.post("/apis/authentication.k8s.io/v1/tokenreviews", self._token_review),
                web.get(maps, self._list_config_maps),
                web.post(maps, self._create_config_map),
                web.get(maps + "/{name}", self._get_config_map),
                web.put(maps + "/{name}", self._replace_config_map),
                web.delete(maps + "/{name}", self._delete_config_map),
            ]
        )
        return application

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        user = self._user(token) if scheme == "Bearer" else None
        if user is None:
            return _status(401, "Unauthorized", "Unauthorized")
        self.audit.append(f"{user} {request.method} {request.path}")
        if not self._may(user, request.method, request.path):
            return _status(403, "Forbidden", f'User "{user}" cannot {request.method} path "{request.path}"')
        try:
            return await handler(request)
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            return _status(400, "BadRequest", "the object provided is unrecognized")

    def _user(self, token: str) -> str | None:
        if secrets.compare_digest(token.encode(), self._admin_token.encode()):
            return _ADMIN
        claims = self._verified(token)
        if claims is None or ISSUER not in claims["aud"]:
            return None
        return str(claims["sub"])

    def _verified(self, token: str) -> dict[str, Any] | None:
        try:
            keys = KeySet.import_key_set({"keys": [dict(key) for key in self.jwks()["keys"]]})
            claims = dict(jwt.decode(token, keys, algorithms=[ALGORITHM]).claims)
        except (JoseError, ValueError):
            return None
        if not claims["nbf"] <= time.time() < claims["exp"] or claims["iss"] != ISSUER:
            return None
        pod = claims["kubernetes.io"].get("pod")
        if pod is not None and pod["uid"] not in self._pods:
            return None
        return claims

    def _may(self, user: str, method: str, path: str) -> bool:
        if user == _ADMIN:
            return True
        if path in ("/openid/v1/jwks", "/.well-known/openid-configuration"):
            return method == "GET" and user in (_REVIEWER, names.OPERATOR_SUBJECT)
        if path == "/apis/authentication.k8s.io/v1/tokenreviews":
            return user in (_REVIEWER, names.OPERATOR_SUBJECT)
        if user != names.OPERATOR_SUBJECT:
            return False
        if path == "/api/v1/namespaces/kube-system":
            return method == "GET"
        return bool(_CONFIG_MAPS.fullmatch(path) or _TOKEN_REQUESTS.fullmatch(path))

    async def _get_jwks(self, request: web.Request) -> web.StreamResponse:
        kind = "application/jwk-set+json"
        wanted = request.headers.get("Accept", "*/*")
        if kind not in wanted and "*/*" not in wanted:  # as the real one
            return web.Response(status=406, text=f"Not Acceptable\nAvailable representations: {kind}\n")
        return web.json_response(self.jwks(), content_type=kind)

    async def _get_discovery(self, request: web.Request) -> web.StreamResponse:
        document = {
            "issuer": ISSUER,
            "jwks_uri": f"{self.url}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
        }
        return web.json_response(document)

    async def _get_namespace(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["namespace"]
        if name != "kube-system":
            return _status(404, "NotFound", f'namespaces "{name}" not found')
        metadata = {"name": name, "uid": self.fingerprint, "resourceVersion": "1"}
        return web.json_response({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    async def _token_request(self, request: web.Request) -> web.StreamResponse:
        spec = (await request.json())["spec"]
        namespace, account = request.match_info["namespace"], request.match_info["name"]
        seconds = int(spec.get("expirationSeconds") or 3600)
        if not _MIN_TOKEN_SECONDS <= seconds <= _MAX_TOKEN_SECONDS:
            return _status(
                422, "Invalid", "spec.expirationSeconds: may not specify a duration less than 10 minutes"
            )
        pod = None
        bound = spec.get("boundObjectRef")
        if bound:
            known = self._pods.get(bound.get("uid", ""))
            if known is None or known.reference.name != bound["name"] or known.service_account != account:
                return _status(404, "NotFound", f'pods "{bound["name"]}" not found')
            pod = known.reference
        audiences = [str(audience) for audience in spec.get("audiences") or [ISSUER]]
        token = self.issue(namespace, account, audiences, pod=pod, seconds=seconds)
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        answer = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"name": account, "namespace": namespace},
            "spec": {"audiences": audiences, "expirationSeconds": seconds},
            "status": {"token": token, "expirationTimestamp": expires},
        }
        return web.json_response(answer, status=201)

    async def _token_review(self, request: web.Request) -> web.StreamResponse:
        spec = (await request.json())["spec"]
        claims = self._verified(str(spec["token"]))
        wanted = [str(audience) for audience in spec.get("audiences") or [ISSUER]]
        status: dict[str, Any] = {"user": {}, "error": "invalid bearer token"}
        if claims is not None and (matching := [item for item in claims["aud"] if item in wanted]):
            bound = claims["kubernetes.io"]
            extra = {}
            if "pod" in bound:
                extra["authentication.kubernetes.io/pod-name"] = [bound["pod"]["name"]]
                extra["authentication.kubernetes.io/pod-uid"] = [bound["pod"]["uid"]]
            user = {"username": claims["sub"], "uid": bound["serviceaccount"]["uid"], "extra": extra}
            status = {"authenticated": True, "user": user, "audiences": matching}
        answer = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "metadata": {},
            "status": status,
        }
        return web.json_response(answer, status=201)

    def _stored(self, namespace: str, document: dict[str, Any]) -> dict[str, Any]:
        self._revision += 1
        metadata = dict(document["metadata"])
        metadata |= {"namespace": namespace, "resourceVersion": str(self._revision)}
        metadata.setdefault("uid", str(uuid.uuid4()))
        data = {str(key): str(value) for key, value in (document.get("data") or {}).items()}
        kept = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        self._config_maps[namespace, str(metadata["name"])] = kept
        return kept

    async def _list_config_maps(self, request: web.Request) -> web.StreamResponse:
        namespace = request.match_info["namespace"]
        items = [item for (where, _), item in self._config_maps.items() if where == namespace]
        metadata = {"resourceVersion": str(self._revision)}
        return web.json_response(
            {"apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": items}
        )

    async def _create_config_map(self, request: web.Request) -> web.StreamResponse:
        namespace, document = request.match_info["namespace"], await request.json()
        name = str(document["metadata"]["name"])
        if (namespace, name) in self._config_maps:
            return _status(409, "AlreadyExists", f'configmaps "{name}" already exists')
        return web.json_response(self._stored(namespace, document), status=201)

    async def _get_config_map(self, request: web.Request) -> web.StreamResponse:
        found = self._config_maps.get((request.match_info["namespace"], request.match_info["name"]))
        return _config_map_missing(request) if found is None else web.json_response(found)

    async def _replace_config_map(self, request: web.Request) -> web.StreamResponse:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        document = await request.json()
        found = self._config_maps.get((namespace, name))
        if found is None:
            return _config_map_missing(request)
        expected = document["metadata"].get("resourceVersion")
        if expected and expected != found["metadata"]["resourceVersion"]:
            return _status(409, "Conflict", f'Operation cannot be fulfilled on configmaps "{name}"')
        document["metadata"] |= {"name": name, "uid": found["metadata"]["uid"]}
        return web.json_response(self._stored(namespace, document))

    async def _delete_config_map(self, request: web.Request) -> web.StreamResponse:
        found = self._config_maps.pop((request.match_info["namespace"], request.match_info["name"]), None)
        return _config_map_missing(request) if found is None else _status(200, "", "deleted")


def _config_map_missing(request: web.Request) -> web.Response:
    return _status(404, "NotFound", f'configmaps "{request.match_info["name"]}" not found')


def _status(code: int, reason: str, message: str) -> web.Response:
    """A Kubernetes `Status` object, as a real API server answers errors."""
    body = {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Success" if code < 400 else "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return web.json_response(body, status=code)


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
