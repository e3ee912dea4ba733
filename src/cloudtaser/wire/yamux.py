"""yamux: many streams on one connection, each with its own window (HashiCorp's spec.md, complete).

Used by `net.tunnel` on both sides: feed `receive()`, act on the events, call `data_to_send()` once a turn and
write what it returns. Frames are queued and joined, and the flags that open and accept a stream ride on its
first frame where there is one. Received bytes are the caller's at once; `consumed()` gives the window back.

Where the document is silent we do as HashiCorp's own module: frames for streams that are not there are
dropped, a stream too many is reset, and no more than a backlog is opened before the peer has accepted one.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from cloudtaser.errors import ProtocolError, UnavailableError
from cloudtaser.wire import yamux_frames as frame
from cloudtaser.wire.yamux_frames import Data, Event, Stream, pack, unpack_from

_MAX_PINGS: Final = 16


class Session:
    """One side of a connection. `client` opens odd stream ids, the other side even ones.

    `window` (bytes, at least 262,144) is how much of a stream the peer may send ahead of `consumed()`, so the
    receiver holds at most `max_streams` times that. `accept_backlog` bounds the streams, each way, that are
    opened and not yet accepted.
    """

    def __init__(
        self,
        client: bool,
        *,
        window: int = frame.INITIAL_WINDOW,
        max_streams: int = 4096,
        accept_backlog: int = 256,
    ) -> None:
        if not frame.INITIAL_WINDOW <= window <= frame.MAX_UINT32:
            raise ValueError(f"a yamux window has at least {frame.INITIAL_WINDOW} bytes")
        self._window = window
        self._extra = window - frame.INITIAL_WINDOW  # told to the peer with the first frame
        self._max_streams = max_streams
        self._accept_backlog = accept_backlog
        self._next_id = 1 if client else 2
        self._peer_parity = 0 if client else 1
        self._streams: dict[int, Stream] = {}
        self._held: deque[Stream] = deque()
        self._unacknowledged = 0  # ours, which the peer has not accepted
        self._announce: list[Stream] = []  # with flags that no frame has carried yet
        self._unaccepted = 0  # the peer's, whose frame.ACK is not queued yet
        self._out: list[bytes] = []
        self._pings: dict[int, None] = {}
        self._next_nonce = 0
        self._failed = False
        self._we_go = False
        self._peer_goes = False
        # a frame in the middle of its arrival
        self._head = b""
        self._body_left = 0
        self._body_id = 0
        self._body_stream: Stream | None = None
        self._body_fin = False

    @property
    def active(self) -> int:
        """How many streams there are, ours and the peer's."""
        return len(self._streams)

    @property
    def going_away(self) -> bool:
        """Whether either side has said go-away, so that no stream can be opened here."""
        return self._we_go or self._peer_goes

    @property
    def pending(self) -> bool:
        """Whether `data_to_send()` would return something."""
        return bool(self._out or self._announce)

    # -- what the peer sent

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """What `data` says, in order. On ProtocolError a go-away is queued: send it and close."""
        if self._failed:
            raise ProtocolError("bytes for a yamux session that has failed")
        try:
            return self._receive(data)
        except ProtocolError:
            self._failed = True
            self._streams.clear()
            self._announce.clear()
            self.go_away(frame.GO_AWAY_PROTOCOL_ERROR)
            raise

    def _receive(self, data: bytes | memoryview) -> list[Event]:
        events: list[Event] = []
        if self._head:
            data = self._head + data
            self._head = b""
        size = len(data)
        position = 0
        if self._body_left:
            position = self._body(data, 0, size, events)
        streams = self._streams
        while size - position >= frame.HEADER_SIZE:
            version, kind, flags, stream_id, length = unpack_from(data, position)
            position += frame.HEADER_SIZE
            if version:
                raise ProtocolError(f"yamux version {version}; ours is 0")
            if kind == frame.DATA:
                end = position + length
                stream = streams.get(stream_id)
                if not flags and stream is not None and end <= size:  # the hot path: one whole plain frame
                    if length:
                        self._charge(stream, length)
                        events.append(Data(stream_id, bytes(data[position:end])))
                        position = end
                    continue
                self._begin_body(stream_id, flags, length, events)
                position = self._body(data, position, size, events)
            elif kind == frame.WINDOW_UPDATE:
                self._window_update(stream_id, flags, length, events)
            elif kind == frame.PING:
                self._ping(stream_id, flags, length, events)
            elif kind == frame.GO_AWAY:
                self._go_away(stream_id, length, events)
            else:
                raise ProtocolError(f"a yamux frame of unknown type {kind}")
        if position < size:
            self._head = bytes(data[position:])
        return events

    def _begin_body(self, stream_id: int, flags: int, length: int, events: list[Event]) -> None:
        stream = self._signal(stream_id, flags, events)
        if stream is not None and length:
            self._charge(stream, length)
        self._body_left = length
        self._body_id = stream_id
        self._body_stream = stream
        self._body_fin = bool(flags & frame.FIN) and stream is not None
        if not length:
            self._end_body(events)

    def _body(self, data: bytes | memoryview, position: int, size: int, events: list[Event]) -> int:
        """Take what is there of a data frame's body; what belongs to no stream is dropped."""
        end = min(position + self._body_left, size)
        if end > position:
            self._body_left -= end - position
            if self._body_live():
                events.append(Data(self._body_id, bytes(data[position:end])))
            if not self._body_left:
                self._end_body(events)
        return end

    def _body_live(self) -> bool:
        """Whether the frame's stream is still there: we may have reset it between two reads."""
        stream = self._body_stream
        return stream is not None and self._streams.get(self._body_id) is stream

    def _end_body(self, events: list[Event]) -> None:
        if self._body_fin and self._body_live():
            assert self._body_stream is not None
            self._half_close(self._body_stream, events)
        self._body_fin = False
        self._body_stream = None

    def _charge(self, stream: Stream, length: int) -> None:
        if stream.remote_closed:
            raise ProtocolError(f"data on yamux stream {stream.id} after its end")
        if length > stream.receive_window:
            raise ProtocolError(f"yamux stream {stream.id} overran its window")
        stream.receive_window -= length

    def _signal(self, stream_id: int, flags: int, events: list[Event]) -> Stream | None:
        """Act on SYN, ACK and RST. The stream, or None when the frame belongs to none that we have."""
        stream = self._streams.get(stream_id)
        if flags & frame.SYN:
            stream = self._incoming(stream_id, stream, events)
        if stream is None:
            return None
        if flags & frame.ACK and stream.unacknowledged:
            self._acknowledged(stream)
        if flags & frame.RST:
            self._remove(stream)
            events.append(frame.Reset(stream_id))
            return None
        if flags & frame.FIN and stream.remote_closed:
            raise ProtocolError(f"a second end of yamux stream {stream_id}")
        return stream

    def _incoming(self, stream_id: int, known: Stream | None, events: list[Event]) -> Stream | None:
        if known is not None:
            raise ProtocolError(f"yamux stream {stream_id} opened twice")
        if not stream_id or stream_id % 2 != self._peer_parity:
            raise ProtocolError(f"a peer opened yamux stream {stream_id}, which is not its to open")
        if self._we_go or len(self._streams) >= self._max_streams or self._unaccepted >= self._accept_backlog:
            self._out.append(pack(0, frame.WINDOW_UPDATE, frame.RST, stream_id, 0))
            return None
        stream = Stream(stream_id, frame.ACK, self._window)
        self._streams[stream_id] = stream
        self._announce.append(stream)
        self._unaccepted += 1
        events.append(frame.StreamOpened(stream_id))
        return stream

    def _window_update(self, stream_id: int, flags: int, length: int, events: list[Event]) -> None:
        stream = self._signal(stream_id, flags, events) if flags else self._streams.get(stream_id)
        if stream is None:
            return
        if length:
            stream.send_window += length
            if stream.send_window > frame.MAX_UINT32:
                raise ProtocolError(f"a window of yamux stream {stream_id} beyond 32 bits")
            if stream.blocked:
                stream.blocked = False
                events.append(frame.WindowGrew(stream_id))
        if flags & frame.FIN:
            self._half_close(stream, events)

    def _half_close(self, stream: Stream, events: list[Event]) -> None:
        stream.remote_closed = True
        events.append(frame.HalfClosed(stream.id))
        if stream.local_closed:
            self._remove(stream)

    def _ping(self, stream_id: int, flags: int, nonce: int, events: list[Event]) -> None:
        if stream_id:
            raise ProtocolError("a yamux ping on a stream")
        if flags & frame.SYN:
            self._out.append(pack(0, frame.PING, frame.ACK, 0, nonce))
        elif nonce in self._pings:
            del self._pings[nonce]
            events.append(frame.Pong(nonce))

    def _go_away(self, stream_id: int, code: int, events: list[Event]) -> None:
        if stream_id:
            raise ProtocolError("a yamux go-away on a stream")
        self._peer_goes = True
        events.append(frame.GoAway(code))

    def _acknowledged(self, stream: Stream) -> None:
        """A place in the peer's backlog is free: the next stream that waits for one is opened."""
        stream.unacknowledged = False
        self._unacknowledged -= 1
        if self._held and self._unacknowledged < self._accept_backlog:
            self._start(self._held.popleft())

    def _remove(self, stream: Stream) -> None:
        del self._streams[stream.id]
        if stream.flags == frame.ACK:
            self._unaccepted -= 1
        stream.flags = 0
        if stream.unacknowledged:
            self._acknowledged(stream)

    # -- what we send

    def open_stream(self) -> int:
        """The id of a new stream, which takes data at once. UnavailableError when there can be none.

        While `accept_backlog` of our streams wait to be accepted, a further one's frames wait here.
        """
        if self._failed or self._we_go or self._peer_goes:
            raise UnavailableError("the tunnel is going away", fix="use another tunnel")
        if len(self._streams) >= self._max_streams:
            raise UnavailableError(f"the tunnel carries {self._max_streams} streams already")
        if self._next_id > frame.MAX_UINT32 - 2:
            raise UnavailableError("the tunnel has used up its stream ids", fix="use another tunnel")
        stream = Stream(self._next_id, frame.SYN, self._window)
        self._next_id += 2
        self._streams[stream.id] = stream
        if self._unacknowledged < self._accept_backlog:
            self._start(stream)
        else:
            stream.held = []
            self._held.append(stream)
        return stream.id

    def can_send(self, stream_id: int) -> int:
        """How many bytes `send()` would take now; 0 for a stream that is gone or that we closed."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None or stream.local_closed else stream.send_window

    def send(self, stream_id: int, data: bytes | memoryview) -> int:
        """Queue as much of `data` as the stream's window takes, and say how much: the rest is the caller's.

        When that is less than all of it, or the window is then empty, WindowGrew follows in time. A stream
        that is gone takes nothing.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return 0
        if stream.local_closed:
            raise ValueError(f"yamux stream {stream_id} was closed for sending")
        length = len(data)
        window = stream.send_window
        if length >= window:
            stream.blocked = True
            if length > window:
                data = data[:window]
                length = window
        if not length:
            return 0
        stream.send_window = window - length
        out = self._out if stream.held is None else stream.held
        flags = self._first(stream, out) if stream.flags else 0
        out.append(pack(0, frame.DATA, flags, stream_id, length))
        out.append(data if type(data) is bytes else bytes(data))
        return length

    def close(self, stream_id: int) -> None:
        """Send no more on the stream; the peer still may. Once it is gone or closed nothing happens."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.local_closed:
            return
        stream.local_closed = True
        out = self._out if stream.held is None else stream.held
        flags = self._first(stream, out) if stream.flags else 0
        out.append(pack(0, frame.WINDOW_UPDATE, flags | frame.FIN, stream_id, 0))
        if stream.remote_closed:
            self._remove(stream)

    def reset(self, stream_id: int) -> None:
        """Drop the stream, both ways; what the peer still sends on it is discarded. No event follows."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        unknown_to_peer = stream.flags == frame.SYN or stream.held is not None
        if stream.held is not None:
            self._held.remove(stream)
        self._remove(stream)
        if not unknown_to_peer:
            self._out.append(pack(0, frame.WINDOW_UPDATE, frame.RST, stream_id, 0))

    def consumed(self, stream_id: int, size: int) -> None:
        """`size` received bytes have gone on: the peer may send as many more, once that is worth a frame."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_closed:
            return
        stream.credit += size
        if stream.receive_window + stream.credit > self._window:
            raise ValueError(f"more consumed of yamux stream {stream_id} than was received")
        if stream.credit * 2 >= self._window:
            out = self._out if stream.held is None else stream.held
            flags = self._first(stream, out) if stream.flags else 0
            out.append(pack(0, frame.WINDOW_UPDATE, flags, stream_id, stream.credit))
            stream.receive_window += stream.credit
            stream.credit = 0

    def ping(self) -> int:
        """Ask for a sign of life: Pong with this nonce follows. The oldest of 16 unanswered is forgotten."""
        nonce = self._next_nonce
        self._next_nonce = (nonce + 1) & frame.MAX_UINT32
        if len(self._pings) >= _MAX_PINGS:
            del self._pings[next(iter(self._pings))]
        self._pings[nonce] = None
        self._out.append(pack(0, frame.PING, frame.SYN, 0, nonce))
        return nonce

    def go_away(self, code: int = frame.GO_AWAY_NORMAL) -> None:
        """Open and accept no more streams; those there are go on."""
        self._we_go = True
        self._out.append(pack(0, frame.GO_AWAY, 0, 0, code))

    def data_to_send(self) -> bytes:
        """All that is queued, in one piece; it is the caller's from now on."""
        if self._announce:
            for stream in self._announce:
                if stream.flags:
                    flags = self._first(stream, self._out)
                    if flags:
                        self._out.append(pack(0, frame.WINDOW_UPDATE, flags, stream.id, 0))
            self._announce.clear()
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _start(self, stream: Stream) -> None:
        """Let a stream of ours out to the peer."""
        stream.unacknowledged = True
        self._unacknowledged += 1
        if stream.held:
            self._out += stream.held
        stream.held = None
        if stream.flags:
            self._announce.append(stream)

    def _first(self, stream: Stream, out: list[bytes]) -> int:
        """The flags for a stream's first frame, unless a frame that tells of a larger window takes them."""
        flags = stream.flags
        stream.flags = 0
        if flags == frame.ACK:
            self._unaccepted -= 1
        if not self._extra:
            return flags
        out.append(pack(0, frame.WINDOW_UPDATE, flags, stream.id, self._extra))
        return 0
