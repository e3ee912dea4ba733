"""The payload as a wheel, `cloudtaser-payload`: what a machine installs to have it as a directory.

`build` writes it. Reproducible: sorted, one date, one mode for each kind of file.
"""

import base64
import hashlib
import zipfile
from pathlib import Path

PACKAGE = "cloudtaser_payload"
TAGS = {
    "x86_64": ("manylinux_2_17_x86_64", "musllinux_1_1_x86_64"),
    "aarch64": ("manylinux_2_17_aarch64", "musllinux_1_1_aarch64"),
}
CODE = '''"""The wrapper's payload. `path()` is its directory; the program in it is `wrapper`."""

from pathlib import Path


def path() -> Path:
    """The directory to mount, or to start `wrapper` from."""
    return Path(__file__).resolve().parent / "payload"
'''
_DATE = (2023, 11, 14, 0, 0, 0)


def write(payload: Path, directory: Path, version: str, architecture: str) -> Path:
    """The wheel with the files of `payload`, in `directory`."""
    tags = TAGS[architecture]
    info = f"{PACKAGE}-{version}.dist-info"
    metadata = (
        f"Metadata-Version: 2.1\nName: cloudtaser-payload\nVersion: {version}\nLicense: Apache-2.0\n"
        "Summary: cloudtaser-wrapper as one static program, for containers\nRequires-Python: >=3.8\n"
    )
    wheel = "Wheel-Version: 1.0\nGenerator: cloudtaser\nRoot-Is-Purelib: false\n"
    wheel += "".join(f"Tag: py3-none-{tag}\n" for tag in tags)
    files = {f"{PACKAGE}/__init__.py": CODE.encode(), f"{PACKAGE}/py.typed": b""}
    files |= {f"{PACKAGE}/payload/{file.name}": file.read_bytes() for file in payload.iterdir()}
    files |= {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": wheel.encode()}
    record = "".join(
        f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in sorted(files.items())
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{PACKAGE}-{version}-py3-none-{'.'.join(tags)}.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files, key=lambda name: (name.startswith(info), name)):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o755 if "/payload/" in name else 0o644
            entry.external_attr = (0o100000 | mode) << 16
            archive.writestr(entry, files[name], compresslevel=9)
    return target


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
