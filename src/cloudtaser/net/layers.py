"""TlsLayer: TLS over any transport, itself a transport, so that layers stack.

A protocol to what lies below (TCP, another TlsLayer, a tunnel's stream) and a transport to what lies above;
every leg of the chain is made of it. asyncio's own TLS takes half a megabyte for each idle connection and
cannot lie on a transport that is not a socket; this one takes what OpenSSL takes (tens of KB) and shares one
buffer for what it decrypts.

What users of it may rely on:
- `upper.connection_made` comes after the handshake, `connection_lost` at most once and only after that; a
  failed handshake is in `handshake` and nowhere else.
- With TLS 1.3 the client's handshake is over before the server has checked the client's certificate. A
  refusal then comes to the client as `connection_lost` with a ProtocolError that names the alert.
- Writes of one loop turn leave as one write below. More than 256 KiB waiting calls `upper.pause_writing`.
- `pause_reading` stops the layers below; what is held meanwhile is bounded by one read of theirs.
- close_notify arrives as `eof_received`, `write_eof` sends it; an end without it is a ProtocolError, for data
  may have been cut off.
- `close` sends what was written, then waits a moment for the peer's end, because a TCP socket closed with
  unread bytes in it takes back what it had sent.
- A CloudtaserError raised by `upper.data_received` ends the connection with that error.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.ends import MAX_UNREAD, NOBODY, NOWHERE, Bounded, lost
from cloudtaser.net.engine import SLICE, Engine
from cloudtaser.net.tls import reason

HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds from the connection to the end of the handshake (spec/wire.md, "Rendezvous")."""
LINGER: Final = 2.0
"""Seconds a closed connection waits for the peer's end."""
CLOSE_TIMEOUT: Final = 30.0
"""Seconds a closed connection may take to send what was written; then it is aborted."""

_HANDSHAKE, _OPEN, _CLOSING, _LINGERING, _LOST = range(5)


