"""The pod CA that follows: the bridge is asked for it inside the pinned session, and it is pinned next.

`session` calls `look` when it is due and with each look for changes. It has nothing to do with secrets, and
whatever comes of it, what there is goes on.
"""

from cloudtaser.wrapper import jsontext
from cloudtaser.wrapper.backoff import about
from cloudtaser.wrapper.client import Client
from cloudtaser.wrapper.errors import WrapperError
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import Loop

_PATH = "cloudtaser/pod-ca"
_INTERVAL = 180.0


class PodCa:
    """`next_look` is when the bridge is to be asked, on the loop's clock."""

    __slots__ = ("_client", "_complaint", "_log", "_loop", "next_look")

    def __init__(self, loop: Loop, client: Client, log: Log) -> None:
        self._loop = loop
        self._client = client
        self._log = log
        self._complaint = ""
        self.next_look = loop.now() + about(_INTERVAL)

    async def look(self) -> None:
        """The bridge may hand over the next pod CA: pin it, and show that it holds."""
        self.next_look = self._loop.now() + about(_INTERVAL)
        trouble = ""
        try:
            answer = await self._client.call(b"GET", _PATH)
            pem = jsontext.text(answer.buffer, answer.root.get("pod_ca")) if answer.status == 200 else ""
            if pem and self._client.pin(pem):  # a bridge may not have it
                await self._client.call(b"GET", _PATH)
                self._log.info("the pod CA was rotated: the next one is pinned now")
        except WrapperError as error:
            trouble = error.diagnostic()
        if trouble and trouble != self._complaint:
            self._log.warning("the next pod CA is not pinned yet", reason=trouble)
        self._complaint = trouble
