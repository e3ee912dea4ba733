"""A real image registry, as a cloud's customers have one: outside the cluster, under a name, with TLS of a
private CA.

`node` starts it and tells containerd of the CA; tests push images that they made. Debian's `docker-registry`
(CNCF Distribution) on this machine's end of the cable, port 443, so that image names carry no port.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from cloudtaser.demo.process import PartProcess
from cloudtaser.errors import UnavailableError
from tests.cluster.identities import Identities
from tests.cluster.images import MANIFEST_TYPE, Image, digest

HOST: Final = "registry.cloud.test"
_PORT: Final = 443
_READY_TIMEOUT: Final = 60.0  # seconds
_TIMEOUT: Final = 60.0


class Registry:
    """One registry that anybody may pull from and push to, listening at `address`."""

    def __init__(self, directory: Path, address: str, outside: Identities) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.address = address
        self.url = f"https://{address}:{_PORT}"
        self.ca = outside.ca
        certificate, key = outside.server("registry", [HOST, address])
        self._context = ssl.create_default_context(cafile=str(self.ca))
        config = directory / "registry.json"  # which is YAML too
        config.write_text(
            json.dumps(
                {
                    "version": "0.1",
                    "log": {"level": "warn", "accesslog": {"disabled": False}},
                    "storage": {
                        "filesystem": {"rootdirectory": str(directory / "storage")},
                        "delete": {"enabled": True},
                    },
                    "http": {
                        "addr": f"{address}:{_PORT}",
                        "tls": {"certificate": str(certificate), "key": str(key)},
                    },
                }
            )
        )
        self._process = PartProcess(
            "docker-registry", ["docker-registry", "serve", str(config)], directory / "registry.log"
        )

    async def start(self) -> None:
        """Until it answers."""
        self._process.start()
        await self._process.wait_until(self._answers, "answering", _READY_TIMEOUT)

    async def stop(self) -> None:
        """End it; what was pushed stays in its directory."""
        await self._process.stop()

    async def push(self, name: str, image: Image) -> str:
        """Push `image` as `name` (repository:tag); the reference by which pods name it."""
        await asyncio.to_thread(self._push, name, image)
        return f"{HOST}/{name}"

    def hosts_file(self) -> str:
        """What containerd reads of this registry (containerd, docs/hosts.md)."""
        return (
            f'server = "https://{HOST}"\n'
            f'[host."{self.url}"]\n'
            f'  capabilities = ["pull", "resolve"]\n'
            f'  ca = "{self.ca}"\n'
        )

    def _push(self, name: str, image: Image) -> None:
        repository, _, tag = name.rpartition(":")
        base = f"{self.url}/v2/{repository}"
        for blob in image.blobs:
            if self._request("HEAD", f"{base}/blobs/{digest(blob)}", missing=True) is None:
                place = self._request("POST", f"{base}/blobs/uploads/") or ""
                mark = "&" if "?" in place else "?"
                self._request("PUT", f"{place}{mark}digest={digest(blob)}", blob, "application/octet-stream")
        self._request("PUT", f"{base}/manifests/{tag}", image.manifest, MANIFEST_TYPE)

    def _request(
        self, method: str, url: str, body: bytes = b"", content_type: str = "", *, missing: bool = False
    ) -> str | None:
        """The answer's `Location`, "" without one; None for 404 where something may be `missing`."""
        request = urllib.request.Request(url, data=body or None, method=method)
        if content_type:
            request.add_header("Content-Type", content_type)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT, context=self._context) as answer:
                return str(answer.headers.get("Location", ""))
        except urllib.error.HTTPError as error:
            if missing and error.code == 404:
                return None
            raise UnavailableError(f"the registry refused {method}: {error.read()!r}", on=url) from None

    async def _answers(self) -> bool:
        try:
            await asyncio.to_thread(self._request, "GET", f"{self.url}/v2/")
        except (UnavailableError, OSError):
            return False
        return True
