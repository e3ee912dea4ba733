"""Client: an image's configuration from one endpoint under one credential.

Used by `resolver`. Every document that is named by a digest is checked against it; what a tag points to gets
the digest of what was sent. (OCI distribution-spec 1.1; distribution's token authentication.)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from cloudtaser.kube.registry.auth import Authority, query_of
from cloudtaser.kube.registry.credentials import Credential
from cloudtaser.kube.registry.errors import (
    ImageForbiddenError,
    ImageNotFoundError,
    ImageUnusableError,
    RegistryBusyError,
    RegistryCutOffError,
    RegistryUnavailableError,
)
from cloudtaser.kube.registry.image import ImageConfig, Platform
from cloudtaser.kube.registry.manifests import (
    ACCEPT,
    MAX_DOCUMENT,
    Descriptor,
    Image,
    Index,
    check_digest,
    choose,
    choose_any,
    digest_of,
    parse_config,
    parse_manifest,
    platforms_of,
)
from cloudtaser.kube.registry.reference import is_digest
from cloudtaser.kube.registry.rules import Endpoint
from cloudtaser.kube.registry.transport import Answer, Transport

MAX_DOCUMENTS: Final = 12
"""Manifests and indexes that are fetched for one image."""
MAX_DEPTH: Final = 4
"""Indexes within indexes."""
_ATTEMPTS: Final = 2
_CODE: Final = re.compile(rb'"code"\s*:\s*"([A-Z_]{1,40})"')
_LONGEST_PAUSE: Final = 300.0


class Client:
    """Reads manifests and configurations. Raises ImageError."""

    def __init__(self, transport: Transport, authority: Authority, count: Callable[[str], None]) -> None:
        """`count` hears of every request: its status, or `failed`."""
        self._transport = transport
        self._authority = authority
        self._count = count

    async def digest(self, endpoint: Endpoint, selector: str, credential: Credential | None) -> str | None:
        """What a tag points to, without fetching it; None when the registry does not say."""
        answer = await self._ask("HEAD", endpoint, f"manifests/{selector}", credential)
        told = answer.headers.get("docker-content-digest", "")
        return told if is_digest(told) else None

    async def config(
        self,
        endpoint: Endpoint,
        selector: str,
        wanted: Platform,
        credential: Credential | None,
        *,
        guessed: bool = False,
    ) -> ImageConfig:
        """The configuration of what a tag or digest points to, on that platform; if that one was `guessed`
        and there is nothing for it, on the first that there is."""
        walk = _Walk(self, endpoint, credential, wanted)
        data, content_type = await self.manifest(endpoint, selector, credential)
        top = selector if is_digest(selector) else digest_of(data)
        found = await walk.descend(data, content_type, top, 0)
        if found is None and guessed:
            found = await walk.again().descend(data, content_type, top, 0)
        if found is None:
            raise ImageUnusableError(
                f"it has nothing for {wanted}, but for {walk.seen}", fix="build it for that platform as well"
            )
        digest, image = found
        blob = await self._blob(endpoint, image.config, credential)
        return parse_config(blob, digest=top, manifest_digest=digest)

    async def manifest(
        self, endpoint: Endpoint, selector: str, credential: Credential | None
    ) -> tuple[bytes, str]:
        """A manifest or index and its media type, as the registry has it."""
        answer = await self._ask("GET", endpoint, f"manifests/{selector}", credential)
        if is_digest(selector):
            check_digest(answer.body, selector, "manifest")
        else:
            told = answer.headers.get("docker-content-digest", "")
            if is_digest(told):
                check_digest(answer.body, told, "manifest")
        return answer.body, answer.headers.get("content-type", "")

    async def _blob(self, endpoint: Endpoint, wanted: Descriptor, credential: Credential | None) -> bytes:
        if wanted.size > MAX_DOCUMENT:
            raise ImageUnusableError(f"the image's configuration is larger than {MAX_DOCUMENT} bytes")
        answer = await self._ask("GET", endpoint, f"blobs/{wanted.digest}", credential, limit=wanted.size)
        check_digest(answer.body, wanted.digest, "configuration")
        return answer.body

    async def _ask(
        self,
        method: str,
        endpoint: Endpoint,
        what: str,
        credential: Credential | None,
        *,
        limit: int = MAX_DOCUMENT,
    ) -> Answer:
        """One request, again with what the registry asks for, and again if the connection broke."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer = await self._authorised(method, endpoint, what, credential, limit)
                break
            except RegistryCutOffError:
                self._count("failed")
                if attempt == _ATTEMPTS:
                    raise
            except RegistryUnavailableError:
                self._count("failed")
                raise
        self._count(str(answer.status))
        if answer.status == 200:
            return answer
        raise _error(answer, endpoint, credential)

    async def _authorised(
        self, method: str, endpoint: Endpoint, what: str, credential: Credential | None, limit: int
    ) -> Answer:
        url = f"{endpoint.base}/v2/{endpoint.repository}/{what}{query_of(endpoint.mirrored)}"
        headers = {"Accept": ACCEPT if what.startswith("manifests/") else "*/*"}
        known = self._authority.known(endpoint, credential)
        if known is not None:
            headers["Authorization"] = known.reveal_text()
        answer = await self._transport.send(method, url, headers, limit=limit)
        if answer.status != 401 or answer.moved:
            return answer
        self._authority.forget(endpoint, credential)
        shown = await self._authority.answer(endpoint, credential, answer.challenges)
        headers["Authorization"] = shown.reveal_text()
        answer = await self._transport.send(method, url, headers, limit=limit)
        if answer.status in (401, 403):
            self._authority.forget(endpoint, credential)
        return answer


