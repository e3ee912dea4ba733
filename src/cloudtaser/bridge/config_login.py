"""How the bridge logs in to OpenBao: a token, a token in a file, AppRole, or a TLS certificate; one of them.

Used by `config`, which reads flags and twins, and by `service`, which has `keeper` make what keeps the bridge
logged in. (spec/bridge.md.)
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from cloudtaser.errors import CloudtaserError, ConfigError
from cloudtaser.secret import Secret

if TYPE_CHECKING:
    from cloudtaser.openbao.client import OpenBao
    from cloudtaser.openbao.login import TokenKeeper
    from cloudtaser.openbao.login_keeper import LoginKeeper

NAMESPACE: Final = "cloudtaser"
"""Where the method is mounted unless told otherwise: the policies of bridges are there."""
_MOUNT: Final = re.compile(r"[A-Za-z0-9._-]{1,128}(?:/[A-Za-z0-9._-]{1,128}){0,7}", re.ASCII)
_NAME: Final = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)

T = TypeVar("T")


class Values(Protocol):
    """As `config` reads one setting: None where it is not given, ConfigError naming its source when bad."""

    def optional(self, name: str, check: Callable[[str], T]) -> T | None:
        """The checked value."""


@dataclass(frozen=True, slots=True)
class TokenLogin:
    """A token given once."""

    token: Secret


@dataclass(frozen=True, slots=True)
class TokenFileLogin:
    """A token in a file, which somebody else keeps fresh."""

    file: str


@dataclass(frozen=True, slots=True)
class AppRoleLogin:
    """A role id (or the file that holds it) and a file with a secret id, wrapped or not."""

    role_id: Secret | Path
    secret_id_file: str
    wrapped: bool
    mount: str
    namespace: str


@dataclass(frozen=True, slots=True)
class CertificateLogin:
    """A client certificate; `role` may be empty."""

    certificate_file: str
    key_file: str
    role: str
    mount: str
    namespace: str


Login = TokenLogin | TokenFileLogin | AppRoleLogin | CertificateLogin


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this module."""
    group = parser.add_argument_group("login to OpenBao", "One of: VAULT_TOKEN, a token file, AppRole, TLS.")
    add = group.add_argument
    add("--vault-token-file", metavar="FILE", help="read again when it changes")
    add("--approle-role-id", metavar="ID", help="AppRole: the role's id")
    add("--approle-role-id-file", metavar="FILE", help="the same from a file")
    add("--approle-secret-id-file", metavar="FILE", help="AppRole: the secret id; read at each login")
    add(
        "--approle-secret-id-wrapped",
        action="store_const",
        const="true",
        help="the file holds a wrapping token, which is opened once",
    )
    add("--approle-mount", metavar="PATH", help="where the method is mounted (approle)")
    add("--login-cert", metavar="FILE", help="TLS: client certificate; read at each login")
    add("--login-key", metavar="FILE", help="TLS: its key")
    add("--login-role", metavar="NAME", help="TLS: the role to log in under (any that fits)")
    add("--login-mount", metavar="PATH", help="where the method is mounted (cert)")
    add("--login-namespace", metavar="PATH", help=f"namespace of either method ({NAMESPACE}; / is the root)")


