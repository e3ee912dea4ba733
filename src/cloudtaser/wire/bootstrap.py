"""Bootstrap: key, prologue and messages with which an operator first meets a bridge, and later comes back.

Used by the operator's enrolment and the bridge's responder, over a `noise.Channel`. Messages are strict JSON
(spec/wire.md, "Bootstrap"); a field that could carry something other than what it is for, such as a private
key where a certificate belongs, is refused when a message is made as well as when it is read.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cloudtaser.errors import ProtocolError
from cloudtaser.wire.hashes import is_fingerprint
from cloudtaser.wire.noise import MAX_PAYLOAD
from cloudtaser.wire.strict_json import dump_object, parse_object

VERSION: Final = 1
LABEL: Final = b"cloudtaser-bootstrap-1"
MAX_KEYS: Final = 64

RefusalCode = Literal["unregistered", "already_initialized", "expired", "busy", "denied", "version"]

_MAX_PEM: Final = 32768
_MAX_SIGNATURE: Final = 1024
_MAX_MESSAGE_TEXT: Final = 512
_CSR: Final = re.compile(
    r"-----BEGIN CERTIFICATE REQUEST-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE REQUEST-----\s*", re.ASCII
)
_CERTIFICATES: Final = re.compile(
    r"(?:-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*)+", re.ASCII
)
_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN PRIVATE KEY-----\s[A-Za-z0-9+/=\s]+-----END PRIVATE KEY-----\s*", re.ASCII
)
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_MAX_VERSIONS: Final = 16
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_MAX_TOKEN: Final = 16384
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)
_OPTIONAL: Final = ("endorsement", "former_pod_cas", "key")
"""Fields of an InitAnswer, all of them PEM, that are there when they have something to say."""
_HEX_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


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
        _check_fingerprint(self.fingerprint)
        _check_pem(self.csr, _CSR, "csr")
        _check_signature(self.sig)
        _check_token(self.token)
        _check_text(self.issuer, "issuer", 2048)
        _check_keys(self.jwks)
        _check_pem(self.cluster_ca, _CERTIFICATES, "cluster_ca")
        _check_text(self.subject, "subject", 512)

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
            fingerprint=_text(fields, "fingerprint"),
            csr=_text(fields, "csr"),
            sig=_signature(fields),
            token=_text(fields, "token"),
            issuer=_text(fields, "issuer"),
            jwks=_object(fields, "jwks"),
            cluster_ca=_text(fields, "cluster_ca"),
            subject=_text(fields, "subject"),
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
        _check_pem(self.tunnel_ca, _CERTIFICATES, "tunnel_ca")
        _check_pem(self.pod_ca, _CERTIFICATES, "pod_ca")
        _check_pem(self.cert, _CERTIFICATES, "cert")
        if not _HEX_HASH.fullmatch(self.info_hash):
            raise _bad("info_hash")
        _check_text(self.space, "space", 256)
        for name in _OPTIONAL:
            if getattr(self, name):
                _check_pem(getattr(self, name), _PRIVATE_KEY if name == "key" else _CERTIFICATES, name)

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
            tunnel_ca=_text(fields, "tunnel_ca"),
            pod_ca=_text(fields, "pod_ca"),
            cert=_text(fields, "cert"),
            info_hash=_text(fields, "info_hash"),
            space=_text(fields, "space"),
            **{name: _text(fields, name) for name in _OPTIONAL if name in fields},
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
        if not _CODE.fullmatch(self.error):
            raise _bad("error")

    def encode(self) -> bytes:
        """The payload of one Noise message."""
        fields: dict[str, Any] = {"error": self.error, "message": _one_line(self.message)}
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
            raise _bad("speaks")
        return cls(_text(fields, "error"), _one_line(_text(fields, "message")), tuple(speaks))

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
        _check_pem(self.cert, _CERTIFICATES, "cert")
        _check_signature(self.sig)

    def encode(self) -> bytes:
        """The payload of one Noise message."""
        return _dump({"v": VERSION, "cert": self.cert, "sig": base64.b64encode(self.sig).decode()})

    @classmethod
    def decode(cls, data: bytes) -> ReturnProof:
        """The message in `data`. ProtocolError on anything else."""
        fields = _load(data)
        return cls(_text(fields, "cert"), _signature(fields))


@dataclass(frozen=True, slots=True)
class ReturnRequest:
    """Operator to bridge when coming back or renewing; the token's audience binds handshake and key."""

    fingerprint: str
    csr: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_fingerprint(self.fingerprint)
        _check_pem(self.csr, _CSR, "csr")
        _check_token(self.token)

    def encode(self) -> bytes:
        """The payload of one Noise message."""
        return _dump({"v": VERSION, "fingerprint": self.fingerprint, "csr": self.csr, "token": self.token})

    @classmethod
    def decode(cls, data: bytes) -> ReturnRequest:
        """The message in `data`. ProtocolError on anything else."""
        fields = _load(data)
        return cls(_text(fields, "fingerprint"), _text(fields, "csr"), _text(fields, "token"))


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


def _bad(name: str) -> ProtocolError:
    return ProtocolError(f"a bootstrap message has a bad {name}")


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _bad(name)
    return value


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise _bad(name)
    return value


def _signature(fields: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(_text(fields, "sig"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad("sig") from error


def _check_fingerprint(value: str) -> None:
    if not is_fingerprint(value):
        raise _bad("fingerprint")


def _check_pem(value: str, form: re.Pattern[str], name: str) -> None:
    if len(value) > _MAX_PEM or not form.fullmatch(value):
        raise _bad(name)


def _check_signature(value: bytes) -> None:
    if not 0 < len(value) <= _MAX_SIGNATURE:
        raise _bad("sig")


def _check_token(value: str) -> None:
    if len(value) > _MAX_TOKEN or not _TOKEN.fullmatch(value):
        raise _bad("token")


def _check_text(value: str, name: str, limit: int) -> None:
    if len(value) > limit or not _PRINTABLE.fullmatch(value):
        raise _bad(name)


def _check_keys(jwks: dict[str, Any]) -> None:
    keys = jwks.get("keys")
    if (
        not isinstance(keys, list)
        or not 0 < len(keys) <= MAX_KEYS
        or not all(isinstance(k, dict) for k in keys)
    ):
        raise _bad("jwks")


def _one_line(text: str) -> str:
    """`text` as one printable line: it is shown to a person, and comes from the other side."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 2 * _MAX_MESSAGE_TEXT])
    return " ".join(printable.split())[:_MAX_MESSAGE_TEXT]
