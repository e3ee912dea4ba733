"""Sealing: whether the wrapper waits for a token, for whom it may be sealed, and what a post to it does.

`listener` brings the posts, `session` waits for the token and seals again when it is gone, `announcement`
tells the operator the key. A sealing has one key, which is wiped with the first token that is accepted: of
any number of posts at the same time one counts. spec/wrapper.md, "Sealed mode".
"""

import binascii
import time

from cloudtaser.wrapper import extension, jsontext
from cloudtaser.wrapper.buffers import Buffer, Span, span_of
from cloudtaser.wrapper.envelope import EnvelopeError, Key, Recipient, open_envelope, read_token
from cloudtaser.wrapper.errors import ConfigError
from cloudtaser.wrapper.jsontext import JsonError
from cloudtaser.wrapper.loop import Wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Authorities = Callable[[], str]


class NotSealedError(EnvelopeError):
    """There is nothing to unseal: somebody else was faster, or the wrapper has its token."""


class Sealing:
    """Starts sealed. `authorities` gives the pod CA (PEM) as it is pinned at the time."""

    __slots__ = ("_allow_plain", "_authorities", "_key", "_recipient", "_token", "_waits", "count")

    def __init__(
        self, pod_uid: str, container: str, fingerprint: str, authorities: "Authorities", *, allow_plain: bool
    ) -> None:
        self._recipient = Recipient(pod_uid, container, fingerprint, "")
        self._authorities = authorities
        self._allow_plain = allow_plain
        self._key: Key | None = Key()
        self._token: Span | None = None
        self._waits: list[Wait] = []
        self.count = 1  # of sealings so far

    @property
    def is_sealed(self) -> bool:
        """Whether a token would be accepted."""
        return self._key is not None

    @property
    def public_key(self) -> str:
        """The key to seal for, base64; "" where nothing is waited for."""
        key = self._key
        return "" if key is None else binascii.b2a_base64(key.public, newline=False).decode()

    def seal(self) -> None:
        """The token is gone: wait for another, under a new key."""
        self._token = None
        if self._key is None:
            self._key = Key()
            self.count += 1
            self._wake()

    def status(self) -> bytes:
        """What anybody may know."""
        if self.is_sealed:
            return b'{"sealed":true,"public_key":"' + self.public_key.encode() + b'"}'
        return b'{"sealed":false}'

    def unseal(self, body: Buffer) -> None:
        """Accept the token in a posted body. Raises EnvelopeError; then nothing has changed."""
        key = self._key
        if key is None:
            raise NotSealedError("not sealed: a token came already")
        token = self._plain(body)
        if token is None:
            self._recipient.authorities = self._authorities()
            token = open_envelope(body, key, self._recipient, int(time.time()))
        self._key = None
        key.wipe()
        self._token = token
        self._wake()

    async def token(self, deadline: float | None) -> Span | None:
        """The token, once; None where none came until the deadline on the loop's clock. Seals where there is
        neither token nor key.
        """
        if self._token is None:
            self.seal()
        while self._token is None:
            if not await self._change(deadline):
                return None
        token, self._token = self._token, None
        return token

    def give_back(self, token: Span) -> None:
        """The token could not be tried: the next who asks for it has it."""
        if not self.is_sealed:
            self._token = token

    async def until_sealed(self) -> None:
        """Until there is a key to announce."""
        while not self.is_sealed:
            await self._change(None)

    async def change(self, deadline: float) -> bool:
        """Until something changes, or the deadline (False)."""
        return await self._change(deadline)

    async def _change(self, deadline: float | None) -> bool:
        wait = Wait(-1, 0, deadline)
        self._waits.append(wait)
        try:
            return await wait
        finally:
            self._waits.remove(wait)

    def _wake(self) -> None:
        for wait in self._waits:
            wait.woken = True

    def _plain(self, body: Buffer) -> Span | None:
        """The token of `{"token": …}`; None for anything else, which must be an envelope."""
        try:
            root = jsontext.parse(body)
        except JsonError:
            return None
        node = root.get("token")
        if node is None or root.members.keys() != {"token"}:
            return None
        if not self._allow_plain:
            raise EnvelopeError("a plain token, which CLOUDTASER_ALLOW_PLAIN_UNSEAL does not allow")
        if node.kind != jsontext.STRING:
            raise EnvelopeError("a token that is no string")
        with read_token(body, node).view() as token:  # whoever received the body wipes it
            return span_of(token)


def check() -> None:
    """Raises ConfigError where this installation cannot open an envelope."""
    if not extension.PRESENT:
        raise ConfigError(
            "not set, and this installation has no cryptography to receive one",
            on="VAULT_TOKEN",
            fix="use the payload, or install where a C compiler and OpenSSL's headers are",
        )