class TlsLayer(asyncio.Protocol, Bounded):
    """One TLS connection. Make it, then give it to a transport as its protocol."""

    def __init__(
        self,
        context: ssl.SSLContext,
        upper: asyncio.Protocol,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        verify: Callable[[ssl.SSLObject], object] | None = None,
    ) -> None:
        """`verify` sees the finished handshake before `upper` does; its CloudtaserError ends all."""
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._protocol: asyncio.Protocol = upper
        self._server_side = server_side
        self._server_hostname = server_hostname
        self._handshake_timeout = handshake_timeout
        self._verify = verify
        self.handshake: asyncio.Future[None] = self._loop.create_future()
        self._lower: asyncio.Transport = NOWHERE
        self._engine: Engine | None = None
        self._state = _HANDSHAKE
        self._timer: asyncio.TimerHandle | None = None
        self._made = False  # upper.connection_made was called, upper.connection_lost was not
        self._held: list[bytes] = []  # ciphertext that came while reading was paused
        self._paused = self._resuming = self._lower_eof = False
        self._pending: list[bytes | memoryview] = []  # plaintext that waits
        self._pending_size = 0
        self._flushing = self._lower_full = self._upper_full = False
        self._eof_written = self._eof_sent = False

    # -- called from below ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast("asyncio.Transport", transport)  # uvloop's do not say so by class
        self._timer = self._loop.call_later(self._handshake_timeout, self._handshake_late)
        try:
            self._engine = Engine(
                self._context, server_side=self._server_side, server_hostname=self._server_hostname
            )
        except (ssl.SSLError, ValueError) as error:
            self._fail(ProtocolError(f"TLS cannot start: {reason(error)}"))
        else:
            self._advance()

    def data_received(self, data: bytes) -> None:
        if self._state >= _CLOSING:
            return
        if self._paused or self._held or self._resuming:
            self._held.append(data)
            return
        self._feed(data)

    def eof_received(self) -> bool:
        self._lower_eof = True
        if self._state == _HANDSHAKE:
            self._fail(ProtocolError("the peer ended the connection during the TLS handshake"))
        elif self._state == _OPEN and not (self._ended or self._held or self._paused or self._resuming):
            self._fail(_truncated())
        return self._state < _LINGERING

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state == _LOST:
            return
        if exc is None and self._state == _OPEN and not self._ended:
            self._paused = False  # what came whole is delivered, paused or not: there is no later
            self._drain_held()
        error = lost(exc)
        if error is None and self._state <= _OPEN and not self._ended:
            error = _truncated()
        self._state = _LOST
        self._stop_timer()
        self._handshake_failed(error or _truncated())
        upper, made = self._protocol, self._made
        self._made = False
        try:
            if made:
                upper.connection_lost(error)
        finally:
            self._protocol = NOBODY
            self._lower = NOWHERE
            self._engine = None
            self._verify = None
            self._drop_all()

    def pause_writing(self) -> None:
        self._lower_full = True

    def resume_writing(self) -> None:
        self._lower_full = False
        if self._state in (_OPEN, _CLOSING) and not self._flushing:
            self._flush()

    # -- called from above ----------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._engine.ssl_object if self._engine is not None else default
        return self._lower.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._state >= _CLOSING

    def is_reading(self) -> bool:
        return self._state == _OPEN and not self._paused

    def pause_reading(self) -> None:
        if self._state == _OPEN and not self._paused:
            self._paused = True
            self._lower.pause_reading()

    def resume_reading(self) -> None:
        if self._state == _OPEN and self._paused:
            self._paused = False
            if not self._resuming:
                self._resuming = True
                self._loop.call_soon(self._resume)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._eof_written:
            raise RuntimeError("write after write_eof")
        if self._state > _OPEN or not data:
            return
        self._pending.append(data if type(data) is bytes else bytes(data))
        self._pending_size += len(self._pending[-1])
        self._flush_soon()
        if self._pending_size > self._high and not self._upper_full:
            self._upper_full = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        if self._state <= _OPEN and not self._eof_written:
            self._eof_written = True
            self._flush_soon()

    def close(self) -> None:
        if self._state == _HANDSHAKE:
            self.abort()
        elif self._state == _OPEN:
            self._state = _CLOSING
            self._restart_timer(CLOSE_TIMEOUT, self._lower.abort)
            self._held.clear()
            self._lower.resume_reading()
            self._flush_soon()

    def abort(self) -> None:
        self._lower.abort()

    @property
    def _ended(self) -> bool:  # by the peer's close_notify
        return self._engine is not None and self._engine.ended

    # -- reading --------------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        """Decrypt `data` slice by slice; keep the rest when `upper` pauses."""
        assert self._engine is not None
        if len(data) <= SLICE:
            self._engine.feed(data)
            self._advance()
            return
        view = memoryview(data)
        for start in range(0, len(data), SLICE):
            if self._paused:
                self._held.insert(0, bytes(view[start:]))
                return
            if self._state >= _CLOSING:
                return
            self._engine.feed(view[start : start + SLICE])
            self._advance()

    def _advance(self) -> None:
        """Do what the bytes in the engine allow: the handshake, then data for `upper`."""
        engine = self._engine
        assert engine is not None
        if self._state == _HANDSHAKE:
            self._shake_hands(engine)
        while self._state == _OPEN and engine.unread and not (self._paused or engine.ended):
            if not self._deliver(engine):
                break
        self._send_output()

    def _shake_hands(self, engine: Engine) -> None:
        try:
            if not engine.handshake():
                return
            if self._verify is not None:
                self._verify(engine.ssl_object)
        except CloudtaserError as error:
            if engine.ssl_object.version() is not None:
                self._notify_close()
            self._fail(error.with_traceback(None))
            return
        self._verify = None
        self._stop_timer()
        self._state = _OPEN
        self._send_output()
        self._made = True
        self.handshake.set_result(None)
        self._protocol.connection_made(self)

    def _deliver(self, engine: Engine) -> bool:
        """Give `upper` what can be read. False when that was nothing."""
        data = engine.read()
        if data:
            try:
                self._protocol.data_received(data)
            except CloudtaserError as error:
                self._fail(error.with_traceback(None))
        if self._state == _OPEN:
            if engine.fault is not None:
                self._fail(engine.fault)
            elif engine.ended and not self._protocol.eof_received():
                self.close()
        return bool(data)

    def _resume(self) -> None:
        self._resuming = False
        if self._state != _OPEN or self._paused:
            return
        self._drain_held()
        if self._state == _OPEN and not self._paused:
            if self._lower_eof and not self._ended:
                self._fail(_truncated())
            else:
                self._lower.resume_reading()

    def _drain_held(self) -> None:
        self._advance()
        while self._held and self._state == _OPEN and not self._paused:
            self._feed(self._held.pop(0))

    # -- writing --------------------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._flushing and not self._lower_full:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Encrypt what waits while the layer below takes it; then the end, if that was asked for."""
        self._flushing = False
        if self._state not in (_OPEN, _CLOSING) or self._engine is None:
            return
        if self._pending:
            try:
                self._encrypt(self._engine)
            except ProtocolError as error:
                self._fail(error.with_traceback(None))
                return
        if self._upper_full and self._pending_size <= self._low:
            self._upper_full = False
            if self._state == _OPEN:
                self._protocol.resume_writing()
        if self._pending:
            return
        if self._eof_written or self._state == _CLOSING:
            self._notify_close()
        if self._state == _CLOSING:
            self._linger()

    def _encrypt(self, engine: Engine) -> None:
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        size = len(data)
        self._pending.clear()
        if size <= SLICE and not self._lower_full:
            self._pending_size = 0
            self._lower.write(engine.write(data))
            return
        view = memoryview(data)
        done = 0
        while done < size and not self._lower_full:
            piece = view[done : done + SLICE]
            done += len(piece)
            self._lower.write(engine.write(piece))
        if done < size:
            self._pending.append(view[done:])
        self._pending_size = size - done

    def _notify_close(self) -> None:
        if not self._eof_sent and self._engine is not None:
            self._eof_sent = True
            self._engine.close_notify()
            self._send_output()

    def _send_output(self) -> None:
        """Send what OpenSSL has to say of itself: handshake, key update, alert."""
        if self._engine is not None:
            output = self._engine.output()
            if output:
                self._lower.write(output)
                if self._lower_full and self._lower.get_write_buffer_size() > MAX_UNREAD:
                    self._lower.abort()

    # -- ending ---------------------------------------------------------------------------------------------

    def _linger(self) -> None:
        self._state = _LINGERING
        if self._lower_eof or not self._lower.can_write_eof():
            self._lower.close()
            self._restart_timer(CLOSE_TIMEOUT, self._lower.abort)
            return
        self._lower.resume_reading()
        self._lower.write_eof()
        self._restart_timer(LINGER, self._linger_over)

    def _linger_over(self) -> None:
        self._lower.close()
        self._restart_timer(CLOSE_TIMEOUT, self._lower.abort)

    def _fail(self, error: CloudtaserError) -> None:
        """The connection is over: tell the peer (OpenSSL left an alert) and whoever is above."""
        if self._state >= _LINGERING:
            return
        self._send_output()
        self._handshake_failed(error)
        if self._made:
            self._made = False
            self._loop.call_soon(self._protocol.connection_lost, error)
        self._protocol = NOBODY
        self._drop_all()
        self._linger()

    def _handshake_late(self) -> None:
        self._handshake_failed(UnavailableError(f"no TLS handshake within {self._handshake_timeout:g} s"))
        self._lower.abort()

    def _handshake_failed(self, error: CloudtaserError) -> None:
        if not self.handshake.done():
            self.handshake.set_exception(error)
            self.handshake.exception()  # nobody has to ask

    def _drop_all(self) -> None:
        self._held.clear()
        self._pending.clear()
        self._pending_size = 0

    def _restart_timer(self, delay: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(delay, callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _truncated() -> ProtocolError:
    return ProtocolError("the connection ended without TLS close_notify; data may be missing")
