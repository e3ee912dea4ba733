"""Manifests, indexes and configurations: what a registry's documents say.

Used by `client`, which fetches them. Pure: bytes in, plain data out. A document is read strictly, and must
be what its media type says it is: two readers that take one document for two kinds would see two images
(CVE-2021-41190). ImageUnusableError names what is wrong; the caller adds the image. (OCI image-spec 1.1,
Docker's image manifest version 2, schema 2.)
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.errors import ProtocolError
from cloudtaser.kube.registry.errors import ImageUnusableError
from cloudtaser.kube.registry.image import ImageConfig, Platform
from cloudtaser.kube.registry.platforms import acceptable, normal
from cloudtaser.kube.registry.reference import is_digest
from cloudtaser.wire.strict_json import parse_object

MAX_DOCUMENT: Final = 2 * 1024 * 1024
"""Bytes of a manifest or of a configuration; real ones have kilobytes. Many may be read at once."""
MAX_ELEMENTS: Final = 65536
"""Values in one document: a list of lists takes fifty times its size in memory."""
MAX_ENTRIES: Final = 1024
"""Manifests in one index."""
MAX_WORDS: Final = 256 * 1024
"""Characters of entrypoint, command and names of variables together: what one entry of the cache can cost."""

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES: Final = frozenset((OCI_INDEX, DOCKER_LIST))
IMAGES: Final = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
ACCEPT: Final = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))
_CONFIGS: Final = frozenset(
    ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
)
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1"
_UNTYPED: Final = frozenset(
    ("", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain")
)
_ATTESTATION: Final = ("vnd.docker.reference.type", "attestation-manifest")
_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A document that another one points to."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest of one platform: where its configuration is."""

    config: Descriptor


@dataclass(frozen=True, slots=True)
class Index:
    """Manifests for several platforms, what is no image left out."""

    entries: tuple[Descriptor, ...]


def digest_of(data: bytes, like: str = "sha256:") -> str:
    """The digest of `data`, by the algorithm of the digest `like`."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def check_digest(data: bytes, digest: str, what: str) -> None:
    """ImageUnusableError unless `data` is what `digest` names."""
    if not hmac.compare_digest(digest_of(data, digest), digest):
        raise ImageUnusableError(
            f"the registry sent another {what} than the one of digest {digest[:19]}…",
            fix="the registry, or something on the way to it, is broken or hostile: do not run the image",
        )


def parse_manifest(data: bytes, content_type: str) -> Image | Index:
    """What the document is, by the registry's Content-Type and its own mediaType, which must agree."""
    fields = _object(data, "manifest")
    media_type = _media_type(fields, content_type)
    if media_type in INDEXES:
        if "layers" in fields or "config" in fields or "fsLayers" in fields:
            raise ImageUnusableError("the registry's index is a manifest at the same time")
        return Index(_entries(fields.get("manifests")))
    if "manifests" in fields or "fsLayers" in fields:
        raise ImageUnusableError("the registry's manifest is an index at the same time")
    config = _descriptor(fields.get("config"))
    if config is None:
        raise ImageUnusableError("the registry's manifest names no configuration")
    if config.media_type not in _CONFIGS:
        raise ImageUnusableError(
            f"it holds no container but {_shown(config.media_type)}", fix="correct the container's image"
        )
    return Image(config)


def choose_any(index: Index, wanted: Platform) -> tuple[Descriptor, ...]:
    """The entries to look into when `wanted` was a guess and nothing fits it: those of the same system."""
    return tuple(entry for entry in index.entries if entry.platform is None or entry.platform.os == wanted.os)


def choose(index: Index, wanted: Platform) -> tuple[Descriptor, ...]:
    """The entries to look into for a node of that platform, in order: manifests that fit it, the best first,
    then nested indexes that may hold one."""
    order = {platform: rank for rank, platform in enumerate(acceptable(wanted))}
    architecture = normal(wanted).architecture
    own: list[tuple[int, Descriptor]] = []
    others: list[tuple[int, Descriptor]] = []
    nested: list[Descriptor] = []
    for entry in index.entries:
        platform = normal(entry.platform) if entry.platform is not None else None
        rank = order.get(platform) if platform is not None else None
        if entry.media_type in INDEXES:
            if platform is None or rank is not None:
                nested.append(entry)
        elif platform is not None and rank is not None:
            (own if platform.architecture == architecture else others).append((rank, entry))
    if not own and not others and not nested and len(index.entries) == 1:
        # an index of one manifest that says nothing of a platform is that manifest
        return index.entries if index.entries[0].platform is None else ()
    # stable: of equals the first, as containerd does
    return (*_by_rank(own), *nested, *_by_rank(others))


