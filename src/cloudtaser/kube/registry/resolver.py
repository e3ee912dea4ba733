"""Resolver: an image's configuration, from what is known or from its registry.

The facade, used by the webhook as `Entrypoints`. What is found is kept under the credential with which it was
found, so that a namespace is answered from the cache only under credentials that its pods may use; an entry
says which digest a tag has, and is proved again from time to time (a HEAD, as a rule).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from cloudtaser.kube.registry.auth import Authority
from cloudtaser.kube.registry.cache import BusyError, Cache, Flights
from cloudtaser.kube.registry.client import Client
from cloudtaser.kube.registry.cloud import CloudIdentity
from cloudtaser.kube.registry.clouds import make_cloud
from cloudtaser.kube.registry.credentials import Credential, Entry, distinct, matching
from cloudtaser.kube.registry.errors import (
    ImageError,
    ImageForbiddenError,
    ImageNotFoundError,
    RegistryBusyError,
    RegistryUnavailableError,
    RegistryUnreachableError,
)
from cloudtaser.kube.registry.image import ImageConfig, ImageRequest, Platform
from cloudtaser.kube.registry.metrics import RegistryMetrics
from cloudtaser.kube.registry.own import OwnCredentials
from cloudtaser.kube.registry.platforms import local, normal
from cloudtaser.kube.registry.pull_secrets import PullSecrets, PullSecretSource, ReadSecret
from cloudtaser.kube.registry.reference import Reference
from cloudtaser.kube.registry.rules import Endpoint
from cloudtaser.kube.registry.settings import RegistrySettings
from cloudtaser.kube.registry.transport import Transport
from cloudtaser.net.proxy import DIRECT, Proxies

MAX_WEIGHT: Final = 16 * 1024 * 1024
"""Bytes, about, of everything that is kept."""
MAX_PULL_SECRETS: Final = 32
"""Pull secrets of one pod that are looked at."""
_ENTRY: Final = 512
_NAME_INSTEAD: Final = "or name the container's command in the pod"

Content = tuple[str, str, str, Platform, bool]
"""Endpoint, repository, tag or digest, platform, and whether that was a guess."""
Key = tuple[Content, bytes]
"""What was asked, and who asked."""


@dataclass(frozen=True, slots=True)
class Known:
    """An answer of one endpoint to one credential: good until `fresh`, and of use until `stale`."""

    answer: ImageConfig | ImageError
    fresh: float
    stale: float
    when_away: bool = False
    """It is an older answer, kept because the registry is away."""


@dataclass(frozen=True, slots=True)
class _Question:
    endpoint: Endpoint
    selector: str
    by_digest: bool
    platform: Platform
    guessed: bool
    credential: Credential | None

    @property
    def key(self) -> Key:
        who = self.credential.identity if self.credential is not None else b""
        return self.content(self.selector), who

    def content(self, digest: str) -> Content:
        return self.endpoint.base, self.endpoint.repository, digest, self.platform, self.guessed


class ImageResolver:
    """Answers for images. Give it to the webhook; `close` it in the end."""

    def __init__(
        self,
        settings: RegistrySettings,
        metrics: RegistryMetrics,
        *,
        read_secret: ReadSecret | None = None,
        proxies: Proxies = DIRECT,
        platform: Platform | None = None,
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`read_secret` gets one Secret's JSON from the API server; None where no pull secret is granted.
        `platform` is the one to assume where a pod does not say; in `environment` a cloud leaves word of our
        identity there. ConfigError for what cannot be used."""
        bounds = self._bounds = settings.bounds
        self._metrics = metrics
        self._clock = clock
        self._platform = platform or local()
        self._rules = settings.make_rules()
        self._own = OwnCredentials(settings.docker_config, settings.docker_config_namespaces)
        self._secrets: PullSecretSource = PullSecrets(
            read_secret or _no_secret,
            settings.pull_secrets if read_secret is not None else frozenset(),
            seconds=bounds.secret_seconds,
            clock=clock,
        )
        cloud, self._services = make_cloud(settings, environment, proxies)
        self._cloud = CloudIdentity(cloud, settings.docker_config_namespaces, clock=clock)
        self._transport = Transport(self._rules, bounds, ca=settings.ca, proxies=proxies)
        self._client = Client(
            self._transport,
            Authority(self._rules, self._transport, clock=clock),
            lambda status: metrics.requests.labels(status).inc(),
        )
        self._known: Cache[Key, Known] = Cache(bounds.entries, MAX_WEIGHT)
        self._contents: Cache[Content, ImageConfig] = Cache(bounds.entries, MAX_WEIGHT)
        self._pauses: Cache[tuple[str, bytes], float] = Cache(bounds.entries, bounds.entries)
        self._flights: Flights[Key, Known] = Flights(bounds.concurrent, bounds.concurrent_of_namespace)
        metrics.observe(cached=lambda: len(self._known), in_flight=lambda: len(self._flights))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End what is under way and close all connections."""
        await self._flights.close()
        await self._secrets.close()
        await self._cloud.close()
        if self._services is not None:
            await self._services.close()
        await self._transport.close()

    async def resolve(self, request: ImageRequest) -> ImageConfig:
        """See `Entrypoints`. Takes at most the settings' timeout."""
        try:
            async with asyncio.timeout(self._bounds.timeout):
                config, outcome = await self._resolve(request)
        except ImageError as error:
            self._failed(error)
            raise
        except TimeoutError:
            late = RegistryUnavailableError(
                f"no answer about image {request.image[:200]} within {self._bounds.timeout:g} s",
                fix=f"it may be known at the next attempt; try again, {_NAME_INSTEAD}",
            )
            self._failed(late)
            raise late from None
        self._metrics.lookups.labels(outcome).inc()
        return config

    def _failed(self, error: ImageError) -> None:
        self._metrics.lookups.labels("error").inc()
        self._metrics.errors.labels(error.reason).inc()

    async def _resolve(self, request: ImageRequest) -> tuple[ImageConfig, str]:
        reference = Reference.parse(request.image)
        wanted = normal(request.platform or self._platform)
        entries, problems = await self._pull_secrets(request)
        first: ImageError | None = None
        for endpoint in self._rules.endpoints(reference):
            first = None
            for credential in await self._credentials(endpoint, entries, request.namespace, problems):
                question = _Question(
                    endpoint,
                    reference.selector,
                    reference.digest is not None,
                    wanted,
                    request.platform is None,
                    credential,
                )
                try:
                    return await self._answer(question, request.namespace)
                except ImageError as error:
                    first = first or error
                    if not isinstance(error, ImageForbiddenError | ImageNotFoundError | RegistryBusyError):
                        break
        assert first is not None  # the registry itself is an endpoint, nobody a credential
        raise _explained(first, reference, problems)

    async def _pull_secrets(self, request: ImageRequest) -> tuple[list[Entry], list[str]]:
        entries: list[Entry] = []
        problems: list[str] = []
        for name in dict.fromkeys(request.pull_secrets[:MAX_PULL_SECRETS]):
            secret = await self._secrets.read(request.namespace, name)
            entries.extend(secret.entries)
            if secret.problem:
                problems.append(secret.problem)
        return entries, problems

    async def _credentials(
        self, endpoint: Endpoint, entries: list[Entry], namespace: str, problems: list[str]
    ) -> list[Credential | None]:
        """In the kubelet's order: the pod's, then ours; and as nobody in the end."""
        found = [
            *matching(entries, endpoint.name),
            *matching(self._own.entries(namespace), endpoint.name),
        ]
        cloud = await self._cloud.credential(endpoint.host, namespace)
        if isinstance(cloud, Credential):
            found.append(cloud)
        elif cloud is not None:
            problems.append(cloud)
        return [*distinct(found), None]

    async def _answer(self, question: _Question, namespace: str) -> tuple[ImageConfig, str]:
        key = question.key
        known = self._known.get(key)
        outcome = "hit"
        if known is None or self._clock() >= known.fresh:
            outcome = "miss"
            try:
                known = await self._flights.join(key, namespace, lambda: self._ask(question))
            except BusyError:
                self._metrics.busy.inc()
                if (
                    known is not None
                    and isinstance(known.answer, ImageConfig)
                    and self._clock() < known.stale
                ):
                    return known.answer, "stale"
                raise RegistryUnavailableError(
                    "too many images are being looked up at once", fix="try again in a few seconds"
                ) from None
        if isinstance(known.answer, ImageError):
            raise _copy(known.answer)
        return known.answer, "stale" if known.when_away else outcome

    async def _ask(self, question: _Question) -> Known:
        """Ask the registry, and keep what it says; the work behind one or many look-ups."""
        began = self._clock()
        before = self._known.get(question.key)
        answer: ImageConfig | ImageError
        try:
            async with asyncio.timeout(self._bounds.work_timeout):
                self._respect_pause(question)
                answer = await self._proved(question, before)
        except ImageError as error:
            answer = _copy(error)
        except TimeoutError:
            answer = RegistryUnavailableError(
                f"the registry took longer than {self._bounds.work_timeout:g} s", on=question.endpoint.host
            )
        now = self._clock()
        self._metrics.seconds.observe(max(0.0, now - began))
        known = self._judged(question, answer, before, now)
        size = 0
        if isinstance(known.answer, ImageConfig):
            size = _size(known.answer)
            self._contents.put(question.content(known.answer.digest), known.answer, _ENTRY + size)
        self._known.put(question.key, known, _ENTRY + size)
        return known

    async def _proved(self, question: _Question, before: Known | None) -> ImageConfig:
        """The configuration, fetched only when a HEAD does not show that it is known."""
        endpoint, credential = question.endpoint, question.credential
        digest: str | None = None
        if question.by_digest:
            if self._contents.get(question.content(question.selector)) is not None:
                await self._client.digest(endpoint, question.selector, credential)
                digest = question.selector
        elif before is not None and isinstance(before.answer, ImageConfig):
            digest = await self._client.digest(endpoint, question.selector, credential)
        content = self._contents.get(question.content(digest)) if digest is not None else None
        return content or await self._client.config(
            endpoint, question.selector, question.platform, credential, guessed=question.guessed
        )

    def _judged(
        self, question: _Question, answer: ImageConfig | ImageError, before: Known | None, now: float
    ) -> Known:
        """How long an answer counts; an older one counts on while the registry is away."""
        bounds = self._bounds
        if isinstance(answer, ImageConfig):
            fresh = now + (bounds.digest_seconds if question.by_digest else bounds.tag_seconds)
            return Known(answer, fresh, now + bounds.stale_seconds)
        if not isinstance(answer, RegistryUnavailableError):
            return Known(answer, now + bounds.refused_seconds, now)
        again = now + bounds.refused_seconds / 3
        self._pause(question, answer, again)
        if before is not None and isinstance(before.answer, ImageConfig) and now < before.stale:
            return Known(before.answer, again, before.stale, when_away=True)
        return Known(answer, again, now)

    def _pause(self, question: _Question, error: RegistryUnavailableError, again: float) -> None:
        """Other images of an endpoint need not find out by themselves that it is away or has enough of us."""
        who = question.credential.identity if question.credential is not None else b""
        if isinstance(error, RegistryBusyError) and error.pause > 0:
            self._pauses.put((question.endpoint.base, who), self._clock() + error.pause)
        elif isinstance(error, RegistryUnreachableError):
            self._pauses.put((question.endpoint.base, b"*"), again)

    def _respect_pause(self, question: _Question) -> None:
        who = question.credential.identity if question.credential is not None else b""
        for key in ((question.endpoint.base, who), (question.endpoint.base, b"*")):
            until = self._pauses.get(key)
            if until is None:
                continue
            left = until - self._clock()
            if left > 0:
                raise RegistryUnavailableError(
                    f"{_PAUSED} {left:.0f} s", on=question.endpoint.host, fix="try again then"
                )
            self._pauses.drop(key)


