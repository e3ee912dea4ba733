"""The init container's image, built from its Containerfile and run as an init container is."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.payload.built import ROOT
from tests.integration.payload.containers import APPLICATION, ENTRY, PATIENCE, USER, Container, Images

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]  # where nothing is cached, the payload is built first


def test_the_image_holds_the_payload_and_installs_it(images: Images, payload: Path, tmp_path: Path) -> None:
    configuration, root = built_image(payload, tmp_path)
    assert configuration["User"] == f"{USER}:{USER}"
    assert configuration["Entrypoint"] == [ENTRY]
    names = [file.name for file in payload.iterdir()]
    held = {str(file.relative_to(root)) for file in root.rglob("*") if not file.is_dir()}
    assert held == {f"cloudtaser/{name}" for name in names}

    command = configuration["Cmd"]
    assert command[0] == "--install"
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    done = Container(root, None, tmp_path, *command, writable={command[1]: volume}).run()
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(file.name for file in volume.iterdir()) == sorted(names)
    for name in names:
        assert (volume / name).read_bytes() == (payload / name).read_bytes()
    assert Container(images.root("glibc"), volume, tmp_path, APPLICATION, "show", "4").run().returncode == 4


def built_image(payload: Path, directory: Path) -> tuple[dict[str, Any], Path]:
    """What a runtime is told of the image, and its layers unpacked."""
    store, image, root = directory / "store", directory / "image", directory / "root"
    buildah = ["buildah", "--storage-driver", "vfs", "--root", str(store), "--runroot", f"{store}.run"]
    recipe = str(ROOT / "images" / "wrapper" / "Containerfile")
    build = [*buildah, "bud", "--isolation", "chroot", "-f", recipe, "-t", "wrapper", str(payload)]
    for command in (build, [*buildah, "push", "wrapper", f"oci:{image}:latest"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr

    def blob(described: dict[str, Any]) -> Path:
        return image / "blobs" / Path(*described["digest"].split(":"))

    (listed,) = json.loads((image / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(listed).read_text())
    root.mkdir()
    for layer in manifest["layers"]:
        with tarfile.open(blob(layer)) as archive:
            archive.extractall(root, filter="tar")
    found: dict[str, Any] = json.loads(blob(manifest["config"]).read_text())["config"]
    return found, root
