"""Kubeconfig: which cluster, as whom, by the files and rules that kubectl uses.

Used by the CLI's `target` commands. Reads $KUBECONFIG (several files, the first that has a name wins) or
~/.kube/config, else the pod's own ServiceAccount; `Access` is all that `client.KubeApi` needs of it.
Credential plugins are run as client-go runs them (client.authentication.k8s.io/v1 and v1beta1), without a
terminal of their own.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cloudtaser.errors import ConfigError
from cloudtaser.kube.access import Access, TokenSource
from cloudtaser.kube.credential_plugin import Exec, Plugin, load_pair
from cloudtaser.kube.token_file import TokenFile
from cloudtaser.secret import Secret

Json = dict[str, Any]

MAX_FILE: Final = 8 * 1024 * 1024
"""Bytes of one kubeconfig; one with hundreds of clusters has a tenth of it."""
_IN_CLUSTER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str = ""
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool | None = None
    tls_server_name: str | None = None
    proxy_url: str | None = None


class _User(msgspec.Struct, rename="kebab"):
    token: str | None = None
    token_file: str | None = msgspec.field(default=None, name="tokenFile")
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    exec: Exec | None = None
    username: str | None = None
    auth_provider: Any = None
    impersonated: str | None = msgspec.field(default=None, name="as")
    as_groups: list[str] | None = None


class _Context(msgspec.Struct):
    cluster: str = ""
    user: str = ""
    namespace: str | None = None


class _NamedCluster(msgspec.Struct):
    name: str
    cluster: _Cluster | None = None


class _NamedUser(msgspec.Struct):
    name: str
    user: _User | None = None


class _NamedContext(msgspec.Struct):
    name: str
    context: _Context | None = None


class _File(msgspec.Struct, rename="kebab"):
    kind: str = "Config"
    current_context: str | None = None
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


_N = TypeVar("_N", _NamedCluster, _NamedUser, _NamedContext)


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A token that a file spells out, or none at all."""

    token: Secret | None
    path: str

    def current(self) -> Secret | None:
        """See TokenSource."""
        return self.token


def load(
    environment: Mapping[str, str], *, kubeconfig: str = "", context: str = "", namespace: str = ""
) -> Access:
    """The access that flags, environment and files name, in kubectl's order.

    Raises ConfigError for files that are missing, unreadable or incomplete, NotAuthorisedError when a
    credential plugin fails.
    """
    given = kubeconfig or environment.get("KUBECONFIG", "")
    home = Path(environment.get("HOME", "/"))
    paths = (
        [Path(kubeconfig)]
        if kubeconfig
        else [Path(one) for one in given.split(os.pathsep) if one] or [home / ".kube" / "config"]
    )
    present = [path for path in paths if path.is_file()]
    if not present:
        if not given and not context and environment.get("KUBERNETES_SERVICE_HOST"):
            return _in_cluster(environment, namespace)
        raise ConfigError(
            "there is no kubeconfig",
            on=", ".join(map(str, paths)),
            fix="give --kubeconfig FILE or set KUBECONFIG",
        )
    merged = _Merged([(path, _read(path)) for path in present])
    return merged.access(context, namespace)


