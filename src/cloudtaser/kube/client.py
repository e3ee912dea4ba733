"""KubeApi: what cloudtaser asks of a Kubernetes API server, in one object.

Used by `operator` and its controllers, the webhook and the CLI. `transport` moves the bytes and names the
errors, `verbs` knows objects of any kind; here is what has a form of its own: tokens, keys, ConfigMaps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from cloudtaser.kube.errors import NotFoundError
from cloudtaser.kube.kinds import CONFIG_MAPS, NAMESPACES, PODS, SERVICE_ACCOUNTS
from cloudtaser.kube.objects import BoundPod, ConfigMap, ServiceAccountToken, TokenReview
from cloudtaser.kube.transport import Json
from cloudtaser.kube.verbs import Verbs
from cloudtaser.secret import Secret

__all__ = ["Json", "KubeApi"]


class KubeApi(Verbs):
    """One API server under one identity. Every method raises the errors of `kube.errors` and no other."""

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
            SERVICE_ACCOUNTS.path(namespace, serviceaccount, "token"),
            SERVICE_ACCOUNTS.describe(namespace, serviceaccount, "token"),
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
        where, kind = "/openid/v1/jwks", "application/jwk-set+json"
        return await self._call("GET", where, f"the cluster's keys {where}", accept=kind)

    async def issuer(self) -> str:
        """The issuer (`iss`) of the cluster's ServiceAccount tokens."""
        where = "/.well-known/openid-configuration"
        return self._field(await self._call("GET", where, f"the issuer {where}"), "issuer", str)

    async def version(self) -> str:
        """The API server's release, as `v1.34.4`."""
        return self._field(
            await self._call("GET", "/version", "the API server's /version"), "gitVersion", str
        )

    # --- objects

    async def namespace_uid(self, name: str) -> str:
        """The UID of a namespace; that of kube-system is the cluster's fingerprint."""
        answer = await self.get_object(NAMESPACES, None, name)
        return self._field(self._field(answer, "metadata", dict), "uid", str)

    async def get_config_map(self, namespace: str, name: str) -> ConfigMap | None:
        """The ConfigMap, or None when there is none."""
        try:
            answer = await self.get_object(CONFIG_MAPS, namespace, name)
        except NotFoundError:
            return None
        return self._config_map(answer)

    async def create_config_map(
        self, namespace: str, name: str, data: Mapping[str, str], labels: Mapping[str, str] | None = None
    ) -> ConfigMap:
        """Create it; ConflictError when it is there already."""
        metadata: Json = {"namespace": namespace, "name": name, "labels": dict(labels or {})}
        return self._config_map(
            await self.create_object(CONFIG_MAPS, {"metadata": metadata, "data": dict(data)})
        )

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
        answer = await self.replace_object(CONFIG_MAPS, {"metadata": metadata, "data": dict(data)})
        return self._config_map(answer)

    async def pod_log(self, namespace: str, pod: str, container: str, *, lines: int, limit_bytes: int) -> str:
        """The last `lines` of a container's log, `limit_bytes` of them at most."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(limit_bytes)}
        path, what = PODS.path(namespace, pod, "log"), PODS.describe(namespace, pod, "log")
        return await self._text(path, what, query, limit_bytes + 1024)

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