class _Walk:
    """The way from an index to the manifest of one platform."""

    def __init__(
        self, client: Client, endpoint: Endpoint, credential: Credential | None, wanted: Platform
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._credential = credential
        self._wanted = wanted
        self._choose = choose
        self._left = MAX_DOCUMENTS
        self.seen = "nothing"

    def again(self) -> _Walk:
        """The same way with any platform, as long as before."""
        self._choose = choose_any
        return self

    async def descend(
        self, data: bytes, content_type: str, digest: str, depth: int
    ) -> tuple[str, Image] | None:
        document = parse_manifest(data, content_type)
        if isinstance(document, Image):
            return digest, document
        return await self._index(document, depth)

    async def _index(self, index: Index, depth: int) -> tuple[str, Image] | None:
        if depth >= MAX_DEPTH:
            raise ImageUnusableError(f"its indexes are nested deeper than {MAX_DEPTH}")
        if index.entries and self.seen == "nothing":
            self.seen = platforms_of(index)
        for entry in self._choose(index, self._wanted):
            self._left -= 1
            if self._left < 0:
                raise ImageUnusableError(f"it takes more than {MAX_DOCUMENTS} manifests to find the platform")
            data, content_type = await self._client.manifest(self._endpoint, entry.digest, self._credential)
            found = await self.descend(data, content_type or entry.media_type, entry.digest, depth + 1)
            if found is not None:
                return found
        return None


def _error(answer: Answer, endpoint: Endpoint, credential: Credential | None) -> Exception:
    code = _CODE.search(answer.body)
    told = f"{answer.status} {code[1].decode()}" if code else str(answer.status)
    who = credential.source if credential is not None else "no credentials"
    if answer.status == 429:
        return RegistryBusyError(
            f"the registry allows no more requests now ({told})",
            on=endpoint.host,
            fix="try again later, or use credentials that may ask more often",
            pause=_pause(answer),
        )
    if answer.status >= 500 or answer.status == 408:
        return RegistryUnavailableError(
            f"the registry answers {told}", on=endpoint.host, fix="try again later"
        )
    if answer.moved:
        return RegistryUnavailableError(
            f"where the registry sent us to answers {told}", on=endpoint.host, fix="try again later"
        )
    if answer.status in (401, 403):
        return ImageForbiddenError(f"the registry answers {told} to {who}", on=endpoint.host)
    if answer.status == 404:
        return ImageNotFoundError(f"the registry does not have it ({told})", on=endpoint.host)
    return ImageUnusableError(f"the registry answers {told}", on=endpoint.host)


def _pause(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    return min(float(text), _LONGEST_PAUSE) if text.isascii() and text.isdecimal() else 0.0
