"""Manifests: a registry's documents are read one way, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.kube.registry.errors import ImageUnusableError
from cloudtaser.kube.registry.image import Platform
from cloudtaser.kube.registry.manifests import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    Index,
    check_digest,
    choose,
    digest_of,
    parse_config,
    parse_manifest,
)

SHA = "sha256:" + "a" * 64
CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": SHA, "size": 2}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": []}
ENTRY: dict[str, Any] = {"mediaType": OCI_MANIFEST, "digest": SHA, "size": 2}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [ENTRY]}
AMD64 = Platform("linux", "amd64")


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name != key}


def index_of(*entries: dict[str, Any]) -> Index:
    document = parse_manifest(encoded(INDEX | {"manifests": list(entries)}), OCI_INDEX)
    assert isinstance(document, Index)
    return document


def entry(
    name: str, architecture: str | None = None, variant: str = "", kind: str = OCI_MANIFEST, **further: object
) -> dict[str, Any]:
    platform = {"os": "linux", "architecture": architecture, "variant": variant}
    fields = ENTRY | {"mediaType": kind, "digest": f"sha256:{name * 64}"[:71], **further}
    return fields if architecture is None else fields | {"platform": platform}


def chosen(index: Index, wanted: Platform = AMD64) -> list[str]:
    return [each.digest[7] for each in choose(index, wanted)]


@pytest.mark.parametrize(
    ("document", "content_type", "kind"),
    [
        (MANIFEST, OCI_MANIFEST, Image),
        (without(MANIFEST, "mediaType"), OCI_MANIFEST, Image),
        (without(MANIFEST, "mediaType"), "application/json", Image),
        (MANIFEST, "", Image),
        (MANIFEST, f"{OCI_MANIFEST}; charset=utf-8", Image),
        (MANIFEST | {"mediaType": DOCKER_MANIFEST}, DOCKER_MANIFEST, Image),
        (INDEX, OCI_INDEX, Index),
        (INDEX, "text/plain", Index),
        (without(INDEX, "mediaType"), "application/octet-stream", Index),
        (INDEX | {"mediaType": DOCKER_LIST}, DOCKER_LIST, Index),
    ],
)
def test_a_document_is_what_both_say_that_it_is(
    document: dict[str, Any], content_type: str, kind: type[object]
) -> None:
    assert isinstance(parse_manifest(encoded(document), content_type), kind)


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        (MANIFEST, OCI_INDEX),
        (INDEX, OCI_MANIFEST),
        (without(INDEX, "mediaType"), OCI_MANIFEST),
        (MANIFEST, DOCKER_MANIFEST),
        (MANIFEST | {"manifests": []}, OCI_MANIFEST),
        (INDEX | {"config": CONFIG}, OCI_INDEX),
        (INDEX | {"layers": []}, OCI_INDEX),
        (MANIFEST, "text/html"),
        (MANIFEST | {"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (MANIFEST | {"schemaVersion": 1, "fsLayers": []}, "application/json"),
        (without(MANIFEST, "config"), OCI_MANIFEST),
        (MANIFEST | {"config": CONFIG | {"digest": "sha256:../../x"}}, OCI_MANIFEST),
        (MANIFEST | {"config": CONFIG | {"digest": "md5:abc"}}, OCI_MANIFEST),
        (MANIFEST | {"config": CONFIG | {"size": -1}}, OCI_MANIFEST),
        (MANIFEST | {"config": CONFIG | {"size": True}}, OCI_MANIFEST),
        (MANIFEST | {"config": CONFIG | {"mediaType": "application/vnd.oci.empty.v1+json"}}, OCI_MANIFEST),
        (MANIFEST | {"mediaType": 1}, OCI_MANIFEST),
        (INDEX | {"manifests": {}}, OCI_INDEX),
        (INDEX | {"manifests": [1]}, OCI_INDEX),
        (INDEX | {"manifests": [ENTRY] * 1025}, OCI_INDEX),
        ([], OCI_INDEX),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(document: object, content_type: str) -> None:
    with pytest.raises(ImageUnusableError):
        parse_manifest(encoded(document), content_type)


def test_duplicate_keys_are_refused() -> None:
    with pytest.raises(ImageUnusableError, match="not strict JSON"):
        parse_manifest(b'{"schemaVersion":2,"config":{},"config":{}}', OCI_MANIFEST)


@given(st.binary(max_size=300), st.sampled_from(["", OCI_INDEX, OCI_MANIFEST]))
def test_no_bytes_do_harm(data: bytes, content_type: str) -> None:
    for read in (
        lambda: parse_manifest(data, content_type),
        lambda: parse_config(data, digest=SHA, manifest_digest=SHA),
    ):
        try:
            read()
        except ImageUnusableError:
            pass


def test_a_document_of_many_values_is_not_unpacked() -> None:
    for data in (b"[" + b"[]," * 70_000 + b"[]]", b'{"a":[' + b"1," * 70_000 + b"1]}"):
        with pytest.raises(ImageUnusableError, match="more than 65536 values"):
            parse_manifest(data, OCI_INDEX)
        with pytest.raises(ImageUnusableError, match="more than 65536 values"):
            parse_config(data, digest=SHA, manifest_digest=SHA)


def test_the_best_variant_comes_first_and_of_equals_the_first() -> None:
    index = index_of(
        entry("0", "386"), entry("1", "amd64", "v2"), entry("2", "amd64"), entry("3", "amd64", "v1")
    )
    assert chosen(index) == ["2", "3", "0"]
    assert chosen(index, Platform("linux", "amd64", "v3")) == ["1", "2", "3", "0"]


def test_nested_indexes_are_looked_into_before_another_architecture_is_taken() -> None:
    index = index_of(
        entry("0", "386"),
        entry("1", kind=OCI_INDEX),
        entry("2", "arm64", kind=OCI_INDEX),
        entry("3", "s390x"),
    )
    assert chosen(index) == ["1", "0"]


def test_attestations_unknown_platforms_and_artifacts_are_left_out() -> None:
    index = index_of(
        entry("0", "amd64", annotations={"vnd.docker.reference.type": "attestation-manifest"}),
        entry("1", "unknown"),
        entry("2", "amd64", kind="application/vnd.example.artifact"),
        entry("3", "amd64"),
    )
    assert chosen(index) == ["3"]


def test_a_single_manifest_without_a_platform_is_the_image() -> None:
    assert chosen(index_of(entry("1"))) == ["1"]
    assert chosen(index_of(entry("1"), entry("2"))) == []
    assert chosen(index_of(entry("1", "arm64"))) == []


def test_of_another_system_nothing_fits() -> None:
    windows = entry("1") | {"platform": {"os": "windows", "architecture": "amd64"}}
    assert chosen(index_of(windows, entry("2", "amd64"))) == ["2"]


@pytest.mark.parametrize(
    "config",
    [
        {"Entrypoint": "/bin/sh"},
        {"Entrypoint": [1]},
        {"Entrypoint": {"0": "/bin/sh"}},
        {"Cmd": ["ok", None]},
        {"User": 0},
        {"WorkingDir": ["/"]},
        {"Entrypoint": ["a\0b"]},
        {"Cmd": ["x" * 300_000]},
        "text",
        [],
    ],
)
def test_a_configuration_of_another_shape_is_refused(config: object) -> None:
    with pytest.raises(ImageUnusableError):
        parse_config(encoded({"config": config}), digest=SHA, manifest_digest=SHA)


@pytest.mark.parametrize("document", [{}, {"config": None}, {"config": {"Entrypoint": None, "Cmd": None}}])
def test_an_image_may_say_nothing_of_how_to_start_it(document: object) -> None:
    config = parse_config(encoded(document), digest=SHA, manifest_digest=SHA)
    assert (config.entrypoint, config.cmd, config.user, config.working_dir) == ((), (), "", "")


def test_of_the_environment_only_names_are_kept() -> None:
    data = encoded({"config": {"Env": ["PATH=/bin", "PASSWORD=canary", "EMPTY", "PATH=/other"]}})
    config = parse_config(data, digest=SHA, manifest_digest=SHA)
    assert config.env_names == ("PATH", "PASSWORD", "EMPTY")
    assert "canary" not in repr(config)


def test_other_content_than_the_digests_is_refused() -> None:
    for digest in (digest_of(b"content"), digest_of(b"content", "sha512:")):
        check_digest(b"content", digest, "manifest")
        with pytest.raises(ImageUnusableError, match="another manifest"):
            check_digest(b"contenT", digest, "manifest")
