"""Bootstrap: key, prologue and messages with which an operator first meets a bridge, and later comes back.

Used by the operator's enrolment and the bridge's responder, over a `noise.Channel`. Messages are strict JSON
(spec/wire.md, "Bootstrap"); a field that could carry something other than what it is for, such as a private
key where a certificate belongs, is refused when a message is made as well as when it is read.
"""

from __future__ import annotations

import base64
import enum
import hmac
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.bootstrap_fields import (
    CERTIFICATES,
    CODE,
    CSR,
    HEX_HASH,
    PRIVATE_KEY,
    bad_field,
    check_fingerprint,
    check_keys,
    check_pem,
    check_signature,
    check_text,
    check_token,
    object_field,
    one_line,
    signature_field,
    text_field,
)
from cloudtaser.wire.noise import MAX_PAYLOAD
from cloudtaser.wire.strict_json import dump_object, parse_object

VERSION: Final = 1
LABEL: Final = b"cloudtaser-bootstrap-1"

RefusalCode = Literal["unregistered", "already_initialized", "expired", "busy", "denied", "version"]

_MAX_VERSIONS: Final = 16
_OPTIONAL: Final = ("endorsement", "former_pod_cas", "key")
"""Fields of an InitAnswer, all of them PEM, that are there when they have something to say."""


class VersionError(ProtocolError):
    """The other side speaks `version` of the bootstrap, which this one does not."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"the other side speaks version {str(version)[:20]} of the bootstrap, this one version {VERSION}",
            fix="upgrade the older of operator and bridge",
        )
        self.version = version


class Mode(enum.IntEnum):
    """What a handshake is for; part of the prologue, so that one kind never passes for another."""

    INIT = 0
    INIT_WITH_CODE = 1
    RETURN = 2


def derive_psk(fingerprint: str, join_code: str = "") -> bytes:
    """The 32-byte key both sides show they know: of the fingerprint and, in strict mode, the join code."""
    extracted = hmac.digest(
        b"cloudtaser-init-psk", fingerprint.encode() + b"\0" + join_code.encode(), "sha256"
    )
    return hmac.digest(extracted, LABEL + b"\x01", "sha256")


def prologue(room: bytes, mode: Mode) -> bytes:
    """What both sides must agree on before the first byte: protocol, room and purpose."""
    return LABEL + room + bytes((mode,))


def init_signature_message(handshake_hash: bytes) -> bytes:
    """What the key of an operator's CSR signs at first initialisation."""
    return b"cloudtaser-init-1" + handshake_hash


def return_signature_message(handshake_hash: bytes) -> bytes:
    """What a bridge's tunnel key signs before an operator that comes back says anything."""
    return b"cloudtaser-return-1" + handshake_hash


