"""The announcement: a sealed wrapper tells its operator the key to seal for, until it has its token.

`fetching` runs it beside the listener. Posted over TLS to the operator, whose certificate must be of the pod
CA; the pod's own token for this purpose alone goes along, so that the operator can check by TokenReview whose
key it is (spec/wire.md, "Unseal envelope, version 2").
"""

from cloudtaser.wrapper.addresses import Endpoint
from cloudtaser.wrapper.backoff import Backoff, about
from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.connection import Interrupted, Trust, connect
from cloudtaser.wrapper.errors import ConfigError, RefusedError, UnavailableError, WrapperError, fault
from cloudtaser.wrapper.http1 import Response, write_request
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.login import append_jwt
from cloudtaser.wrapper.loop import Loop
from cloudtaser.wrapper.pins import Pins
from cloudtaser.wrapper.sealing import Sealing

OPERATOR_NAME = "operator.cloudtaser.internal"
PATH = b"/v1/announce"
_WITHIN = 5.0  # seconds for one attempt, connecting included
_AGAIN = 15.0  # seconds until the same key is announced once more, give or take a tenth
_REFUSED_PAUSE = 30.0
_REMIND_EVERY = 60.0
_LONGEST_WAIT = 60.0
_MAX_BODY = 20_480


class _OperatorTrust(Trust):
    """The operator under the pod CA as it is pinned at the time."""

    __slots__ = ()

    def __init__(self, config: Config, endpoint: Endpoint, pins: Pins) -> None:
        super().__init__(config, endpoint)
        self.pins = pins

    @property
    def server_name(self) -> str:
        """The name to ask for and to check."""
        return OPERATOR_NAME


class Announcement:
    """Announces each sealing's key to the operator at `config.operator`."""

    __slots__ = (
        "_backoff",
        "_config",
        "_endpoint",
        "_log",
        "_loop",
        "_reminded",
        "_sealing",
        "_told",
        "_trust",
    )

    def __init__(
        self, loop: Loop, config: Config, endpoint: Endpoint, pins: Pins, sealing: Sealing, log: Log
    ) -> None:
        self._loop = loop
        self._config = config
        self._endpoint = endpoint
        self._trust = _OperatorTrust(config, endpoint, pins)
        self._sealing = sealing
        self._log = log
        self._backoff = Backoff()
        self._told = 0  # which sealing was announced last
        self._reminded: float | None = None

    async def run(self) -> None:
        """For ever. Whatever fails is tried again."""
        while True:
            await self._sealing.until_sealed()
            await self._sealing.change(self._loop.now() + await self._attempt())

    async def _attempt(self) -> float:
        """One announcement; how many seconds to wait for its effect."""
        try:
            await self._announce()
        except UnavailableError as error:
            self._complain(error.diagnostic())
            return max(self._backoff.next(), min(error.retry_after, _LONGEST_WAIT))
        except WrapperError as error:
            self._complain(error.diagnostic())
            return about(_REFUSED_PAUSE)
        except Exception as error:  # noqa: BLE001  # a fault of ours must not end the application
            self._complain(fault(error))
            return about(_REFUSED_PAUSE)
        self._backoff.reset()
        self._reminded = None
        if self._told != self._sealing.count:
            self._told = self._sealing.count
            self._log.info("sealed: the operator knows the key", operator=self._endpoint.authority())
        return about(_AGAIN)

    def _complain(self, what: str) -> None:
        now = self._loop.now()
        if self._reminded is None or now - self._reminded >= _REMIND_EVERY:
            self._reminded = now
            self._log.warning("sealed: the operator was not told the key, trying again", reason=what)
        else:
            self._log.debug("the operator was not told the key", reason=what)

    async def _announce(self) -> None:
        """Raises UnavailableError, RefusedError, ConfigError."""
        deadline = self._loop.now() + _WITHIN
        body = self._body()
        request = Buffer(0, 1)
        connection = None
        try:
            headers = [(b"Host", OPERATOR_NAME.encode()), (b"Content-Type", b"application/json")]
            request = write_request(b"POST", PATH, [*headers, (b"Connection", b"close")], body)
            connection = await connect(self._loop, self._endpoint, self._trust, deadline)
            responses, _ = await connection.exchange([request], deadline)
        except Interrupted as error:
            raise UnavailableError(error.what, on=self._endpoint.authority()) from None
        finally:
            if connection is not None:
                connection.close()
            request.wipe()
            body.wipe()
        self._judge(responses[0])

    def _judge(self, response: Response) -> None:
        where = self._endpoint.authority()
        if response.status in (401, 403, 404):
            raise RefusedError(f"the operator does not know this pod: status {response.status}", on=where)
        if not 200 <= response.status < 300:
            what = f"the operator is not ready: status {response.status}"
            raise UnavailableError(what, on=where, retry_after=response.retry_after())

    def _body(self) -> Buffer:
        """{"v", "pod_uid", "container", "public_key", "jwt"}, the JWT read straight into it."""
        config = self._config
        body = Buffer(4096, _MAX_BODY)
        body.append(
            f'{{"v":2,"pod_uid":"{config.pod_uid}","container":"{config.container}",'
            f'"public_key":"{self._sealing.public_key}","jwt":"'.encode()
        )
        try:
            append_jwt(body, config.unseal_jwt_file, "CLOUDTASER_UNSEAL_JWT_FILE")
        except ConfigError as error:  # the kubelet may bring it yet
            raise UnavailableError(error.what, on=error.on) from None
        body.append(b'"}')
        return body
