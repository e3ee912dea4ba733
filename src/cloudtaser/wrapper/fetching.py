"""The run with secrets: fetch, then start the application, then keep both alive.

`app` imports it only where there is something to fetch, so that a plain init never loads TLS.
"""

from cloudtaser.wrapper.client import Client
from cloudtaser.wrapper.config import Config, Endpoint
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import Loop, Task
from cloudtaser.wrapper.session import Session
from cloudtaser.wrapper.supervisor import Supervisor


def supervise_with_secrets(
    config: Config, endpoint: Endpoint, loop: Loop, supervisor: Supervisor, supervising: Task, log: Log
) -> object:
    """Run until the application has ended; its exit code. Raises WrapperError where it never starts."""
    client = Client(loop, config, endpoint)
    session = Session(loop, config, client, log)

    async def living() -> None:
        supervisor.deliver(await session.start())
        await session.watch(supervisor.deliver)

    life = loop.spawn(living())
    try:
        return loop.run(supervising, life)
    finally:
        life.cancel()
        if config.revoke_on_exit and session.has_token_to_revoke:
            supervising.cancel()
            loop.run(loop.spawn(session.revoke()), loop.spawn(supervisor.wait_for_impatience()))
