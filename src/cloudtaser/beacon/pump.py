"""The data path: TLS on raw sockets, many records a system call, little memory for whoever is idle.

Used by `server`, which decides who talks to whom; the pump tells it what happens through `link.Listener`.
It reads up to 128 KiB from a socket, decrypts all of it, encrypts all of it for the other side
and sends that with one system call; a direction is read again only when the kernel has taken everything.
One pair of MemoryBIO serves every connection: OpenSSL takes all input into itself before it asks for more,
and output is taken out at once, so both are empty between two events and nobody keeps buffers of his own.

Sockets are watched with the loop's add_reader and add_writer: no transport, no task, no timer a connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from cloudtaser.beacon.link import Link, Listener, State, Tap, side

_RECORD: Final = 16_384
_BATCH: Final = 131_072  # read at once from a matched party; more no longer fits a cache and costs more
_TALK: Final = 8_192  # read at once from a party that is not matched


class Pump:
    """Moves the bytes of all links of one loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: Listener,
        *,
        buffer: int = 262_144,
        tap: Tap | None = None,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._tap = tap
        batch = min(buffer, _BATCH)
        self._wire = memoryview(bytearray(batch))
        # a record that began in an earlier read adds to what one batch holds
        self._plain = memoryview(bytearray(batch + 3 * _RECORD))
        self._room = len(self._plain)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.now = 0.0  # a coarse clock, set by the owner's sweep
        self.pauses = 0  # how often a direction had to wait for a slow reader

    # -- what the owner asks for

    def attach(self, sock: socket.socket, context: ssl.SSLContext, host: str, now: float) -> Link:
        """Take over an accepted, non-blocking socket and begin the handshake."""
        tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        link = Link(sock, tls, host, now)
        self._loop.add_reader(link.fd, self._readable, link)
        return link

    def say(self, link: Link, data: bytes) -> None:
        """Send bytes of the beacon's own to a party."""
        if link.state >= State.LEAVING:
            return
        try:
            link.tls.write(data)
        except ssl.SSLError:
            self._lost(link, "broken")
        self._flush(link)

    def join(self, one: Link, other: Link) -> None:
        """From now on what one sends is the other's."""
        one.peer, other.peer = other, one
        one.state = other.state = State.RELAYING
        one.last = other.last = self.now
        if one.pending is not None:
            self._pause(other)
        if other.pending is not None:
            self._pause(one)

    def relay_early(self, link: Link, prefix: bytes) -> None:
        """Send `prefix` and what the peer said before the match, as one."""
        peer = link.peer
        if peer is None:
            return
        early, peer.early = peer.early, b""
        if early:
            peer.relayed += len(early)
            if self._tap is not None:
                self._tap(side(peer), peer.room, memoryview(early))
        self.say(link, prefix + early)

    def dismiss(self, link: Link, farewell: bytes = b"", *, clean: bool = True) -> None:
        """Say `farewell`, close what we send, drop what still comes. The owner closes the link later."""
        if link.state >= State.LEAVING:
            return
        if farewell:
            self.say(link, farewell)
        if link.state is State.CLOSED:
            return
        link.state = State.LEAVING
        link.peer = None
        self._read(link)  # to notice when the other side has it all and closes
        self._finish(link, clean)

    def part(self, link: Link, reason: str) -> None:
        """End a pair from the middle."""
        peer = link.peer
        if link.state is State.RELAYING and peer is not None:
            self._listener.pair_over(link, peer, reason)
            self.dismiss(link, clean=False)
            self.dismiss(peer, clean=False)

    def catch_up(self, link: Link) -> None:
        """Handle at once what may have come for a link."""
        self._readable(link)

    def close(self, link: Link) -> None:
        """Close the socket now. Unsent bytes are lost."""
        if link.state is State.CLOSED:
            return
        link.state = State.CLOSED
        self._loop.remove_reader(link.fd)
        self._loop.remove_writer(link.fd)
        link.peer = None
        link.pending = None
        link.sock.close()
        self._listener.closed(link)

    # -- reading

    def _readable(self, link: Link) -> None:
        try:
            state = link.state
            if state is State.CLOSED:
                return
            try:
                if state is State.RELAYING:
                    size = link.sock.recv_into(self._wire)
                else:
                    size = link.sock.recv_into(self._wire, _TALK)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._lost(link, "reset")
                return
            if not size:
                self._end_of_file(link)
            elif state is State.RELAYING and not link.ended:
                self._incoming.write(self._wire[:size])
                self._relay(link)
            elif state is State.TALKING:
                self._incoming.write(self._wire[:size])
                self._talk(link)
            elif state is State.HANDSHAKING:
                self._incoming.write(self._wire[:size])
                self._handshake(link)
            if self._incoming.pending:
                raise RuntimeError("bytes of one connection are left where another's will be")
        except Exception as error:  # noqa: BLE001  one link's fault must not become a busy loop for all
            self._discard()
            self._listener.failed(link, error)
            self._lost(link, "fault")

    def _relay(self, link: Link) -> None:
        peer = link.peer
        assert peer is not None
        incoming, outgoing, plain, limit = self._incoming, self._outgoing, self._plain, self._room
        read: Callable[[int, memoryview], int] = link.tls.read  # type: ignore[assignment]  # given a buffer
        over = ""
        size = 0
        try:
            while True:
                count = read(limit, plain[size:])
                if not count:
                    over = "closed"
                    break
                size += count
                if not incoming.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            over = "closed"
        except ssl.SSLError:
            over = "broken"
        if over:
            incoming.read()
        if outgoing.pending:  # an alert, or the answer to a key update
            self._flush(link)
        if size and not peer.finished:
            if self._tap is not None:
                self._tap(side(link), link.room, plain[:size].toreadonly())
            write = peer.tls.write
            done = write(plain[:size])
            while done < size:
                done += write(plain[done:size])
            link.relayed += size
            link.last = self.now
            self._flush(peer)
        if over == "closed":
            self._half_close(link, clean=True)
        elif over:
            self._lost(link, over)

    def _talk(self, link: Link) -> None:
        incoming = self._incoming
        heard = b""
        over = False
        try:
            while True:
                data = link.tls.read(_RECORD)
                if not data:
                    over = True
                    break
                heard += data
                if not incoming.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            over = True
        if over:
            incoming.read()
        if self._outgoing.pending:
            self._flush(link)
        if over:
            self._lost(link, "left")
        elif heard:
            self._listener.heard(link, heard)

    def _handshake(self, link: Link) -> None:
        try:
            link.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush(link)
            return
        except ssl.SSLError as error:
            self._incoming.read()
            self._flush(link)
            if link.state is State.HANDSHAKING:
                self._listener.handshake_failed(link, error.reason or "broken off")
                self.dismiss(link, clean=False)
            return
        if self._outgoing.pending:
            self._flush(link)
        if link.state is State.HANDSHAKING:
            link.state = State.TALKING
            self._listener.established(link)
        if self._incoming.pending:  # the hello came with the end of the handshake
            if link.state is State.TALKING:
                self._talk(link)
            else:
                self._incoming.read()

    def _end_of_file(self, link: Link) -> None:
        if link.state is State.RELAYING:
            self._pause(link)
            self._half_close(link, clean=False)
        elif link.state is State.LEAVING and link.pending is not None:
            link.ended = True
            self._pause(link)
        else:
            self._lost(link, "left")

    # -- writing

    def _flush(self, link: Link) -> None:
        data = self._outgoing.read()
        if not data or link.state is State.CLOSED:
            return
        if link.pending is not None:  # only words of the beacon's own: a peer that waits is not read
            link.pending = memoryview(bytes(link.pending) + data)
            return
        try:
            sent = link.sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._lost(link, "reset")
            return
        if sent < len(data):
            link.pending = memoryview(data)[sent:]
            self._loop.add_writer(link.fd, self._writable, link)
            if link.peer is not None:
                self.pauses += 1
                self._pause(link.peer)

    def _writable(self, link: Link) -> None:
        pending = link.pending
        if pending is None:
            self._loop.remove_writer(link.fd)
            return
        try:
            sent = link.sock.send(pending)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lost(link, "reset")
            return
        if sent < len(pending):
            link.pending = pending[sent:]
            return
        link.pending = None
        self._loop.remove_writer(link.fd)
        if link.finished:
            self._shut(link)
        if link.state is State.LEAVING and link.ended:
            self.close(link)
        elif link.peer is not None:
            if not link.peer.ended:
                self._read(link.peer)
            self._over_when_finished(link, link.peer)

    def _pause(self, link: Link) -> None:
        if link.reading:
            link.reading = False
            self._loop.remove_reader(link.fd)

    def _read(self, link: Link) -> None:
        if not link.reading:
            link.reading = True
            self._loop.add_reader(link.fd, self._readable, link)

    # -- endings

    def _half_close(self, link: Link, *, clean: bool) -> None:
        """`link` sends no more: pass that on, with a close_notify when it came with one."""
        peer = link.peer
        if link.state is not State.RELAYING or peer is None or link.ended:
            return
        link.ended = True
        self._finish(peer, clean)
        if link.peer is peer:
            self._over_when_finished(link, peer)

    def _finish(self, link: Link, clean: bool) -> None:
        link.finished = True
        if clean:
            try:
                link.tls.unwrap()
            except ssl.SSLError:
                pass  # it would like the other side's close_notify too; that may take hours
        self._flush(link)
        if link.pending is None:
            self._shut(link)

    def _shut(self, link: Link) -> None:
        try:
            link.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed, or reset: reading will tell

    def _over_when_finished(self, link: Link, peer: Link) -> None:
        if link.ended and peer.ended and link.pending is None and peer.pending is None:
            self.close(link)
            self.close(peer)
            self._listener.pair_over(link, peer, "finished")

    def _lost(self, link: Link, reason: str) -> None:
        state, peer = link.state, link.peer
        if state is State.CLOSED:
            return
        self.close(link)
        if state is State.RELAYING and peer is not None:
            self._listener.pair_over(link, peer, reason)
            self.dismiss(peer, clean=False)
        elif state < State.RELAYING:
            self._listener.gone(link)

    def _discard(self) -> None:
        """After a fault: nothing of one link's bytes may reach another."""
        self._incoming.read()
        self._outgoing.read()
