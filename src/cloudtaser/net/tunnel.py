"""Tunnel: many streams over one connection between bridge and broker.

The protocol to put on the tunnel's TlsLayer, on both sides. The framing is `wire.yamux`, a stream's first
line `wire.opening`; here the bytes are moved: what all streams send in one turn of the loop leaves as one
write, each stream gets at most 32 KiB in a round, pings tell whether the peer lives (spec/wire.md, "Tunnel").
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from cloudtaser.errors import CloudtaserError, ProtocolError, UnavailableError
from cloudtaser.net.deadlines import Deadlines
from cloudtaser.net.ends import MAX_UNREAD, NOWHERE, lost
from cloudtaser.net.heartbeat import Heartbeat
from cloudtaser.net.stream import StreamResetError, TunnelStream
from cloudtaser.wire import yamux
from cloudtaser.wire import yamux_frames as frames
from cloudtaser.wire.opening import Opening, OpeningReader

PING_INTERVAL: Final = 15.0
MISSED_PINGS: Final = 3
OPENING_TIMEOUT: Final = 5.0
"""Seconds from a stream's beginning to the end of its first line."""
MAX_STREAMS: Final = 4096

_QUANTUM: Final = 32 * 1024
_BATCH: Final = 128 * 1024

Accept = Callable[[Opening, TunnelStream], asyncio.Protocol | None]