def platforms_of(index: Index) -> str:
    """What an index has, for an error."""
    names = dict.fromkeys(str(entry.platform) for entry in index.entries if entry.platform is not None)
    shown = ", ".join(list(names)[:_SHOWN])
    return f"{shown}, …" if len(names) > _SHOWN else shown or "nothing"


def parse_config(data: bytes, *, digest: str, manifest_digest: str) -> ImageConfig:
    """The configuration's part that a runtime starts a container by."""
    fields = _object(data, "configuration").get("config")
    if fields is None:
        fields = {}
    if not isinstance(fields, dict):
        raise ImageUnusableError("the image's configuration is not understood: config")
    environment = _words(fields, "Env")
    config = ImageConfig(
        digest=digest,
        manifest_digest=manifest_digest,
        entrypoint=_words(fields, "Entrypoint"),
        cmd=_words(fields, "Cmd"),
        working_dir=_text(fields, "WorkingDir"),
        user=_text(fields, "User"),
        env_names=tuple(dict.fromkeys(text.partition("=")[0] for text in environment)),
    )
    size = sum(map(len, (*config.entrypoint, *config.cmd, *config.env_names)))
    if size + len(config.working_dir) + len(config.user) > MAX_WORDS:
        raise ImageUnusableError("the image's entrypoint, command and variables are too long")
    if any("\0" in word for word in (*config.entrypoint, *config.cmd)):
        raise ImageUnusableError("the image's entrypoint holds a zero byte")
    return config


def _object(data: bytes, what: str) -> dict[str, Any]:
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_ELEMENTS:
        raise ImageUnusableError(f"the image's {what} has more than {MAX_ELEMENTS} values")
    try:
        return parse_object(data, what=f"the image's {what}", limit=MAX_DOCUMENT)
    except ProtocolError as error:
        raise ImageUnusableError(error.what) from None


def _by_rank(entries: list[tuple[int, Descriptor]]) -> list[Descriptor]:
    return [entry for _, entry in sorted(entries, key=lambda pair: pair[0])]


def _media_type(fields: Mapping[str, Any], content_type: str) -> str:
    told = content_type.partition(";")[0].strip().lower()
    own = fields.get("mediaType", "")
    if not isinstance(own, str):
        raise ImageUnusableError("the registry's manifest has a media type that is no text")
    if told.startswith(_SCHEMA_1) or own.startswith(_SCHEMA_1) or fields.get("schemaVersion") == 1:
        raise ImageUnusableError(
            "the registry holds it in Docker's schema 1, which containerd no longer runs either",
            fix="push the image anew",
        )
    if told in _UNTYPED:
        told = own or (OCI_INDEX if "manifests" in fields else OCI_MANIFEST)
    if own and own != told:
        raise ImageUnusableError(f"the registry calls it {_shown(told)}, itself {_shown(own)}")
    if told not in INDEXES and told not in IMAGES:
        raise ImageUnusableError(
            f"the registry sent no image but {_shown(told)}", fix="correct the container's image"
        )
    return told


def _entries(value: object) -> tuple[Descriptor, ...]:
    if not isinstance(value, list):
        raise ImageUnusableError("the registry's index lists no manifests")
    if len(value) > MAX_ENTRIES:
        raise ImageUnusableError(f"the registry's index lists more than {MAX_ENTRIES} manifests")
    found = []
    for item in value:
        entry = _descriptor(item)
        if entry is None:
            raise ImageUnusableError("the registry's index has an entry that is not understood")
        annotations = item.get("annotations")
        if isinstance(annotations, dict) and annotations.get(_ATTESTATION[0]) == _ATTESTATION[1]:
            continue
        if entry.platform is not None and "unknown" in (entry.platform.os, entry.platform.architecture):
            continue
        if entry.media_type in INDEXES or entry.media_type in IMAGES:
            found.append(entry)
    return tuple(found)


def _descriptor(value: object) -> Descriptor | None:
    if not isinstance(value, dict):
        return None
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or not isinstance(digest, str) or not is_digest(digest):
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        return None
    return Descriptor(media_type, digest, size, _platform(value.get("platform")))


def _platform(value: object) -> Platform | None:
    if not isinstance(value, dict):
        return None
    os, architecture, variant = value.get("os"), value.get("architecture"), value.get("variant")
    if not isinstance(os, str) or not isinstance(architecture, str):
        return None
    return Platform(os, architecture, variant if isinstance(variant, str) and variant else None)


def _words(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ImageUnusableError(f"the image's configuration is not understood: {name}")
    if not all(isinstance(word, str) for word in value):
        raise ImageUnusableError(f"the image's configuration is not understood: {name}")
    return tuple(value)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ImageUnusableError(f"the image's configuration is not understood: {name}")
    return value


def _shown(text: str) -> str:
    return repr(text[:80])