_PAUSED: Final = "the registry could not be reached or wanted no more requests; it is left alone for another"


async def _no_secret(namespace: str, name: str) -> dict[str, object]:
    raise AssertionError("no pull secret is granted")


def _size(config: ImageConfig) -> int:
    words = (*config.entrypoint, *config.cmd, *config.env_names, config.working_dir, config.user)
    return sum(map(len, words)) + 64 * len(words)


def _copy(error: ImageError) -> ImageError:
    """The same error without its history: one object raised again and again would grow by every traceback."""
    copy = type(error)(error.what, on=error.on, fix=error.fix)
    if isinstance(error, RegistryBusyError) and isinstance(copy, RegistryBusyError):
        copy.pause = error.pause
    return copy


def _explained(error: ImageError, reference: Reference, problems: list[str]) -> ImageError:
    """The error with the image's name and with what to do about it; a warning in kubectl has 256 letters."""
    copy = _copy(error)
    copy.what = f"{reference}: {error.what}"
    copy.on = "" if error.on == reference.host else error.on
    if isinstance(error, ImageForbiddenError | ImageNotFoundError):
        if problems:
            copy.fix = f"{'; '.join(problems[:3])}; {_NAME_INSTEAD}"
        elif not error.fix:
            other = (
                f"correct its name or give the pod a pull secret for {reference.host} that is listed in"
                " operator.registry.pullSecrets"
            )
            copy.fix = f"{other}, {_NAME_INSTEAD}"
    return copy
