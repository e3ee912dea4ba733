"""Session: what every `source` command has in common, from the flags to the connection.

Used by `source`: `command` gives an asynchronous function the flags that all of them share and a `Session` in
their place; `sharing` does that for any group's flags. Imports of weight wait until a command runs, so that
`--help` answers at once.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Final, ParamSpec, TypeVar, get_type_hints

import typer

from cloudtaser.cli.output import Format, Printer
from cloudtaser.errors import UsageError
from cloudtaser.secret import Secret

if TYPE_CHECKING:
    from cloudtaser.net.proxy import Proxies
    from cloudtaser.openbao.client import OpenBao

DEFAULT_ADDRESS: Final = "https://127.0.0.1:8200"
_PANEL: Final = "OpenBao"

P = ParamSpec("P")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Session:
    """Where OpenBao is and how to answer; `connect` opens the connection."""

    address: str
    ca_file: str | None
    token: Secret | None
    printer: Printer
    proxy: str = ""
    proxy_source: str = "--proxy"
    proxy_ca: str | None = None

    def connect(self) -> OpenBao:
        """A client to use with `async with`; ConfigError on a bad address or certificate file."""
        from cloudtaser.openbao.client import OpenBao

        if self.token is None:
            raise UsageError(
                "no token for OpenBao", fix="set VAULT_TOKEN or BAO_TOKEN, or give --vault-token-file"
            )
        return OpenBao(
            self.address, ca_file=self.ca_file, token=self.token, timeout=30, proxies=self.proxies()
        )

    def proxies(self) -> Proxies:
        """By which proxy to connect, if any; ConfigError on a bad address or certificate file."""
        from cloudtaser.net.proxy import Proxies

        return Proxies.read(os.environ, self.proxy, source=self.proxy_source, ca_file=self.proxy_ca)


def _common(
    vault_address: Annotated[
        str, typer.Option(help="OpenBao's URL. [VAULT_ADDR, BAO_ADDR; default " + DEFAULT_ADDRESS + "]")
    ] = "",
    vault_token: Annotated[
        str,
        typer.Option(help="Token; others on this machine see it: prefer VAULT_TOKEN, BAO_TOKEN or a file."),
    ] = "",
    vault_token_file: Annotated[str, typer.Option(help="File that holds the token.")] = "",
    vault_ca_cert: Annotated[
        str, typer.Option(help="Authority of OpenBao's certificate, PEM. [VAULT_CACERT, BAO_CACERT]")
    ] = "",
    proxy: Annotated[
        str, typer.Option(help="HTTP proxy, or off. [CLOUDTASER_PROXY; else HTTPS_PROXY, NO_PROXY]")
    ] = "",
    proxy_ca: Annotated[
        str, typer.Option(help="Authority of an https:// proxy's certificate, PEM. [CLOUDTASER_PROXY_CA]")
    ] = "",
    output: Annotated[Format, typer.Option("--output", "-o", help="How to write the answer.")] = Format.TABLE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the value a script wants.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No bold heads. [NO_COLOR]")] = False,
) -> Session:
    return Session(
        address=vault_address or _variable("VAULT_ADDR", "BAO_ADDR") or DEFAULT_ADDRESS,
        ca_file=vault_ca_cert or _variable("VAULT_CACERT", "BAO_CACERT") or None,
        token=_token(vault_token, vault_token_file),
        printer=Printer(output, quiet, not no_color),
        proxy=proxy or _variable("CLOUDTASER_PROXY"),
        proxy_source="--proxy" if proxy else "CLOUDTASER_PROXY",
        proxy_ca=proxy_ca or _variable("CLOUDTASER_PROXY_CA") or None,
    )


def sharing(
    common: Callable[..., S],
) -> Callable[[Callable[Concatenate[S, P], Awaitable[None]]], Callable[..., None]]:
    """A decorator for `async def name(session, …own flags…)`: a typer command with its own flags, then those
    of `common`, which makes the session of them."""
    shared_parameters = list(inspect.signature(common).parameters.values())
    names = {parameter.name for parameter in shared_parameters}

    def decorate(function: Callable[Concatenate[S, P], Awaitable[None]]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())[1:]
        hints = get_type_hints(function, include_extras=True) | get_type_hints(common, include_extras=True)

        @wraps(function)
        def run(**values: Any) -> None:
            import asyncio

            shared = {name: values.pop(name) for name in names}
            asyncio.run(_await(function, common(**shared), values))

        parameters = [
            parameter.replace(annotation=hints[parameter.name]) for parameter in (*own, *shared_parameters)
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def command(function: Callable[Concatenate[Session, P], Awaitable[None]]) -> Callable[..., None]:
    """A typer command from `async def name(session, …own flags…)`: the common flags come after its own."""
    return sharing(_common)(function)


async def _await(function: Callable[..., Awaitable[None]], session: object, values: dict[str, Any]) -> None:
    await function(session, **values)


def _variable(*names: str) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _token(given: str, file: str) -> Secret | None:
    """The token from flag, file or environment, in this order."""
    from cloudtaser.openbao.login import TokenFile, parse_token

    if given:
        return parse_token(given.encode(), "--vault-token")
    if file:
        return TokenFile(file).read()
    for name in ("VAULT_TOKEN", "BAO_TOKEN"):
        if os.environ.get(name):
            return parse_token(os.environ[name].encode(), name)
    return None
