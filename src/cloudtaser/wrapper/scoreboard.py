"""The scoreboard: a running wrapper tells its protection score to root and to its own user.

`fetching` serves it on an abstract Unix socket named after the process, `ask` is the other end, for
`cloudtaser-wrapper score --pid`. Nothing is read from whoever connects; the kernel says who it is.
"""

import _socket
import errno
import posix

from cloudtaser.wrapper.loop import READ, Loop, Wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtaser.wrapper.score import Score

_BACKLOG = 4
_PAUSE = 0.05  # seconds between two answers: measuring costs some milliseconds
_WITHIN = 5.0
_MAX_ANSWER = 65_536
_CREDENTIALS = 12  # struct ucred: pid, uid, gid


class Scoreboard:
    """Answers until `close`. Without /proc, or where the name is taken, nobody can ask."""

    __slots__ = ("_loop", "_measure", "_socket")

    def __init__(self, loop: Loop, measure: "Callable[[], Score]") -> None:
        self._loop = loop
        self._measure = measure
        self._socket: _socket.socket | None = None
        name = _name(posix.getpid())
        if not name:
            return
        socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            socket.bind(name)
            socket.listen(_BACKLOG)
        except OSError:
            socket.close()
            return
        socket.setblocking(False)
        self._socket = socket

    async def serve(self) -> None:
        """Tell whoever asks and may know, one after the other."""
        while self._socket is not None:
            await Wait(self._socket.fileno(), READ, None)
            try:
                fd, _ = self._socket._accept()  # type: ignore[attr-defined]  # what the stubs leave out
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                    await self._loop.sleep(1.0)
                continue
            asker = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
            try:
                asker.setblocking(False)
                if _peer(asker)[1] in (0, posix.geteuid()):
                    asker.send(self._measure().document() + b"\n")
            except OSError:
                pass
            finally:
                asker.close()
            await self._loop.sleep(_PAUSE)

    def close(self) -> None:
        """Answer nobody any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def ask(pid: int) -> bytes:
    """What the wrapper with this process id says of itself; nothing where it cannot be asked from here."""
    name, answer = _name(pid), b""
    if not name:
        return b""
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        socket.settimeout(_WITHIN)
        socket.connect(name)
        if _peer(socket)[0] != pid:
            return b""  # somebody else took its name
        while len(answer) < _MAX_ANSWER and (data := socket.recv(_MAX_ANSWER)):
            answer += data
    except OSError:
        return b""
    finally:
        socket.close()
    return answer.strip() if answer.endswith(b"\n") else b""


def _name(pid: int) -> bytes:
    """Containers of a pod share the network namespace, in which names live, but not the process ids."""
    try:
        namespace = posix.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return b""
    return b"\0cloudtaser-wrapper/%d/%d" % (namespace, pid)


def _peer(socket: _socket.socket) -> tuple[int, int]:
    """Process and user id of the other side."""
    credentials = socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS)
    return int.from_bytes(credentials[:4], "little"), int.from_bytes(credentials[4:8], "little")