class Tunnel(asyncio.Protocol):
    """One side of a tunnel. `client` is the TLS client, the bridge.

    `accept` gives the protocol for a stream that the peer opened, or None (or raises a CloudtaserError) to
    refuse it, which is a reset. The protocol's `connection_made` is called right after.
    """

    def __init__(
        self,
        client: bool,
        accept: Accept,
        *,
        ping_interval: float = PING_INTERVAL,
        missed: int = MISSED_PINGS,
        max_streams: int = MAX_STREAMS,
        opening_timeout: float = OPENING_TIMEOUT,
        on_draining: Callable[[], None] | None = None,
    ) -> None:
        """`on_draining` is called once, when the peer's go-away comes: time for another tunnel."""
        self.loop = asyncio.get_running_loop()
        self._session = yamux.Session(client, max_streams=max_streams)
        self._accept = accept
        self._missed = missed
        self._heartbeat = Heartbeat(ping_interval, missed, self._send_ping, self._peer_is_dead)
        self._opening_timeout = opening_timeout
        self._on_draining = on_draining
        self._transport: asyncio.Transport = NOWHERE
        self._streams: dict[int, TunnelStream] = {}
        self._arriving: dict[int, OpeningReader] = {}  # the peer's, whose first line is not whole yet
        self.deadlines = Deadlines(self._expired)  # of streams that are arriving or closing
        self._ready: deque[TunnelStream] = deque()
        self._full = self._flushing = self._over = False
        self.draining = False
        self.error: CloudtaserError | None = None
        """Why the tunnel ended, once `closed` is done; None for a regular end."""
        self.established: asyncio.Future[None] = self.loop.create_future()
        """Done at the peer's first bytes: only now does a TLS 1.3 client know that it was accepted."""
        self.closed: asyncio.Future[None] = self.loop.create_future()

    @property
    def active(self) -> int:
        """How many streams there are, the peer's included."""
        return self._session.active

    @property
    def round_trip(self) -> float | None:
        """Seconds the last answered ping took; None before the first."""
        return self._heartbeat.round_trip

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Of the connection below: "ssl_object", "peername"."""
        return self._transport.get_extra_info(name, default)

    def open(self, opening: Opening, protocol: asyncio.Protocol) -> TunnelStream:
        """Open a stream; `protocol.connection_made` has been called when this returns.

        UnavailableError when the tunnel drains, is closed or has its fill of streams.
        """
        if self._over or self.draining or self._transport is NOWHERE:
            raise UnavailableError("the tunnel takes no new streams")
        line = opening.encode()
        number = self._session.open_stream()
        stream = self._streams[number] = TunnelStream(self, number, opening)
        stream.write(line)
        stream.start(protocol)
        return stream

    def go_away(self) -> None:
        """Open and accept no more; close when the last stream has ended."""
        if not self._over:
            self.draining = True
            self._session.go_away()
            self._flush_soon()
            self._close_if_drained()

    def close(self) -> None:
        """Say go-away and close; streams that are left are lost."""
        if not self._over:
            self._session.go_away()
            self._end(None)

    def abort(self, error: CloudtaserError | None = None) -> None:
        """Cut the connection now."""
        if not self._over:
            self._end(error or UnavailableError("the tunnel was cut"), cut=True)

    # -- called from below ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._heartbeat.beat()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._heartbeat.heard()
        if not self.established.done():
            self.established.set_result(None)
        try:
            events = self._session.receive(data)
        except ProtocolError as error:
            self._end(error.with_traceback(None))
            return
        self._dispatch(events)
        if self._session.pending:
            self._flush_soon()

    def _dispatch(self, events: list[frames.Event]) -> None:
        for event in events:
            if type(event) is frames.Data:
                stream = self._streams.get(event.id)
                if stream is None:
                    self._arrived(event.id, event.data)
                else:
                    self.guard(stream, stream.receive, event.data)
            else:
                self._handle(event)
            if self._over:
                return

    def eof_received(self) -> None:
        self._end(None if self.draining else UnavailableError("the peer closed the tunnel"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(lost(exc) or (None if self.draining else UnavailableError("the tunnel was lost")))
        self._transport = NOWHERE
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._flush_soon()

    # -- called by streams ----------------------------------------------------------------------------------

    def has_data(self, stream: TunnelStream) -> None:
        """The stream has bytes or an end to send: it gets in line."""
        if not stream.queued:
            stream.queued = True
            self._ready.append(stream)
            self._flush_soon()

    def consumed(self, stream: TunnelStream, size: int) -> None:
        """The stream's user has taken `size` bytes."""
        if not stream.gone:
            self._give_back(stream.number, size)
            if self._session.pending:
                self._flush_soon()

    def finish_if_ended(self, stream: TunnelStream) -> None:
        """Both sides have sent their ends: nothing is left of the stream."""
        if stream.eof_sent and stream.all_read and not stream.gone:
            self._forget(stream, None)

    def reset(self, stream: TunnelStream, *, clean: bool = False) -> None:
        """Give the stream up. `clean`: all was sent, only the peer does not end."""
        if stream.gone:
            return
        self._session.reset(stream.number)
        self._flush_soon()
        self._forget(stream, None if clean else UnavailableError("the stream was aborted"))

    def guard(self, stream: TunnelStream, action: Callable[..., None], *arguments: object) -> None:
        """Do it; a fault in what lies on a stream ends that stream, not the tunnel."""
        try:
            action(*arguments)
        except Exception as fault:  # noqa: BLE001  # told to the loop
            self._fault(stream, fault)

    # -- events ---------------------------------------------------------------------------------------------

    def _handle(self, event: frames.Event) -> None:
        # isinstance, not match: this is the hot path, and a class pattern costs several times as much
        if isinstance(event, frames.StreamOpened):
            self._arriving[event.id] = OpeningReader()
            self.deadlines.set(event.id, self._opening_timeout)
        elif isinstance(event, frames.HalfClosed):
            self._half_closed(event.id)
        elif isinstance(event, frames.WindowGrew):
            stream = self._streams.get(event.id)
            if stream is not None:
                self.has_data(stream)
        elif isinstance(event, frames.Reset):
            self._was_reset(event.id)
        elif isinstance(event, frames.Pong):
            self._heartbeat.answered(event.nonce)
        elif isinstance(event, frames.GoAway):
            self._peer_goes(event.code)

    def _arrived(self, number: int, data: bytes) -> None:
        """Bytes of a stream that has no protocol yet: its opening, and perhaps more."""
        reader = self._arriving.get(number)
        if reader is None:
            return
        try:
            result = reader.receive(data)
        except ProtocolError:
            self._refuse(number)
            return
        if result is None:
            self._give_back(number, len(data))
            return
        opening, rest = result
        self._give_back(number, len(data) - len(rest))
        if self._over:
            return
        stream = TunnelStream(self, number, opening)
        self.guard(stream, self._start, stream, rest)

    def _give_back(self, number: int, size: int) -> None:
        try:
            self._session.consumed(number, size)
        except ValueError:  # the events of one read tell of two streams with this number
            self.abort(ProtocolError(f"the peer opened stream {number} anew before its end could be heard"))

    def _start(self, stream: TunnelStream, rest: bytes) -> None:
        try:
            protocol = self._accept(stream.opening, stream)
        except CloudtaserError:
            protocol = None
        if protocol is None:
            stream.gone = True
            self._refuse(stream.number)
            return
        del self._arriving[stream.number]
        self.deadlines.drop(stream.number)
        self._streams[stream.number] = stream
        stream.start(protocol)
        if rest:
            stream.receive(rest)

    def _half_closed(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is None:
            if number in self._arriving:
                self._refuse(number)
        else:
            self.guard(stream, stream.receive_eof)

    def _was_reset(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            self._forget(stream, StreamResetError("the peer reset the stream"))
        elif self._arriving.pop(number, None) is not None:
            self.deadlines.drop(number)
            self._close_if_drained()

    def _refuse(self, number: int) -> None:
        self._arriving.pop(number, None)
        self.deadlines.drop(number)
        self._session.reset(number)
        self._flush_soon()
        self._close_if_drained()

    def _peer_goes(self, code: int) -> None:
        if code:
            self._end(ProtocolError(f"the peer ended the tunnel with code {code}"))
            return
        self.draining = True
        if self._on_draining is not None:
            on_draining, self._on_draining = self._on_draining, None
            on_draining()
        self._close_if_drained()

    def _fault(self, stream: TunnelStream, fault: Exception) -> None:
        error = fault if isinstance(fault, CloudtaserError) else None
        if error is None:
            context = {"message": "a tunnel stream's protocol failed", "exception": fault}
            self.loop.call_exception_handler(context)
        if not stream.gone:
            self._arriving.pop(stream.number, None)
            self._session.reset(stream.number)
            self._flush_soon()
            self._forget(stream, error or UnavailableError("the stream failed here"))

    def _forget(self, stream: TunnelStream, error: CloudtaserError | None) -> None:
        self._streams.pop(stream.number, None)
        self.deadlines.drop(stream.number)
        stream.lose(error)
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self.draining and not self._over and not self._streams and not self._arriving:
            self._end(None)

    # -- sending --------------------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One round: whoever is in line sends a quantum, until all have or the layer below is full."""
        self._flushing = False
        if self._over:
            return
        ready = self._ready
        batch = 0
        while ready and not self._full:
            stream = ready.popleft()
            stream.queued = False
            if stream.gone:
                continue
            try:
                batch += stream.send_to(self._session, _QUANTUM)
            except Exception as fault:  # noqa: BLE001  # as `guard`
                self._fault(stream, fault)
            if batch >= _BATCH:
                batch = 0
                self._transport.write(self._session.data_to_send())
        data = self._session.data_to_send()
        if data:
            self._transport.write(data)
            if self._full and self._transport.get_write_buffer_size() > MAX_UNREAD:
                self.abort(ProtocolError("the peer asks on and on without reading what it is answered"))

    def _send_ping(self) -> int:
        self._flush_soon()
        return self._session.ping()

    def _peer_is_dead(self) -> None:
        self.abort(UnavailableError(f"the peer missed {self._missed} pings"))

    def _expired(self, number: int) -> None:
        """The stream took too long to say what it is for, or to end."""
        stream = self._streams.get(number)
        if stream is None:
            self._refuse(number)
        else:
            self.reset(stream, clean=stream.eof_sent)

    # -- the end --------------------------------------------------------------------------------------------

    def _end(self, error: CloudtaserError | None, *, cut: bool = False) -> None:
        """Everything is over: streams hear of it, the connection is closed or cut."""
        if self._over:
            return
        self._over = True
        self.draining = True
        self.error = error
        self._heartbeat.stop()
        if not self.established.done():
            self.established.set_exception(error or UnavailableError("the tunnel was closed"))
            self.established.exception()  # nobody has to ask
        why = error or UnavailableError("the tunnel was closed")
        streams, self._streams = self._streams, {}
        self._arriving.clear()
        self.deadlines.clear()
        self._ready.clear()
        for stream in streams.values():
            stream.lose(why)
        if cut:
            self._transport.abort()
            return
        self._transport.write(self._session.data_to_send())
        self._transport.close()