def read(values: Values, environment: Mapping[str, str]) -> Login:
    """The one form that is given. `VAULT_TOKEN`, OpenBao's own variable, counts where no other is.

    ConfigError when there is none, more than one, or half of one.
    """
    token_file = values.optional("vault-token-file", readable)
    role_id = values.optional("approle-role-id", _matching(_NAME, "a role id"))
    role_id_file = values.optional("approle-role-id-file", readable)
    secret_id_file = values.optional("approle-secret-id-file", readable)
    wrapped = values.optional("approle-secret-id-wrapped", boolean) or False
    app_role_mount = values.optional("approle-mount", _matching(_MOUNT, "a mount"))
    certificate = values.optional("login-cert", readable)
    key = values.optional("login-key", readable)
    role = values.optional("login-role", _matching(_NAME, "a role")) or ""
    mount = values.optional("login-mount", _matching(_MOUNT, "a mount"))
    namespace = values.optional("login-namespace", _namespace)
    app_role = role_id is not None or role_id_file is not None or secret_id_file is not None
    tls = certificate is not None or key is not None
    given = [
        name
        for name, there in (
            ("--vault-token-file", token_file is not None),
            ("--approle-…", app_role),
            ("--login-cert", tls),
        )
        if there
    ]
    if len(given) > 1:
        raise ConfigError(
            f"{len(given)} ways to log in to OpenBao are given", on=", ".join(given), fix="give one of them"
        )
    _without(app_role, wrapped or app_role_mount, "--approle-secret-id-wrapped or --approle-mount", "AppRole")
    _without(tls, role or mount, "--login-role or --login-mount", "--login-cert")
    _without(app_role or tls, namespace, "--login-namespace", "AppRole or --login-cert")
    where = NAMESPACE if namespace is None else namespace.strip("/")
    if app_role:
        if role_id is not None and role_id_file is not None:
            raise ConfigError(
                "the role id is given twice", on="--approle-role-id, --approle-role-id-file", fix="give one"
            )
        if secret_id_file is None:
            raise _half("AppRole", "--approle-secret-id-file")
        if role_id is not None:
            which: Secret | Path = Secret(role_id)
        elif role_id_file is not None:
            which = Path(role_id_file)
        else:
            raise _half("AppRole", "--approle-role-id or --approle-role-id-file")
        return AppRoleLogin(which, secret_id_file, wrapped, app_role_mount or "approle", where)
    if tls:
        if certificate is None or key is None:
            raise _half("a login by certificate", "--login-cert" if certificate is None else "--login-key")
        return CertificateLogin(certificate, key, role, mount or "cert", where)
    if token_file is not None:
        return TokenFileLogin(token_file)
    token = environment.get("VAULT_TOKEN", "").strip()
    if not token:
        raise ConfigError(
            "no OpenBao token",
            on="--vault-token-file or VAULT_TOKEN",
            fix="`source bridge-token` makes one; AppRole (--approle-…) and --login-cert do without",
        )
    return TokenLogin(Secret(token))


def keeper(
    login: Login,
    client: OpenBao,
    *,
    ca_file: str | None,
    on_trouble: Callable[[CloudtaserError], None],
) -> TokenKeeper | LoginKeeper:
    """What keeps `client` logged in."""
    from cloudtaser.openbao.credentials import AppRole, Credential, TlsCertificate
    from cloudtaser.openbao.login import TokenFile, TokenKeeper, TokenSource, TokenValue
    from cloudtaser.openbao.login_keeper import LoginKeeper

    source: TokenSource | None = None
    credential: Credential
    match login:
        case TokenLogin(token):
            source = TokenValue(token)
        case TokenFileLogin(file):
            source = TokenFile(file)
        case AppRoleLogin():
            credential = AppRole(
                client.address,
                ca_file=ca_file,
                namespace=login.namespace,
                mount=login.mount,
                role_id=login.role_id,
                secret_id_file=login.secret_id_file,
                wrapped=login.wrapped,
                proxies=client.proxies,
            )
        case CertificateLogin():
            credential = TlsCertificate(
                client.address,
                ca_file=ca_file,
                namespace=login.namespace,
                mount=login.mount,
                certificate_file=login.certificate_file,
                key_file=login.key_file,
                role=login.role,
                proxies=client.proxies,
            )
    if source is not None:
        return TokenKeeper(client, source, on_trouble=on_trouble)
    return LoginKeeper(client, credential, on_trouble=on_trouble)


def readable(text: str) -> str:
    """A file that can be read now."""
    if not text:
        raise ConfigError("empty value", fix="give a path")
    path = Path(text)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ConfigError(f"{text} cannot be read", fix="give a file that this user may read")
    return text


def boolean(text: str) -> bool:
    """True or false."""
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{text!r} is neither true nor false", fix="true or false")
    return text.lower() == "true"


def _matching(form: re.Pattern[str], what: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        text = text.strip("/") if form is _MOUNT else text
        if form.fullmatch(text) is None or ".." in text.split("/"):
            raise ConfigError(f"that is not {what}", fix="letters, digits, dots, dashes and underscores")
        return text

    return check


def _namespace(text: str) -> str:
    return "/" if text == "/" else _matching(_MOUNT, "a namespace")(text)


def _without(there: bool, extra: object, what: str, of: str) -> None:
    if extra and not there:
        raise ConfigError(f"that means something only with {of}", on=what, fix="give both or neither")


def _half(what: str, missing: str) -> ConfigError:
    return ConfigError(f"{what} needs one more setting", on=missing, fix="give it, or take the others away")
