"""Credentials: what a long-running client shows OpenBao to be given a token, as often as it needs one.

Used by the bridge, through `login_keeper`: AppRole, whose secret id lies in a file that is read again at
each login (or is unwrapped once), and a TLS certificate, whose files are read again likewise. Tokens that are
handed over whole are `login.TokenValue` and `login.TokenFile`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Protocol

from cloudtaser.errors import ConfigError, NotAuthorisedError
from cloudtaser.net.proxy import DIRECT, Proxies
from cloudtaser.openbao.client import Json, OpenBao
from cloudtaser.openbao.errors import OpenBaoError
from cloudtaser.openbao.login import parse_token
from cloudtaser.secret import Secret

_MAX_FILE: Final = 8192  # bytes; ids are UUIDs unless somebody chose them


class Credential(Protocol):
    """A way to log in."""

    async def log_in(self) -> Json:
        """OpenBao's `auth`, with a fresh token. NotAuthorisedError when it is refused, ConfigError for a
        file that cannot be used, UnavailableError."""

    async def renew(self, token: Secret) -> Json:
        """The `auth` of a renewal of that token, over the same kind of connection that it was issued on."""

    async def close(self) -> None:
        """Close the connections."""


class AppRole:
    """A role id and, in a file, a secret id, or with `wrapped` a wrapping token that holds one."""

    def __init__(
        self,
        address: str,
        *,
        ca_file: str | None,
        namespace: str,
        mount: str,
        role_id: Secret | Path,
        secret_id_file: str,
        wrapped: bool = False,
        proxies: Proxies = DIRECT,
    ) -> None:
        """`namespace` is where the method is mounted, at `auth/<mount>`."""
        self._client = OpenBao(address, ca_file=ca_file, namespace=namespace, proxies=proxies)
        self._mount = mount
        self._role_id = role_id
        self._secret_id_file = secret_id_file
        self._wrapped = wrapped
        self._wrapping = Secret(b"")
        self._unwrapped = Secret(b"")

    async def log_in(self) -> Json:
        role_id = read_line(self._role_id) if isinstance(self._role_id, Path) else self._role_id
        secret_id = read_line(self._secret_id_file)
        if self._wrapped:
            secret_id = await self._unwrap(secret_id)
        body = {"role_id": role_id.reveal_text(), "secret_id": secret_id.reveal_text()}
        return await _log_in(
            self._client,
            f"auth/{self._mount}/login",
            body,
            fix="check role id and secret id: it may be used up",
        )

    async def renew(self, token: Secret) -> Json:
        return await _renew(self._client, token)

    async def close(self) -> None:
        await self._client.close()

    async def _unwrap(self, wrapping: Secret) -> Secret:
        """The secret id in a wrapping token, which opens once: it is kept, in memory, until the file changes.

        Whoever could write the file could put a wrapping of his own there: it must come from this mount.
        """
        if wrapping == self._wrapping:
            return self._unwrapped
        opened = ConfigError(
            "the wrapped secret id cannot be opened: it has expired, or somebody opened it before",
            on=self._secret_id_file,
            fix="find out who did, and wrap a new one: `bao write -wrap-ttl=5m -f auth/…/secret-id`",
        )
        self._client.set_token(None)
        try:
            body = {"token": wrapping.reveal_text()}
            looked = await self._client.request("POST", "sys/wrapping/lookup", body=body)
            path = str((looked.get("data") or {}).get("creation_path"))
            if not re.fullmatch(rf"auth/{re.escape(self._mount)}/role/[^/]+/secret-id", path):
                raise ConfigError(
                    "the wrapping does not hold a secret id of this mount",
                    on=self._secret_id_file,
                    fix="somebody may have put it there: find out who, and wrap a new one",
                )
            self._client.set_token(wrapping)
            answer = await self._client.request("POST", "sys/wrapping/unwrap", body={})
        except OpenBaoError as error:
            if error.status in (400, 403, 404):
                raise opened from None
            raise
        finally:
            self._client.set_token(None)
        secret_id = (answer.get("data") or {}).get("secret_id")
        if not isinstance(secret_id, str) or not secret_id:
            raise opened
        self._wrapping, self._unwrapped = wrapping, Secret(secret_id)
        return self._unwrapped


class TlsCertificate:
    """A client certificate, shown in the TLS connection itself. `role` may be empty: any that fits."""

    def __init__(
        self,
        address: str,
        *,
        ca_file: str | None,
        namespace: str,
        mount: str,
        certificate_file: str,
        key_file: str,
        role: str = "",
        proxies: Proxies = DIRECT,
    ) -> None:
        self._address = address
        self._ca_file = ca_file
        self._namespace = namespace
        self._mount = mount
        self._files = certificate_file, key_file
        self._role = role
        self._proxies = proxies
        self._client = self._connection()

    async def log_in(self) -> Json:
        await self._client.close()
        self._client = self._connection()  # with the certificate as it is now
        body = {"name": self._role} if self._role else {}
        return await _log_in(
            self._client,
            f"auth/{self._mount}/login",
            body,
            fix="check that a role of that mount trusts this certificate, and that it is in time",
        )

    async def renew(self, token: Secret) -> Json:
        # OpenBao renews such a token only for whoever shows the certificate that it was issued for
        return await _renew(self._client, token)

    async def close(self) -> None:
        await self._client.close()

    def _connection(self) -> OpenBao:
        return OpenBao(
            self._address,
            ca_file=self._ca_file,
            namespace=self._namespace,
            certificate=self._files,
            proxies=self._proxies,
        )


async def _log_in(client: OpenBao, path: str, body: Json, *, fix: str) -> Json:
    client.set_token(None)
    try:
        answer = await client.request("POST", path, body=body)
    except OpenBaoError as error:
        if error.status in (400, 403, 404):
            said = "; ".join(error.messages) or error.what
            raise NotAuthorisedError(f"OpenBao refuses the login: {said}", on=path, fix=fix) from None
        raise
    auth = answer.get("auth")
    if not isinstance(auth, dict) or not auth.get("client_token"):
        raise NotAuthorisedError("OpenBao gives no token for the login", on=path, fix=fix)
    return auth


async def _renew(client: OpenBao, token: Secret) -> Json:
    client.set_token(token)
    try:
        answer = await client.request("POST", "auth/token/renew-self", body={})
    finally:
        client.set_token(None)
    auth: Json = answer.get("auth") or {}
    return auth


def read_line(path: str | Path) -> Secret:
    """The one line of printable text in a file; ConfigError, which never holds it, otherwise."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(
            f"the file cannot be read: {error.strerror}",
            on=str(path),
            fix="give a file that this user may read",
        ) from None
    return parse_token(content, str(path))
