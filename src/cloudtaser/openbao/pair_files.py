"""A bridge's stored pairs as files, for a bridge that reads no registry.

Used by `cloudtaser-cli source pairs`, and by tests. Files are written whole or not at all, keys readable by
their owner alone; what lies there and is not of this cluster is left alone. (spec/cli.md, `--out-dir`.)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography import x509

from cloudtaser.errors import CloudtaserError, ProtocolError, UsageError
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.clusters import not_registered, open_layout
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.pregenerated import Party
from cloudtaser.openbao.records import Pair, Records, Registered
from cloudtaser.wire.hashes import check_fingerprint
from cloudtaser.wire.names import parse_uri

CLIENT_CERTIFICATE: Final = "client.crt"
CLIENT_KEY: Final = "client.key"
POD_CERTIFICATE: Final = "pod.crt"
POD_KEY: Final = "pod.key"
TUNNEL_CA: Final = "ca.crt"
POD_CA: Final = "pod-ca.crt"
_KEYS: Final = (CLIENT_KEY, POD_KEY)
_MAX_FILE: Final = 65536


async def read_files(
    client: OpenBao, fingerprint: str, *, layout: Layout | None = None
) -> tuple[Registered, dict[str, str]]:
    """The registration and what belongs in each file. CloudtaserError for a cluster without stored pairs."""
    check_fingerprint(fingerprint)
    detected, _ = await open_layout(client)
    records = Records(client, layout or detected)
    registered = await records.registered(fingerprint)
    if registered is None:
        raise not_registered(fingerprint)
    if not registered.pregenerated:
        raise CloudtaserError(
            "the cluster has no stored pairs",
            on=fingerprint,
            fix=f"run `cloudtaser-cli source register --fingerprint {fingerprint} --pregenerate`",
        )
    bridge, pod = [await _pair(records, fingerprint, party) for party in (Party.BRIDGE, Party.BRIDGE_POD)]
    return registered, {
        CLIENT_CERTIFICATE: bridge.certificate,
        CLIENT_KEY: bridge.key,
        POD_CERTIFICATE: pod.certificate,
        POD_KEY: pod.key,
        TUNNEL_CA: registered.tunnel_ca,
        POD_CA: registered.pod_ca,
    }


def write_files(directory: str | Path, files: Mapping[str, str], fingerprint: str) -> tuple[Path, ...]:
    """Write the files into `directory`, which is made if it is missing; the paths of those that changed.

    A certificate goes before its key, and each replaces what was there at once, so that a bridge that watches
    them meets a pair that does not fit for a moment only, and waits. UsageError where something lies there
    that is not of this cluster.
    """
    place = Path(directory)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        present = {name: _content(place / name) for name in files if os.path.lexists(place / name)}
        if present and not _of(present.get(CLIENT_CERTIFICATE, ""), fingerprint):
            raise UsageError(
                f"files that are not of this cluster are in the way: {', '.join(sorted(present))}",
                on=str(place),
                fix="choose another directory, or move them away",
            )
        changed = [name for name, content in files.items() if present.get(name) != content]
        for name in changed:
            _replace(place / name, files[name], 0o600 if name in _KEYS else 0o644)
    except OSError as error:
        raise UsageError(
            f"the files cannot be written: {error.strerror}", on=str(error.filename or place)
        ) from None
    return tuple(place / name for name in changed)


async def _pair(records: Records, fingerprint: str, party: Party) -> Pair:
    pair, _ = await records.pair(fingerprint, party)
    if pair is None:
        raise CloudtaserError(
            f"the stored pair of the {party} is missing", on=fingerprint, fix="run `source register` again"
        )
    return pair


def _content(path: Path) -> str:
    """Text of a regular file; "" for anything else, which nobody of ours put there."""
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(_MAX_FILE).decode("utf-8", "replace")


def _of(certificate_pem: str, fingerprint: str) -> bool:
    """Whether that is a certificate of a bridge of this cluster."""
    try:
        certificate = x509.load_pem_x509_certificates(certificate_pem.encode())[0]
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        party = parse_uri(names.get_values_for_type(x509.UniformResourceIdentifier)[0])
    except (ValueError, IndexError, x509.ExtensionNotFound, ProtocolError):
        return False
    return party.role == "bridge" and party.fingerprint == fingerprint


def _replace(path: Path, content: str, mode: int) -> None:
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode())
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
