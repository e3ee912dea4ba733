"""Verbs: list, watch, get, create, replace, patch, apply and delete of any kind of object.

Base of `client.KubeApi`; `watch.Reflector` lives on the first two. Objects are plain JSON here; who wants
them typed parses them (`resources`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from cloudtaser.kube.errors import AnswerTooLargeError, GoneError, KubeUnavailableError
from cloudtaser.kube.kinds import EVENTS, Kind
from cloudtaser.kube.transport import MAX_PAGE, Json, Transport

FIELD_MANAGER: Final = "cloudtaser-operator"
PAGE: Final = 250
"""Objects of one page of a list: 250 large pods are some 5 MB."""
MAX_OBJECTS: Final = 100_000
MAX_LIST_ATTEMPTS: Final = 3
"""Times that a list is begun anew because its continuation had become too old."""
WATCH_SECONDS: Final = 300
_GRACE: Final = 30.0
"""Seconds beyond a watch's own end after which silence means that the server is gone."""
_METADATA_ONE: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


class PatchType(StrEnum):
    """The media type of a patch, which is what decides its meaning."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    """Only for built-in kinds: the API server refuses it for custom resources."""
    APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list; `continuation` is empty on the last."""

    items: tuple[Json, ...]
    resource_version: str
    continuation: str = ""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """What happened to one object. A bookmark's object has nothing but a resourceVersion."""

    type: EventType
    object: Json

    @property
    def resource_version(self) -> str:
        """From where a watch goes on after this event."""
        return str((self.object.get("metadata") or {}).get("resourceVersion") or "")


