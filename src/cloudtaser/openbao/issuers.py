"""Issuers: the authorities that one PKI mount holds, of which there are two while a CA is being rotated.

Used by `authorities`, which keeps the recorded one whole, and by `rotation` and `reset`, which put another in
its place. An issuer counts only when a record names its certificate, or when its name says that it was made
to follow the recorded one; what is neither may go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509

from cloudtaser.openbao.client import Json
from cloudtaser.openbao.errors import NotFoundError, OpenBaoError
from cloudtaser.openbao.pki import AUTHORITY_SECONDS
from cloudtaser.openbao.steps import Steps

_NAME_IN_USE: Final = "issuer name already in use"
_DIGITS: Final = 12  # of a CA's hash, in the name of the one that follows it


@dataclass(frozen=True, slots=True)
class Issuer:
    """One authority in a mount. `name` may be empty; `key_id` is, where the key is missing."""

    id: str
    name: str
    key_id: str
    pem: str
    default: bool

    def bears(self, pem: str) -> bool:
        """Whether this is its certificate."""
        try:
            return x509.load_pem_x509_certificate(self.pem.encode()) == x509.load_pem_x509_certificate(
                pem.encode()
            )
        except ValueError:
            return False


def successor_name(fingerprint: str) -> str:
    """Name of the issuer that is to follow the CA of this SHA-256 (hex): one, whoever makes it."""
    return f"after-{fingerprint[:_DIGITS]}"


def authority_settings(name: str) -> dict[str, Any]:
    """What OpenBao is told to make of an authority called `name`."""
    return {
        "common_name": f"cloudtaser {name}",
        "key_type": "ec",
        "key_bits": 256,
        "signature_bits": 256,
        "max_path_length": 0,
        "ttl": AUTHORITY_SECONDS,
        "exclude_cn_from_sans": True,
    }


async def list_issuers(steps: Steps, namespace: str, mount: str) -> list[Issuer]:
    """Every authority in the mount, the default one first."""
    about = await _key_info(steps, namespace, f"{mount}/issuers")
    found = []
    for id_, info in about.items():
        issuer = await steps.find(namespace, f"{mount}/issuer/{id_}")
        if issuer is not None:
            key = str(issuer.get("key_id") or "")
            pem = str(issuer.get("certificate") or "")
            found.append(
                Issuer(id_, str(issuer.get("issuer_name") or ""), key, pem, bool(info["is_default"]))
            )
    return sorted(found, key=lambda issuer: (not issuer.default, issuer.id))


async def make_issuer(
    steps: Steps, namespace: str, mount: str, authority: str, name: str, why: str
) -> Issuer | None:
    """A new authority beside those that are there, under that issuer name; None in a dry run.

    If another run was faster, the one that it made.
    """
    body = authority_settings(authority) | {"issuer_name": name}
    try:
        await steps.do("POST", namespace, f"{mount}/root/rotate/internal", why, body)
    except OpenBaoError as error:
        if not any(_NAME_IN_USE in message for message in error.messages):
            raise
    return next((i for i in await list_issuers(steps, namespace, mount) if i.name == name), None)


async def use_issuer(steps: Steps, namespace: str, mount: str, issuer: Issuer, why: str) -> None:
    """Have the mount sign with this issuer where none is named."""
    path = f"{mount}/config/issuers"
    current = await steps.find(namespace, path) or {}
    if current.get("default") == issuer.id:
        steps.fine(namespace, path, why)
    else:
        await steps.do("POST", namespace, path, why, {"default": issuer.id})


def stays(pem: str, fingerprint: str) -> Callable[[Issuer], bool]:
    """What is kept beside a recorded CA (`fingerprint`: SHA-256 of its DER, hex): its own issuer, and one
    that was made to follow it, by whichever run."""
    follows = successor_name(fingerprint)
    return lambda issuer: issuer.bears(pem) or issuer.name == follows


async def unneeded(
    steps: Steps, namespace: str, mount: str, keep: Callable[[Issuer], bool]
) -> tuple[list[Issuer], list[str]]:
    """Issuers that are not to be kept, and keys that belong to no issuer that is.

    Keys are listed before issuers: whatever another run makes meanwhile has its issuer judged, and its key is
    not among those that are looked at.
    """
    keys = await _key_info(steps, namespace, f"{mount}/keys")
    issuers = await list_issuers(steps, namespace, mount)
    kept = {issuer.key_id for issuer in issuers if keep(issuer)}
    return [issuer for issuer in issuers if not keep(issuer)], [key for key in keys if key not in kept]


async def forget_issuers(
    steps: Steps, namespace: str, mount: str, keep: Callable[[Issuer], bool], why: str
) -> None:
    """Delete every issuer of the mount but those to be kept, and every key that only they had."""
    issuers, keys = await unneeded(steps, namespace, mount, keep)
    for issuer in issuers:
        await steps.do("DELETE", namespace, f"{mount}/issuer/{issuer.id}", why)
    for key in keys:
        await steps.do("DELETE", namespace, f"{mount}/key/{key}", f"{why}: its key")


async def _key_info(steps: Steps, namespace: str, path: str) -> dict[str, Json]:
    try:
        answer = await steps.client.request("LIST", path, namespace=namespace)
    except NotFoundError:
        return {}
    found: dict[str, Json] = (answer.get("data") or {}).get("key_info") or {}
    return found
