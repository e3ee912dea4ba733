"""Images for the tests' pods, made from files: no registry on the internet is needed, none is asked.

`registry` pushes an `Image`, `runtime` imports its archive: an OCI image layout in a tar file (OCI image-spec
1.0), which containerd and skopeo read. The same files make the same image, byte for byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest, and the blobs that it names (its configuration and its layers)."""

    manifest: bytes
    blobs: tuple[bytes, ...]

    @classmethod
    def from_layout(cls, directory: Path) -> Image:
        """The only image of an OCI layout, such as `buildah push NAME oci:DIRECTORY` writes."""

        def blob(described: Mapping[str, Any]) -> bytes:
            return (directory / "blobs" / Path(*described["digest"].split(":"))).read_bytes()

        (listed,) = json.loads((directory / "index.json").read_text())["manifests"]
        manifest = json.loads(blob(listed))
        return cls(blob(listed), (blob(manifest["config"]), *map(blob, manifest["layers"])))

    @property
    def digest(self) -> str:
        """By which the image is known."""
        return digest(self.manifest)

    def archive(self, name: str) -> bytes:
        """A tar file with this image, called `name`."""
        described = _described(MANIFEST_TYPE, self.manifest)
        described["annotations"] = {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name,
        }
        blobs = {f"blobs/sha256/{digest(blob)[7:]}": blob for blob in (*self.blobs, self.manifest)}
        return _tar(
            blobs
            | {
                "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
                "index.json": _json({"schemaVersion": 2, "manifests": [described]}),
            },
            0o644,
        )


def image(
    files: Mapping[str, bytes],
    *,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
    user: str = "",
    environment: Sequence[str] = ("PATH=/bin:/usr/bin",),
    working_directory: str = "",
) -> Image:
    """An image with one layer; every one of `files` (path: content) may be executed."""
    layer = _tar({path.lstrip("/"): content for path, content in files.items()}, 0o755)
    config: dict[str, Any] = {"Env": list(environment), "User": user}
    if entrypoint:
        config["Entrypoint"] = list(entrypoint)
    if command:
        config["Cmd"] = list(command)
    if working_directory:
        config["WorkingDir"] = working_directory
    configuration = _json(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _described(_CONFIG_TYPE, configuration),
            "layers": [_described(_LAYER_TYPE, layer)],
        }
    )
    return Image(manifest, (configuration, layer))


def image_archive(
    name: str,
    files: Mapping[str, bytes],
    *,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
    user: str = "",
) -> bytes:
    """A tar file with one image called `name`, for a node that is to know it without a registry."""
    return image(files, entrypoint=entrypoint, command=command, user=user).archive(name)


def digest(blob: bytes) -> str:
    """`sha256:` and the hash in hexadecimal, as OCI writes it."""
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _described(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _tar(files: Mapping[str, bytes], mode: int) -> bytes:
    """The files and the directories that they lie in; the same bytes for the same files."""
    buffer = io.BytesIO()
    directories: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(files):
            parts = path.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                directory = "/".join(parts[:depth])
                if directory not in directories:
                    directories.add(directory)
                    entry = tarfile.TarInfo(directory)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(entry)
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(files[path]), mode
            archive.addfile(entry, io.BytesIO(files[path]))
    return buffer.getvalue()
