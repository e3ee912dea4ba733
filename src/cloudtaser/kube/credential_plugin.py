"""Credential plugins: commands that a kubeconfig names and that print a token or a certificate.

Used by `kubeconfig`. Run as client-go runs them: an ExecCredential of client.authentication.k8s.io in
KUBERNETES_EXEC_INFO, its status on standard output, what is for a person on standard error. A plugin gets no
terminal to ask questions on.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudtaser.errors import ConfigError, NotAuthorisedError
from cloudtaser.kube.access import TokenSource
from cloudtaser.secret import Secret

Json = dict[str, Any]

MAX_ANSWER: Final = 256 * 1024
PLUGIN_SECONDS: Final = 60.0
_MARGIN: Final = 30.0
"""Seconds before its end at which a token is asked for anew."""


class Variable(msgspec.Struct):
    """One variable of a plugin's environment."""

    name: str
    value: str = ""


class Exec(msgspec.Struct, rename="camel"):
    """A user's `exec` in a kubeconfig."""

    command: str
    api_version: str = "client.authentication.k8s.io/v1"
    args: list[str] | None = None
    env: list[Variable] | None = None
    install_hint: str | None = None
    provide_cluster_info: bool | None = None


@dataclass(slots=True)
class PluginToken:
    """A credential plugin's token, asked for when there is none or it is about to end."""

    run: Callable[[], tuple[Secret, float]]
    path: str
    _token: Secret | None = None
    _ends: float = 0.0

    def current(self) -> Secret | None:
        """See TokenSource. Runs the plugin, which may take as long as PLUGIN_SECONDS."""
        if self._token is None or time.time() > self._ends - _MARGIN:
            self._token, self._ends = self.run()
        return self._token


class Plugin:
    """A credential plugin (client-go's `exec`): a command that prints an ExecCredential."""

    def __init__(
        self, spec: Exec, where: Path, tls: ssl.SSLContext, server: str, ca_pem: bytes, described: str
    ) -> None:
        command = spec.command
        if "/" in command and not command.startswith("/"):
            command = str(where.parent / command)
        self._command = [command, *(spec.args or ())]
        self._version = spec.api_version
        self._env = {one.name: one.value for one in spec.env or ()}
        self._hint = spec.install_hint or ""
        self._cluster: Json | None = None
        if spec.provide_cluster_info:
            self._cluster = {"server": server}
            if ca_pem:
                self._cluster["certificate-authority-data"] = base64.b64encode(ca_pem).decode()
        self._tls = tls
        self._described = described

    def token(self) -> TokenSource:
        """Runs when it is first needed."""
        return PluginToken(self._run, f"the plugin {Path(self._command[0]).name} of {self._described}")

    def _run(self) -> tuple[Secret, float]:
        spec: Json = {"interactive": False} | ({"cluster": self._cluster} if self._cluster else {})
        info = json.dumps({"apiVersion": self._version, "kind": "ExecCredential", "spec": spec})
        try:
            done = subprocess.run(  # the user's own kubeconfig names it, as for kubectl
                self._command,
                env=os.environ | self._env | {"KUBERNETES_EXEC_INFO": info},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                timeout=PLUGIN_SECONDS,
                check=False,
            )  # what it has to say to the user goes to our standard error, which is his
        except FileNotFoundError:
            raise self._failed("is not installed", self._hint) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            why = getattr(error, "strerror", None) or f"did not end within {PLUGIN_SECONDS:.0f} s"
            raise self._failed(why) from None
        if done.returncode:
            raise self._failed(f"ended with status {done.returncode}")
        try:
            answer = json.loads(done.stdout[:MAX_ANSWER])
            status = answer["status"]
            ends = status.get("expirationTimestamp")
            until = datetime.fromisoformat(ends).timestamp() if ends else float("inf")
            certificate, key = status.get("clientCertificateData"), status.get("clientKeyData")
            token = str(status.get("token") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._failed("printed no ExecCredential") from None
        if certificate and key:
            load_pair(self._tls, str(certificate).encode(), str(key).encode(), self._described)
        elif not token:
            raise self._failed("gave neither token nor certificate")
        return Secret(token), until

    def _failed(self, why: str, fix: str = "") -> NotAuthorisedError:
        name = Path(self._command[0]).name or "exec"
        hint = " ".join(fix.split())[:300]
        return NotAuthorisedError(
            f"the credential plugin {name} {why}",
            on=self._described,
            fix=hint or "run it by hand, or log in anew",
        )


def load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes, described: str) -> None:
    """ssl takes a pair from files only: one that nobody else can read, for that moment."""
    try:
        with tempfile.NamedTemporaryFile(prefix="cloudtaser-", dir=_private_directory()) as file:
            file.write(certificate.rstrip() + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    except (ssl.SSLError, OSError):
        raise ConfigError("client-certificate and client-key are no PEM pair", on=described) from None


def _private_directory() -> str | None:
    """Memory, where the machine offers it: a key is on no disk longer than it was."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - mode 0600, own name
