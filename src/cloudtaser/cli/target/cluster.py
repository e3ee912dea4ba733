"""Cluster: what every `target` command has in common, from the flags to the API server.

Used by every module of this package: `command` gives an asynchronous function the flags that all of them
share and a `Cluster` in their place. Imports of weight wait until a command runs.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Concatenate, Final, ParamSpec

import typer

from cloudtaser.cli.manual import manual
from cloudtaser.cli.output import Format, Printer
from cloudtaser.cli.session import sharing

if TYPE_CHECKING:
    from cloudtaser.kube.access import Access
    from cloudtaser.kube.client import KubeApi

SYSTEM: Final = "cloudtaser-system"
_PANEL: Final = "Cluster"

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which cluster, as whom, and how to answer; `connect` opens the connection."""

    kubeconfig: str
    context: str
    namespace: str
    system: str
    printer: Printer

    def access(self) -> Access:
        """What the kubeconfig says; ConfigError or NotAuthorisedError."""
        from cloudtaser.kube.kubeconfig import load

        return load(os.environ, kubeconfig=self.kubeconfig, context=self.context, namespace=self.namespace)

    def connect(self, access: Access | None = None) -> KubeApi:
        """The API server, to use with `async with`."""
        from cloudtaser.kube.client import KubeApi
        from cloudtaser.net.proxy import Proxies

        access = access or self.access()
        proxies = Proxies.read(os.environ, access.proxy, source=access.described)
        return KubeApi.of(access, timeout=30, proxies=proxies)


def _common(
    kubeconfig: Annotated[
        str, typer.Option(metavar="FILE", help="Kubeconfig. [KUBECONFIG; default ~/.kube/config]")
    ] = "",
    context: Annotated[str, typer.Option(help="Context of the kubeconfig; default its current one.")] = "",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Namespace; default that of the context.")
    ] = "",
    system_namespace: Annotated[str, typer.Option(help="Where cloudtaser is installed.")] = SYSTEM,
    output: Annotated[Format, typer.Option("--output", "-o", help="How to write the answer.")] = Format.TABLE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the value a script wants.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No bold heads. [NO_COLOR]")] = False,
) -> Cluster:
    return Cluster(kubeconfig, context, namespace, system_namespace, Printer(output, quiet, not no_color))


def command(function: Callable[Concatenate[Cluster, P], Awaitable[None]]) -> Callable[..., None]:
    """A typer command from `async def name(cluster, …own flags…)`: the common flags come after its own."""
    return sharing(_common)(function)


def example(*lines: str, differs: str = "") -> str:
    """The end of a command's help; `differs` says when it ends with exit code 3."""
    return manual(*(f"target {line}" for line in lines), differs=differs)