@dataclass(frozen=True, slots=True)
class InitRequest:
    """Operator to bridge, the first time. `sig` is by the CSR's key over `init_signature_message(h)`."""

    fingerprint: str
    csr: str
    sig: bytes
    token: str = field(repr=False)
    issuer: str
    jwks: dict[str, Any]
    cluster_ca: str
    subject: str

    def __post_init__(self) -> None:
        check_fingerprint(self.fingerprint)
        check_pem(self.csr, CSR, "csr")
        check_signature(self.sig)
        check_token(self.token)
        check_text(self.issuer, "issuer", 2048)
        check_keys(self.jwks)
        check_pem(self.cluster_ca, CERTIFICATES, "cluster_ca")
        check_text(self.subject, "subject", 512)

    def encode(self) -> bytes:
        """The payload of one Noise message."""
        return _dump(
            {
                "v": VERSION,
                "fingerprint": self.fingerprint,
                "csr": self.csr,
                "sig": base64.b64encode(self.sig).decode(),
                "token": self.token,
                "issuer": self.issuer,
                "jwks": self.jwks,
                "cluster_ca": self.cluster_ca,
                "subject": self.subject,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> InitRequest:
        """The message in `data`. ProtocolError on anything else."""
        fields = _load(data)
        return cls(
            fingerprint=text_field(fields, "fingerprint"),
            csr=text_field(fields, "csr"),
            sig=signature_field(fields),
            token=text_field(fields, "token"),
            issuer=text_field(fields, "issuer"),
            jwks=object_field(fields, "jwks"),
            cluster_ca=text_field(fields, "cluster_ca"),
            subject=text_field(fields, "subject"),
        )


@dataclass(frozen=True, slots=True)
class InitAnswer:
    """Bridge to operator: the two CAs, the operator's certificate for its tunnel, the room and the space.

    While a CA is being rotated, `endorsement` is a certificate under the former tunnel CA that names
    `tunnel_ca` (`names.successor_uri`), and `former_pod_cas` are the pod CAs that are still served beside
    `pod_ca` (PEM, one after another). Both are empty otherwise, and from bridges that do not know of them.
    In the pre-generated form `key` is the private key of `cert`, which then is for no key of the operator's:
    it travels inside Noise only.
    """

    tunnel_ca: str
    pod_ca: str
    cert: str
    info_hash: str
    space: str
    endorsement: str = ""
    former_pod_cas: str = ""
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check_pem(self.tunnel_ca, CERTIFICATES, "tunnel_ca")
        check_pem(self.pod_ca, CERTIFICATES, "pod_ca")
        check_pem(self.cert, CERTIFICATES, "cert")
        if not HEX_HASH.fullmatch(self.info_hash):
            raise bad_field("info_hash")
        check_text(self.space, "space", 256)
        for name in _OPTIONAL:
            if getattr(self, name):
                check_pem(getattr(self, name), PRIVATE_KEY if name == "key" else CERTIFICATES, name)

    def encode(self) -> bytes:
        """The payload of one Noise message."""
        fields = {
            "v": VERSION,
            "tunnel_ca": self.tunnel_ca,
            "pod_ca": self.pod_ca,
            "cert": self.cert,
            "info_hash": self.info_hash,
            "space": self.space,
        }
        return _dump(fields | {name: getattr(self, name) for name in _OPTIONAL if getattr(self, name)})

    @classmethod
    def decode(cls, data: bytes) -> InitAnswer:
        """The message in `data`. ProtocolError on anything else."""
        return cls._from(_load(data))

    @classmethod
    def _from(cls, fields: dict[str, Any]) -> InitAnswer:
        return cls(
            tunnel_ca=text_field(fields, "tunnel_ca"),
            pod_ca=text_field(fields, "pod_ca"),
            cert=text_field(fields, "cert"),
            info_hash=text_field(fields, "info_hash"),
            space=text_field(fields, "space"),
            **{name: text_field(fields, name) for name in _OPTIONAL if name in fields},
        )


ReturnAnswer = InitAnswer


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, and why, in one printable line. `error` is a RefusalCode, or one of a newer release's.

    It has no version, so that every release can read it. With `version`, which either side may say of the
    other's message, `speaks` are the versions that the one who refuses would have understood.
    """

    error: RefusalCode | str
    message: str
    speaks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not CODE.fullmatch(self.error):
            raise bad_field("error")

    def encode(self) -> bytes:
        """The payload of one Noise message."""
        fields: dict[str, Any] = {"error": self.error, "message": one_line(self.message)}
        return _dump(fields | ({"speaks": list(self.speaks)} if self.speaks else {}))

    @classmethod
    def decode(cls, data: bytes) -> Refusal:
        """The message in `data`. ProtocolError on anything else."""
        return cls._from(_load(data, versioned=False))

    @classmethod
    def _from(cls, fields: dict[str, Any]) -> Refusal:
        speaks = fields.get("speaks", [])
        if (
            not isinstance(speaks, list)
            or len(speaks) > _MAX_VERSIONS
            or not all(type(version) is int for version in speaks)
        ):
            raise bad_field("speaks")
        return cls(text_field(fields, "error"), one_line(text_field(fields, "message")), tuple(speaks))

    @classmethod
    def of_version(cls, error: VersionError, us: str, them: str) -> Refusal:
        """What is said to somebody whose message has another version; `us` and `them` as a person calls
        them."""
        message = f"the {us} speaks version {VERSION} of the bootstrap, this {them} {str(error.version)[:20]}"
        return cls("version", f"{message}: upgrade the older of the two", (VERSION,))


@dataclass(frozen=True, slots=True)
class ReturnProof:
    """Bridge to operator, before the operator says anything: `sig` over `return_signature_message(h)`."""

    cert: str
    sig: bytes

    def __post_init__(self) -> None:
        check_pem(self.cert, CERTIFICATES, "cert")
        check_signature(self.sig)

    def encode(self) -> bytes:
        """The payload of one Noise message."""
        return _dump({"v": VERSION, "cert": self.cert, "sig": base64.b64encode(self.sig).decode()})

    @classmethod
    def decode(cls, data: bytes) -> ReturnProof:
        """The message in `data`. ProtocolError on anything else."""
        fields = _load(data)
        return cls(text_field(fields, "cert"), signature_field(fields))


@dataclass(frozen=True, slots=True)
class ReturnRequest:
    """Operator to bridge when coming back or renewing; the token's audience binds handshake and key."""

    fingerprint: str
    csr: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        check_fingerprint(self.fingerprint)
        check_pem(self.csr, CSR, "csr")
        check_token(self.token)

    def encode(self) -> bytes:
        """The payload of one Noise message."""
        return _dump({"v": VERSION, "fingerprint": self.fingerprint, "csr": self.csr, "token": self.token})

    @classmethod
    def decode(cls, data: bytes) -> ReturnRequest:
        """The message in `data`. ProtocolError on anything else."""
        fields = _load(data)
        return cls(text_field(fields, "fingerprint"), text_field(fields, "csr"), text_field(fields, "token"))


def refusal_in(data: bytes) -> Refusal | None:
    """The refusal that `data` is, if it is one: said instead of a request, by an operator that does not
    speak the bridge's version."""
    try:
        return Refusal.decode(data)
    except ProtocolError:
        return None


def decode_answer(data: bytes) -> InitAnswer | Refusal:
    """A bridge's answer, whichever it is. ProtocolError on anything else, and on one that is both."""
    fields = _load(data, versioned=False)
    if "error" in fields:
        if "cert" in fields:
            raise ProtocolError("an answer that both refuses and grants")
        return Refusal._from(fields)
    _check_version(fields)
    return InitAnswer._from(fields)


def _dump(fields: dict[str, Any]) -> bytes:
    data = dump_object(fields)
    if len(data) > MAX_PAYLOAD:
        raise ProtocolError(f"a bootstrap message of {len(data)} bytes; {MAX_PAYLOAD} fit")
    return data


def _load(data: bytes, *, versioned: bool = True) -> dict[str, Any]:
    fields = parse_object(data, what="a bootstrap message", limit=MAX_PAYLOAD)
    if versioned:
        _check_version(fields)
    return fields


def _check_version(fields: dict[str, Any]) -> None:
    version = fields.get("v")
    if type(version) is not int:
        raise ProtocolError("a bootstrap message without its version")
    if version != VERSION:
        raise VersionError(version)
