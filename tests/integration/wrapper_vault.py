"""A real OpenBao for the wrapper's tests: a dev server with what pods need, and an administrator's hand."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey

from cloudtaser.demo.openbao import DevServer
from tests.unit.wrapper.launch import Wrapped, run

AUDIENCE = "cloudtaser:0ad50c05"
QUICK = {"CLOUDTASER_ROTATION_INTERVAL": "0.3", "CLOUDTASER_ROTATION_DEBOUNCE": "0.1"}
POLICY = """
path "secret/data/*" { capabilities = ["read"] }
path "secret/metadata/*" { capabilities = ["read"] }
path "nometa/data/*" { capabilities = ["read"] }
path "kv1/*" { capabilities = ["read"] }
path "database/creds/*" { capabilities = ["read"] }
path "secret/data/forbidden" { capabilities = ["deny"] }
"""
PRINT_AND_WAIT = "trap 'exit 0' TERM; echo \"pid=$$ value=$VALUE\"; while :; do sleep 0.02; done"


class Vault:
    """A dev server with a KV mount, JWT logins and a key to sign them, and an administrator's hand."""

    def __init__(self, server: DevServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.key = ECKey.generate_key("P-256")
        self.api("POST", "sys/policies/acl/pod", {"policy": POLICY})
        for mount, version in (("nometa", "2"), ("kv1", "1")):
            self.api("POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": version}})
        self.api("POST", "sys/auth/jwt", {"type": "jwt"})
        pem = self.key.as_pem(private=False).decode()
        self.api("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [pem]})
        self.role("default", token_ttl="1h")

    def role(self, name: str, **more: object) -> None:
        base = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": [AUDIENCE],
            "token_policies": ["pod"],
        }
        self.api("POST", f"auth/jwt/role/{name}", base | more)

    def api(self, method: str, path: str, body: object = None, token: str = "") -> Any:
        request = urllib.request.Request(
            f"{self.server.address}/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": token or self.server.root_token.reveal_text()},
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    content = response.read()
                    return json.loads(content) if content else {}
            except urllib.error.HTTPError as error:
                # A fresh KV mount says that it is being upgraded for its first moments.
                message = error.read()
                if b"pgrading" not in message or time.monotonic() > deadline:
                    error.add_note(message.decode())
                    raise

    def put(self, path: str, /, **fields: object) -> None:
        self.api("POST", path, {"data": fields})

    def token_file(self, name: str = "token", **claims: object) -> Path:
        """A pod's projected token, as the kubelet would leave it."""
        now = int(time.time())
        content = {
            "sub": "system:serviceaccount:shop:app",
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + 600,
        }
        file = self.directory / name
        file.write_text(jwt.encode({"alg": "ES256"}, content | claims, self.key) + "\n")
        return file

    def settings(self, paths: str, env_map: str = "", **more: str) -> dict[str, str]:
        base = {
            "VAULT_ADDR": self.server.address,
            "VAULT_AUTH_MOUNT_PATH": "auth/jwt",
            "VAULT_JWT_FILE": str(self.token_file()),
            "CLOUDTASER_SECRET_PATHS": paths,
            "CLOUDTASER_ENV_MAP": env_map,
        }
        return base | more

    def tokens(self) -> set[str]:
        """Accessors of the tokens that pods hold."""
        accessors = self.api("LIST", "auth/token/accessors")["data"]["keys"]
        return {accessor for accessor in accessors if self._is_a_pods(accessor)}

    def _is_a_pods(self, accessor: str) -> bool:
        try:
            found = self.api("POST", "auth/token/lookup-accessor", {"accessor": accessor})
        except urllib.error.HTTPError:
            return False
        return bool(found["data"]["path"] == "auth/jwt/login")

    def leases(self, prefix: str) -> list[str]:
        try:
            keys: list[str] = self.api("LIST", f"sys/leases/lookup/{prefix}")["data"]["keys"]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return []
        return keys

    def revoke_all(self) -> None:
        for accessor in self.tokens():
            self.api("POST", "auth/token/revoke-accessor", {"accessor": accessor})


def environment_of(settings: dict[str, str]) -> dict[str, str]:
    """What an application under the wrapper finds."""
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    done = run("--", sys.executable, "-c", code, settings=settings | {"LC_ALL": "C.UTF-8"}, check_code=0)
    environment: dict[str, str] = json.loads(done.stdout)
    return environment


def error_of(settings: dict[str, str], code: int) -> str:
    """The one line with which the wrapper stops."""
    done = run("--", "echo", "started", settings=settings, check_code=code)
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if '"level":"error"' in line]
    return str(json.loads(line)["event"])


def started(wrapped: Wrapped) -> tuple[int, str]:
    """Process id and value of an application that says so."""
    pid, value = wrapped.line().split(" ", 1)
    return int(pid.removeprefix("pid=")), value.removeprefix("value=")
