"""The run with secrets: fetch, then start the application, then keep both alive.

`app` imports it only where there is something to fetch, so that a plain init never loads TLS.
"""

from cloudtaser.wrapper.addresses import Endpoint
from cloudtaser.wrapper.client import Client
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import Loop, Task
from cloudtaser.wrapper.session import Session
from cloudtaser.wrapper.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloudtaser.wrapper.sealing import Sealing


class _Life:
    """What runs beside the supervisor: the session, and in sealed mode the listener and the announcement."""

    __slots__ = ("_client", "_config", "_is_running", "_log", "_loop", "_supervisor", "_tasks", "session")

    def __init__(
        self, config: Config, endpoint: Endpoint, loop: Loop, supervisor: Supervisor, log: Log
    ) -> None:
        self._config = config
        self._loop = loop
        self._supervisor = supervisor
        self._log = log
        self._client = Client(loop, config, endpoint)
        self._is_running = False
        self._tasks: list[Task] = []
        sealing = self._open_to_unsealing() if config.is_sealed else None
        self.session = Session(loop, config, self._client, log, sealing)

    async def run(self) -> None:
        """Until it is cancelled. Raises WrapperError where the application never starts."""
        self._supervisor.deliver(await self.session.start())
        self._is_running = True
        await self.session.watch(self._supervisor.deliver)

    def end(self) -> None:
        """End what runs beside."""
        for task in self._tasks:
            task.cancel()

    def _open_to_unsealing(self) -> "Sealing":
        from cloudtaser.wrapper.announcement import Announcement
        from cloudtaser.wrapper.listener import Listener
        from cloudtaser.wrapper.sealing import Sealing, check

        check()
        config, log, pins = self._config, self._log, self._client.pins
        sealing = Sealing(
            config.pod_uid,
            config.container,
            config.fingerprint,
            lambda: pins.pem,
            allow_plain=config.allow_plain_unseal,
        )
        listener = Listener(self._loop, config.listen, sealing, lambda: self._is_running, log)
        log.info("sealed: waiting for a token", address=listener.address)
        self._tasks.append(self._loop.spawn(listener.serve()))
        if config.operator is not None:
            announcement = Announcement(self._loop, config, config.operator, pins, sealing, log)
            self._tasks.append(self._loop.spawn(announcement.run()))
        return sealing


def supervise_with_secrets(
    config: Config, endpoint: Endpoint, loop: Loop, supervisor: Supervisor, supervising: Task, log: Log
) -> object:
    """Run until the application has ended; its exit code. Raises WrapperError where it never starts."""
    beside = _Life(config, endpoint, loop, supervisor, log)
    session = beside.session
    life = loop.spawn(beside.run())
    try:
        return loop.run(supervising, life)
    finally:
        life.cancel()
        beside.end()
        if config.revoke_on_exit and session.has_token_to_revoke:
            supervising.cancel()
            loop.run(loop.spawn(session.revoke()), loop.spawn(supervisor.wait_for_impatience()))
