"""The run with secrets: protect, fetch, start the application, then keep all of it alive.

`app` imports it only where there is something to fetch, so that a plain init never loads TLS.
"""

from cloudtaser.wrapper.addresses import Endpoint
from cloudtaser.wrapper.agent import Agent
from cloudtaser.wrapper.client import Client
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.delivery import Values
from cloudtaser.wrapper.errors import fault
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import Loop, Task, Wait
from cloudtaser.wrapper.session import Session
from cloudtaser.wrapper.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine

    from cloudtaser.wrapper.score import Score
    from cloudtaser.wrapper.sealing import Sealing

_SETTLED = 1.0  # seconds after its start in which an application has loaded what it is linked to


class _Life:
    """What runs beside the supervisor: the session, the agent's client, who tells the score, and in sealed
    mode the listener and the announcement.
    """

    __slots__ = (
        "_agent", "_client", "_config", "_log", "_loop", "_supervisor", "_tasks", "_values", "session",
    )  # fmt: skip

    def __init__(
        self, config: Config, endpoint: Endpoint, loop: Loop, supervisor: Supervisor, log: Log
    ) -> None:
        self._config = config
        self._loop = loop
        self._supervisor = supervisor
        self._log = log
        self._client = Client(loop, config, endpoint)
        self._agent = Agent(loop, config, log)
        self._tasks: list[Task] = []
        self._values: Values | None = None  # what was delivered last
        self.session = Session(loop, config, self._client, log)

    async def run(self) -> None:
        """Until it is cancelled. Raises WrapperError where the application never starts."""
        await self._agent.register()
        self._beside(self._agent.keep(self._document))
        if self._config.is_sealed:
            self.session.sealing = self._open_to_unsealing()
        self._deliver(await self.session.start())
        self._beside(self._show_score())
        await self.session.watch(self._deliver)

    def end(self) -> None:
        """End what runs beside."""
        for task in self._tasks:
            task.cancel()
        self._agent.close()

    def _beside(self, coroutine: "Coroutine[Wait, bool, object]") -> None:
        self._tasks.append(self._loop.spawn(coroutine))

    def _deliver(self, values: Values) -> None:
        self._values = values
        self._supervisor.deliver(values)

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
        listener = Listener(self._loop, config.listen, sealing, lambda: self._supervisor.pid > 0, log)
        log.info("sealed: waiting for a token", address=listener.address)
        self._beside(listener.serve())
        if config.operator is not None:
            self._beside(Announcement(self._loop, config, config.operator, pins, sealing, log).run())
        return sealing

    async def _show_score(self) -> None:
        try:
            await self._tell_score()
        except Exception as error:  # noqa: BLE001  # a fault of ours must not end the application
            self._log.warning("the protection score cannot be told", reason=fault(error))

    async def _tell_score(self) -> None:
        """Log the score once, send it to the agent, and tell whoever asks."""
        from cloudtaser.wrapper.score import MAXIMUM
        from cloudtaser.wrapper.scoreboard import Scoreboard

        await self._loop.sleep(_SETTLED)
        score = self._score()
        self._log.info(
            "protection score", score=score.points, max=MAXIMUM, band=score.band, missing=score.missing()
        )
        self._agent.renew_score()
        board = Scoreboard(self._loop, self._score)
        try:
            await board.serve()
        finally:
            board.close()

    def _score(self) -> "Score":
        """As it is now. What measures is loaded when the application runs already."""
        from cloudtaser.wrapper.measure import measure

        values = [] if self._values is None else list(self._values.spans.values())
        return measure(self._agent.registration, self._client.token, values, self._supervisor.pid)

    def _document(self) -> bytes:
        """The score for the agent; none before the application runs."""
        return b"" if self._values is None else self._score().document()


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