class Verbs(Transport):
    """What can be done with objects. `namespace` None means all of them, or a kind that has none."""

    async def get_object(
        self, kind: Kind, namespace: str | None, name: str, *, metadata_only: bool = False
    ) -> Json:
        """The object; NotFoundError when there is none."""
        accept = f"{_METADATA_ONE},application/json" if metadata_only else "application/json"
        return await self._call(
            "GET", kind.path(namespace, name), kind.describe(namespace, name), accept=accept
        )

    async def list_page(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE,
        continuation: str = "",
        metadata_only: bool = False,
    ) -> Page:
        """One page. GoneError when the continuation is too old."""
        query = _query(
            labelSelector=label_selector,
            fieldSelector=field_selector,
            limit=str(limit),
            **{"continue": continuation},
        )
        answer = await self._call(
            "GET",
            kind.path(namespace),
            kind.describe(namespace),
            query=query,
            accept=f"{_METADATA_LIST},application/json" if metadata_only else "application/json",
            limit=MAX_PAGE,
            verb="list",
        )
        metadata = self._field(answer, "metadata", dict)
        items = answer.get("items") or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise KubeUnavailableError("the API server's list holds something else", on=self.url)
        return Page(
            tuple(items), self._field(metadata, "resourceVersion", str), str(metadata.get("continue") or "")
        )

    async def list_pages(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE,
        max_objects: int = MAX_OBJECTS,
        metadata_only: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """All objects, page by page, as of one moment: a watch goes on from the last `resource_version`.
        Pages too large to be taken come in smaller ones, so that nobody's large objects hide the others.

        GoneError when the API server forgets that moment on the way. KubeUnavailableError beyond
        `max_objects`.
        """
        continuation, seen = "", 0
        while True:
            try:
                page = await self.list_page(
                    kind,
                    namespace,
                    label_selector=label_selector,
                    field_selector=field_selector,
                    limit=limit,
                    continuation=continuation,
                    metadata_only=metadata_only,
                )
            except AnswerTooLargeError:
                if limit <= 1:
                    raise
                limit //= 2  # each page of one list may have its own limit
                continue
            seen += len(page.items)
            if seen > max_objects:
                raise KubeUnavailableError(
                    f"there are more than {max_objects} {kind.describe(namespace)}", on=self.url
                )
            continuation = page.continuation
            yield page
            if not continuation:
                return

    async def list_objects(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE,
        max_objects: int = MAX_OBJECTS,
        metadata_only: bool = False,
    ) -> Page:
        """All objects at once, as `list_pages` has them.

        Begun anew when the API server forgets that moment on the way. KubeUnavailableError beyond
        `max_objects`.
        """
        for attempt in range(MAX_LIST_ATTEMPTS):
            items: list[Json] = []
            version = ""
            pages = self.list_pages(
                kind,
                namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                limit=limit,
                max_objects=max_objects,
                metadata_only=metadata_only,
            )
            try:
                async with contextlib.aclosing(pages):
                    async for page in pages:
                        items += page.items
                        version = page.resource_version
                return Page(tuple(items), version)
            except GoneError:
                if attempt + 1 == MAX_LIST_ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def watch_objects(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
        seconds: int = WATCH_SECONDS,
        metadata_only: bool = False,
        on_open: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[WatchEvent, None]:
        """What happens after `resource_version`, bookmarks included, until the server ends it after about
        `seconds`; go on from the last event's resource_version. Close it (`contextlib.aclosing`) to leave
        it earlier. `on_open` is called once the API server has accepted the watch.

        GoneError: that version is too old, list anew. KubeUnavailableError: the stream broke.
        """
        query = _query(
            watch="1",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            timeoutSeconds=str(seconds),
            labelSelector=label_selector,
            fieldSelector=field_selector,
        )
        accept = f"{_METADATA_ONE},application/json" if metadata_only else "application/json"
        what = kind.describe(namespace)
        stream = self._stream(
            kind.path(namespace),
            what,
            query,
            seconds=seconds + _GRACE,
            accept=accept,
            verb="watch",
            on_open=on_open,
        )
        async with contextlib.aclosing(stream) as lines:
            async for line in lines:
                happened, item = line.get("type"), line.get("object")
                if not isinstance(item, dict):
                    raise KubeUnavailableError("an event of the API server holds no object", on=self.url)
                if happened == "ERROR":
                    code = item.get("code")
                    raise self._error("watch", what, code if isinstance(code, int) else 500, item)
                if happened in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"):
                    yield WatchEvent(happened, item)

    async def create_object(
        self, kind: Kind, body: Json, namespace: str | None = None, *, dry_run: bool = False
    ) -> Json:
        """Create it; ConflictError when it is there already. The namespace is the body's unless given."""
        where = namespace or _namespace(body)
        return await self._call(
            "POST",
            kind.path(where),
            kind.describe(where, _name(body)),
            _typed(kind, body),
            query=_query(fieldManager=FIELD_MANAGER, dryRun="All" if dry_run else ""),
        )

    async def replace_object(self, kind: Kind, body: Json, *, subresource: str = "") -> Json:
        """Replace it whole. ConflictError when the resourceVersion in `body` is not the current one."""
        where, name = _namespace(body), _name(body)
        return await self._call(
            "PUT",
            kind.path(where, name, subresource),
            kind.describe(where, name, subresource),
            _typed(kind, body),
            query=_query(fieldManager=FIELD_MANAGER),
        )

    async def patch_object(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        patch: Any,
        *,
        content_type: str = PatchType.MERGE,
        subresource: str = "",
        field_manager: str = FIELD_MANAGER,
        dry_run: bool = False,
    ) -> Json:
        """Patch it; the object afterwards. For a precondition put `metadata.resourceVersion` (and `uid`)
        into a merge patch, or a `test` into a JSON patch: ConflictError, KubeRefusedError if it fails."""
        return await self._call(
            "PATCH",
            kind.path(namespace, name, subresource),
            kind.describe(namespace, name, subresource),
            patch,
            query=_query(fieldManager=field_manager, dryRun="All" if dry_run else ""),
            content_type=content_type,
        )

    async def apply_object(
        self,
        kind: Kind,
        body: Json,
        *,
        field_manager: str = FIELD_MANAGER,
        force: bool = False,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Json:
        """Server-side apply: the fields in `body` become ours, those of an earlier apply that are missing go.

        ConflictError names the fields that another manager owns; `force` takes them.
        """
        where, name = _namespace(body), _name(body)
        return await self._call(
            "PATCH",
            kind.path(where, name, subresource),
            kind.describe(where, name, subresource),
            _typed(kind, body),
            query=_query(
                fieldManager=field_manager,
                force="true" if force else "",
                dryRun="All" if dry_run else "",
            ),
            content_type=PatchType.APPLY,
            verb="apply",
        )

    async def delete_object(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: Literal["", "Background", "Foreground", "Orphan"] = "",
        grace_seconds: int | None = None,
    ) -> None:
        """Delete it. NotFoundError when it is gone; ConflictError when it is not the one that `uid` and
        `resource_version` mean."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        preconditions = _query(uid=uid, resourceVersion=resource_version)
        if preconditions:
            options["preconditions"] = preconditions
        if propagation:
            options["propagationPolicy"] = propagation
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        await self._call("DELETE", kind.path(namespace, name), kind.describe(namespace, name), options)

    async def create_event(self, body: Json) -> Json:
        """Post an Event (events.k8s.io/v1) as it is; who reports something uses `events.EventRecorder`,
        which aggregates and limits."""
        return await self.create_object(EVENTS, body)


def _query(**values: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _typed(kind: Kind, body: Json) -> Json:
    return {"apiVersion": kind.api_version, "kind": kind.name, **body}


def _namespace(body: Json) -> str | None:
    return (body.get("metadata") or {}).get("namespace")


def _name(body: Json) -> str:
    metadata = body.get("metadata") or {}
    return str(metadata.get("name") or metadata.get("generateName") or "")
