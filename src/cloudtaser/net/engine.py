"""Engine: OpenSSL between two memory BIOs, ciphertext on one side, plaintext on the other.

The part of a TlsLayer that knows TLS and nothing of transports, loops or time: `layers` feeds it and sends
what it puts out. Its errors are ProtocolErrors that say what OpenSSL found, or the alert that the peer sent.
"""

from __future__ import annotations

import ssl
from typing import Final

from cloudtaser.errors import ProtocolError
from cloudtaser.net.tls import UntrustedError, reason

SLICE: Final = 64 * 1024
"""How much to feed or write at a time: a memory BIO keeps the size that it once had."""

_RECORD: Final = 16 * 1024  # with that much space a read returns a record whole
_PLAIN: Final = memoryview(bytearray(SLICE + 2 * _RECORD))  # shared: copied out before anybody else runs


class Engine:
    """One TLS connection's state. ValueError or ssl.SSLError when `server_hostname` cannot be used."""

    __slots__ = ("_in", "_out", "ended", "fault", "ssl_object")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self.ssl_object: Final = context.wrap_bio(
            self._in, self._out, server_side=server_side, server_hostname=server_hostname
        )
        self.ended = False
        """The peer's close_notify has been read."""
        self.fault: ProtocolError | None = None
        """Why no more can be read; what came before it has been returned."""

    @property
    def unread(self) -> bool:
        """Whether ciphertext waits that `handshake` or `read` has not looked at."""
        return self._in.pending > 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take ciphertext, at most SLICE of it at a time."""
        self._in.write(data)

    def output(self) -> bytes:
        """Ciphertext to send, often b""."""
        return self._out.read() if self._out.pending else b""

    def handshake(self) -> bool:
        """Go on with the handshake; True once it is done. ProtocolError when it fails."""
        try:
            self.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise UntrustedError(f"TLS handshake failed: {reason(error)}") from None
        except ssl.SSLError as error:
            raise ProtocolError(f"TLS handshake failed: {reason(error)}") from None
        return True

    def read(self) -> bytes:
        """Plaintext of what was fed, up to 80 KiB, b"" when no record is whole. See `ended` and `fault`."""
        filled = 0
        try:
            while filled <= SLICE + _RECORD:
                count = self.ssl_object.read(len(_PLAIN) - filled, _PLAIN[filled:])
                filled += count  # type: ignore[operator]  # with a buffer, read returns a count
                if not count:
                    self.ended = True
                    break
                if not self._in.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self.fault = ProtocolError(f"TLS failed: {reason(error)}")
        return bytes(_PLAIN[:filled])

    def write(self, data: bytes | memoryview) -> bytes:
        """Ciphertext of `data`, at most SLICE of it at a time."""
        try:
            self.ssl_object.write(data)
        except ssl.SSLError as error:
            raise ProtocolError(f"TLS failed: {reason(error)}") from None
        return self._out.read()

    def close_notify(self) -> None:
        """Say that no more will be written; the peer still may.

        OpenSSL looks for the peer's own here and takes unread data for a fault, so that is put aside.
        """
        unread = self._in.read()
        try:
            self.ssl_object.unwrap()
        except ssl.SSLError:
            pass  # the peer has not sent its own yet: the usual case
        self._in.write(unread)