class _Merged:
    """Several kubeconfigs as one: of two entries with the same name the first file's counts."""

    def __init__(self, files: list[tuple[Path, _File]]) -> None:
        self._files = files
        self.shown = ", ".join(str(path) for path, _ in files)

    def access(self, context: str, namespace: str) -> Access:
        name = context or next((one.current_context for _, one in self._files if one.current_context), "")
        if not name:
            raise ConfigError(
                "no context is chosen",
                on=self.shown,
                fix="give --context NAME, or kubectl config use-context",
            )
        chosen = self._named("context", name, ((one.contexts, path) for path, one in self._files))[0].context
        chosen = chosen or _Context()
        found, where = self._named(
            "cluster", chosen.cluster, ((one.clusters, path) for path, one in self._files)
        )
        cluster, user, whose = found.cluster or _Cluster(), _User(), where
        if chosen.user:
            holder, whose = self._named("user", chosen.user, ((one.users, path) for path, one in self._files))
            user = holder.user or user
        described = f"context {name} of {self.shown}"
        server = cluster.server.rstrip("/")
        if not server.startswith("https://"):
            raise ConfigError(
                "the API server must be https://HOST[:PORT]", on=described, fix="correct `server`"
            )
        ca_pem = _content(
            "certificate-authority", cluster.certificate_authority_data, cluster.certificate_authority, where
        )
        tls = _tls(ca_pem or b"", bool(cluster.insecure_skip_tls_verify), described)
        _client_certificate(tls, user, whose, described)
        return Access(
            server=server,
            context=tls,
            token=_token(user, whose, tls, server, ca_pem or b"", described),
            ca_pem=(ca_pem or b"").decode("ascii", "replace"),
            namespace=namespace or chosen.namespace or "default",
            server_name=cluster.tls_server_name or None,
            proxy=cluster.proxy_url or "",
            headers=_impersonation(user),
            described=described,
        )

    def _named(self, kind: str, name: str, lists: Iterable[tuple[list[_N] | None, Path]]) -> tuple[_N, Path]:
        for entries, path in lists:
            for entry in entries or ():
                if entry.name == name:
                    return entry, path
        raise ConfigError(
            f"there is no {kind} of that name", on=f"{name!r} in {self.shown}", fix="see kubectl config view"
        )


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the kubeconfig: {error.strerror}", on=str(path)) from None
    if len(raw) > MAX_FILE:
        raise ConfigError(f"the kubeconfig is larger than {MAX_FILE} bytes", on=str(path))
    try:
        content = YAML(typ="safe", pure=True).load(raw.decode())
    except (YAMLError, UnicodeDecodeError):
        raise ConfigError("the kubeconfig is no YAML", on=str(path), fix="see kubectl config view") from None
    try:
        file_ = msgspec.convert(content or {}, _File, strict=False)
    except msgspec.ValidationError as error:  # names the member, never what it holds
        raise ConfigError(f"the file is no kubeconfig: {error}", on=str(path)) from None
    if file_.kind != "Config":
        raise ConfigError("the file is no kubeconfig", on=str(path), fix="it must be of kind Config")
    return file_


def _in_cluster(environment: Mapping[str, str], namespace: str) -> Access:
    host = environment["KUBERNETES_SERVICE_HOST"]
    shown = f"[{host}]" if ":" in host else host
    try:
        ca_pem = (_IN_CLUSTER / "ca.crt").read_bytes()
        own = (_IN_CLUSTER / "namespace").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            f"cannot use the pod's ServiceAccount: {error.strerror}",
            on=str(error.filename),
            fix="give --kubeconfig FILE",
        ) from None
    return Access(
        server=f"https://{shown}:{environment.get('KUBERNETES_SERVICE_PORT', '443')}",
        context=_tls(ca_pem, False, "the pod's ServiceAccount"),
        token=TokenFile(str(_IN_CLUSTER / "token")),
        ca_pem=ca_pem.decode("ascii", "replace"),
        namespace=namespace or own or "default",
        described="the pod's ServiceAccount",
    )


def _content(name: str, data: str | None, file: str | None, where: Path) -> bytes | None:
    """What `NAME-data` holds, else the file that `NAME` names, relative to the kubeconfig's folder."""
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except ValueError:
            raise ConfigError(f"{name}-data is no base64", on=str(where)) from None
    if not file:
        return None
    path = where.parent / file
    try:
        with path.open("rb") as opened:
            return opened.read(MAX_FILE)
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {error.strerror}", on=str(path)) from None


def _tls(ca_pem: bytes, insecure: bool, described: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        if ca_pem:
            context.load_verify_locations(cadata=ca_pem.decode("ascii"))
        else:
            context.load_default_certs()
    except (ssl.SSLError, ValueError):
        raise ConfigError("certificate-authority holds no PEM certificate", on=described) from None
    return context


def _client_certificate(context: ssl.SSLContext, user: _User, where: Path, described: str) -> None:
    certificate = _content("client-certificate", user.client_certificate_data, user.client_certificate, where)
    key = _content("client-key", user.client_key_data, user.client_key, where)
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise ConfigError("client-certificate and client-key belong together", on=described)
    load_pair(context, certificate, key, described)


def _token(
    user: _User, where: Path, tls: ssl.SSLContext, server: str, ca_pem: bytes, described: str
) -> TokenSource:
    if user.token:
        return StaticToken(Secret(user.token), f"the token in {where}")
    if user.token_file:
        return TokenFile(str(where.parent / user.token_file))
    if user.exec is not None:
        return Plugin(user.exec, where, tls, server, ca_pem, described).token()
    if user.auth_provider or user.username:
        raise ConfigError(
            "auth-provider and passwords are no longer accepted by Kubernetes",
            on=described,
            fix="use a token, a client certificate or an exec plugin",
        )
    return StaticToken(None, f"the client certificate in {where}")


def _impersonation(user: _User) -> tuple[tuple[str, str], ...]:
    if not user.impersonated:
        return ()
    groups = [("Impersonate-Group", group) for group in user.as_groups or ()]
    return (("Impersonate-User", user.impersonated), *groups)
