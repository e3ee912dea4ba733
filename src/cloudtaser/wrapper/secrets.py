"""One secret path: what was read from it and how it is watched.

`session` holds a `Secret` for each path, `composing` makes the values to deliver of them. Pure: answers in,
decisions out.
"""

from cloudtaser.wrapper import jsontext
from cloudtaser.wrapper.backoff import Backoff
from cloudtaser.wrapper.body import json_object
from cloudtaser.wrapper.buffers import Buffer, Span
from cloudtaser.wrapper.client import Answer, Call
from cloudtaser.wrapper.envmap import SecretPath
from cloudtaser.wrapper.errors import ConfigError, ProtocolError
from cloudtaser.wrapper.lease import Lease

_MAX_IDENTIFIER = 2048

CHANGED, FORBIDDEN, GONE = "changed", "forbidden", "gone"
FAILING, UNRENEWED = "failing", "unrenewed"  # its engine cannot give it, or renew its lease, now
_RETRY_FIRST, _RETRY_LIMIT = 1.0, 30.0  # seconds
_LATE = 1.0  # seconds after a rotation that the server announced, in which it happens


class Secret:
    """A path and what was last read from it. `version` is None where the path is no KV version 2 secret."""

    __slots__ = ("_created", "backoff", "fields", "lease", "path", "trouble", "version", "watches_data")

    def __init__(self, path: SecretPath) -> None:
        self.path = path
        self.fields: dict[str, Span] = {}
        self.version: int | None = None
        self._created = ""  # when that version was: one deleted with its metadata comes back as version 1
        self.lease: Lease | None = None
        self.trouble = ""
        self.watches_data = False
        self.backoff = Backoff(_RETRY_FIRST, _RETRY_LIMIT)

    @property
    def is_versioned(self) -> bool:
        """Whether a newer version may come."""
        return self.version is not None and self.path.version is None

    @property
    def has_lease(self) -> bool:
        """Whether the server keeps a lease of it, which ends with the token."""
        return self.lease is not None and bool(self.lease.identifier)

    def read_call(self) -> Call:
        """What to ask for the values."""
        if self.path.parameters:
            return b"POST", self.path.path, json_object(self.path.parameters)
        version = "" if self.path.version is None else f"?version={self.path.version}"
        return b"GET", self.path.path + version, None

    def watch_path(self) -> str:
        """What to GET to learn of a newer version: the metadata, or the secret where that is forbidden."""
        return self.path.path if self.watches_data else self.path.path.replace("/data/", "/metadata/", 1)

    def take(self, answer: Answer, now: float, wall: float = 0.0) -> str:
        """Keep what a read answered; "" or what is wrong. `wall`: seconds since 1970, by which certificates
        expire; 0 where that is not known. Raises ProtocolError for an answer that is no secret.
        """
        if answer.status != 200:
            return FORBIDDEN if answer.status in (401, 403) else GONE
        data = answer.root.get("data")
        if data is None or data.kind != jsontext.OBJECT:
            raise ProtocolError("the answer holds no data", on=str(self.path))
        version = jsontext.integer(answer.buffer, data.get("metadata", "version"))
        if "/data/" in self.path.path and version and "data" in data.members:
            self.version = version
            self._created = jsontext.text(answer.buffer, data.get("metadata", "created_time"))
            data = data.members["data"]
            if data.kind != jsontext.OBJECT:
                return GONE
        elif self.path.version is not None:
            raise ConfigError(f"{self.path} is pinned, but has no versions", on=self.path.origin)
        self.fields = {name: jsontext.decode(answer.buffer, node) for name, node in data.members.items()}
        self.lease = _lease(answer, now)
        if self.lease is None and self.version is None:
            self.lease = _expiry(answer, data, now, wall)
        return ""

    def look(self, answer: Answer) -> str:
        """What a look at `watch_path` tells: CHANGED, FORBIDDEN, GONE or ""."""
        if answer.status in (401, 403):
            if not self.watches_data:
                self.watches_data = True  # may read, may not look: the next look reads
                return self.trouble
            return FORBIDDEN
        if answer.status != 200:
            return GONE
        if self.watches_data:
            version = jsontext.integer(answer.buffer, answer.root.get("data", "metadata", "version"))
            latest = answer.root.get("data", "metadata")
        else:
            version = jsontext.integer(answer.buffer, answer.root.get("data", "current_version"))
            latest = answer.root.get("data", "versions", str(version))
            if latest is None or _is_deleted(answer, latest):
                return GONE
        created = jsontext.text(answer.buffer, latest.get("created_time")) if latest is not None else ""
        return CHANGED if version != self.version or created != self._created else ""

    def renewed_duration(self, answer: Answer) -> float:
        """Seconds a renewal granted."""
        return float(jsontext.integer(answer.buffer, answer.root.get("lease_duration")))


def _is_deleted(answer: Answer, version: jsontext.Node) -> bool:
    destroyed = version.get("destroyed")
    return (destroyed is not None and destroyed.kind == jsontext.TRUE) or bool(
        jsontext.text(answer.buffer, version.get("deletion_time"))
    )


def _lease(answer: Answer, now: float) -> Lease | None:
    """The lease of a dynamic secret; static ones have none."""
    identifier = jsontext.text(answer.buffer, answer.root.get("lease_id"))
    duration = jsontext.integer(answer.buffer, answer.root.get("lease_duration"))
    if not identifier or duration <= 0:
        return None
    renewable = answer.root.get("renewable")
    return Lease(identifier, float(duration), renewable is not None and renewable.kind == jsontext.TRUE, now)


def _expiry(answer: Answer, data: jsontext.Node, now: float, wall: float) -> Lease | None:
    """What expires without a lease: a certificate of the PKI engine is made anew at two thirds of its life, a
    static role's password is read anew when the server has changed it. KV version 1 gives durations too, but
    only as advice, and its fields may have any name.
    """
    if jsontext.integer(answer.buffer, answer.root.get("lease_duration")):
        return None
    if "serial_number" in data.members and "certificate" in data.members:
        until = jsontext.integer(answer.buffer, data.get("expiration"))
        since = jsontext.integer(answer.buffer, data.get("not_before"))
        left = until - wall
        if until and since:
            left = min(left, until - since) if left > 0 else (until - since) / 2  # the clocks differ
        return Lease("", float(left), False, now) if until and left > 0 else None
    if "last_vault_rotation" in data.members:
        left = jsontext.integer(answer.buffer, data.get("ttl"))
        lease = Lease("", float(max(left, _LATE)), False, now)
        lease.postpone(now + left + _LATE)
        return lease
    return None


def lease_renewal(lease: Lease) -> Buffer:
    """The body of a lease's renewal, or of a question about it. Raises ProtocolError for an identifier that
    no server of ours makes.
    """
    identifier = lease.identifier
    if not identifier.isascii() or not identifier.isprintable() or '"' in identifier or "\\" in identifier:
        raise ProtocolError("a lease identifier with odd characters")
    if len(identifier) > _MAX_IDENTIFIER:
        raise ProtocolError(f"a lease identifier of more than {_MAX_IDENTIFIER} bytes")
    return json_object([("lease_id", identifier)])
