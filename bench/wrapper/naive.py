"""The other yardstick for `compare.py`: a start with a secret as anybody would write it in Python."""

import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.request
from typing import Any

host, _, port = os.environ["VAULT_ADDR"].partition("://")[2].rpartition(":")
name = os.environ["BENCH_NAME"]
lookup = socket.getaddrinfo
socket.getaddrinfo = lambda _, *rest, **more: lookup(host, *rest, **more)  # in /etc/hosts' place
context = ssl.create_default_context(cadata=os.environ["CLOUDTASER_CA"])


def ask(path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(f"https://{name}:{port}/v1/{path}", body, headers or {})
    with urllib.request.urlopen(request, context=context) as answer:
        return json.load(answer)


with open(os.environ["VAULT_JWT_FILE"]) as file:
    login = json.dumps({"role": "default", "jwt": file.read().strip()}).encode()
token = ask("auth/jwt/login", login)["auth"]["client_token"]
secret = ask(os.environ["BENCH_PATH"], headers={"X-Vault-Token": token})["data"]["data"]
sys.exit(subprocess.run(sys.argv[1:], env={**os.environ, "VALUE": secret["value"]}).returncode)
