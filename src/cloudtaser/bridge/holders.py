"""Holders: which pod holds which OpenBao token, as far as this bridge has seen.

Written by `session` at a login and at the first answer under a token; read for every request, so that limits
know a token that works and the audit names its pod. Holds hashes, never tokens; bounded; forgets what was not
used for longest. After a restart it is empty, and a token works all the same: it is then a token without a
name until its pod logs in again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cloudtaser.bridge.tokens import PodIdentity

TABLE_SIZE: Final = 65536


@dataclass(frozen=True, slots=True)
class Holder:
    """Of which cluster a token is, and who logged in for it (None for one minted elsewhere)."""

    fingerprint: str
    identity: PodIdentity | None


class Holders:
    """Token hash to holder, at most `size` of them."""

    __slots__ = ("_size", "_table")

    def __init__(self, size: int = TABLE_SIZE) -> None:
        self._size = size
        self._table: OrderedDict[bytes, Holder] = OrderedDict()

    def note(self, token_hash: bytes, holder: Holder) -> None:
        """Remember a token that OpenBao issued or accepted. A name once known is kept."""
        known = self._table.get(token_hash)
        if known is None or known.identity is None:
            self._table[token_hash] = holder
        self._table.move_to_end(token_hash)
        if len(self._table) > self._size:
            self._table.popitem(last=False)

    def find(self, token_hash: bytes) -> Holder | None:
        """Who holds it, if that is known."""
        holder = self._table.get(token_hash)
        if holder is not None:
            self._table.move_to_end(token_hash)
        return holder

    def forget(self, token_hash: bytes) -> None:
        """The token was revoked, or OpenBao no longer knows it."""
        self._table.pop(token_hash, None)

    def forget_cluster(self, fingerprint: str) -> None:
        """The cluster is gone."""
        gone = [key for key, holder in self._table.items() if holder.fingerprint == fingerprint]
        for key in gone:
            del self._table[key]

    def __len__(self) -> int:
        return len(self._table)
