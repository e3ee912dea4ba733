"""The session: a token, the secrets it can read, and what keeps both fresh.

`fetching` runs it: `start` until everything is there, then `watch` for as long as the application lives.
All decisions about one secret are in `secrets`, all timing in `lease` and `backoff`.
"""

from cloudtaser.wrapper import jsontext, login
from cloudtaser.wrapper.backoff import Backoff, about
from cloudtaser.wrapper.client import Answer, Client
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.delivery import Values
from cloudtaser.wrapper.errors import ConfigError, RefusedError, UnavailableError, WrapperError, fault
from cloudtaser.wrapper.lease import Lease
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import Loop
from cloudtaser.wrapper.secrets import CHANGED, FORBIDDEN, GONE, Secret, compose, lease_renewal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_REMIND_EVERY = 30.0
_REFUSED_PAUSE = 30.0
_MAX_DEBOUNCES = 5
_REVOKE_TIMEOUT = 1.0
_KEPT_OPEN = 60.0
_LAST_ATTEMPT = 1.0
_POD_CA_PATH = "cloudtaser/pod-ca"
_POD_CA_INTERVAL = 180.0


class Session:
    """One run's dealings with OpenBao. Only one of its coroutines runs at a time."""

    __slots__ = (
        "_away", "_backoff", "_client", "_complaint", "_config", "_delivered", "_is_pinned", "_log", "_loop",
        "_next_look", "_next_pod_ca", "_not_before", "_pod_ca_complaint", "_secrets", "_stale", "_token",
    )  # fmt: skip

    def __init__(self, loop: Loop, config: Config, client: Client, log: Log) -> None:
        self._loop = loop
        self._config = config
        self._client = client
        self._log = log
        self._backoff = Backoff()
        self._token: Lease | None = None
        self._secrets: list[Secret] = []
        self._stale: set[Secret] = set()
        self._delivered: Values | None = None
        self._next_look = 0.0
        self._not_before = 0.0
        self._away = False
        self._complaint = ""
        self._is_pinned = config.endpoint is not None and config.endpoint.broker
        self._next_pod_ca = 0.0
        self._pod_ca_complaint = ""

    async def start(self) -> Values:
        """Log in and read every path, again and again while that can help. Raises what stops the wrapper."""
        try:
            return await self._start()
        finally:
            self._client.deadline = None

    async def _start(self) -> Values:
        limit = self._config.startup_timeout
        began = self._loop.now()
        reminded = None
        while True:
            try:
                if limit:  # the last attempt, at the end of the time, gets a moment too
                    self._client.deadline = max(began + limit, self._loop.now() + _LAST_ATTEMPT)
                return await self._start_once()
            except UnavailableError as error:
                pause = max(self._backoff.next(), error.retry_after)
                now = self._loop.now()
                left = began + limit - now
                if limit and left <= 0:
                    what = f"secrets unreachable for {now - began:.0f} s: {error.diagnostic()}"
                    raise UnavailableError(
                        what, fix="CLOUDTASER_STARTUP_TIMEOUT is how long to try"
                    ) from None
                if reminded is None or now - reminded >= _REMIND_EVERY:
                    self._log.warning("secrets unreachable, trying again", reason=error.diagnostic())
                    reminded = now
                else:
                    self._log.debug("still unreachable", reason=error.diagnostic())
                await self._loop.sleep(min(pause, left) if limit else pause)

    async def _start_once(self) -> Values:
        is_fresh = self._token is None
        if is_fresh:
            await self._log_in()
        paths = self._config.paths
        answers = await self._client.read([Secret(path).read_path() for path in paths])
        secrets: list[Secret] = []
        for path, answer in zip(paths, answers, strict=True):
            secret = Secret(path)
            trouble = secret.take(answer, self._loop.now())
            if trouble == FORBIDDEN and not is_fresh:
                self._token = None
                raise UnavailableError("the token of an earlier attempt is refused", on=str(path))
            if trouble == FORBIDDEN:
                raise RefusedError(f"reading is refused: {answer.problem()}", on=str(path))
            if trouble == GONE:
                problem = answer.message() or "nothing is there"
                raise ConfigError(f"cannot read {path}: {problem}", on="CLOUDTASER_SECRET_PATHS")
            secrets.append(secret)
        values, warnings = compose(self._config, secrets)
        for warning in warnings:
            self._log.warning(warning)
        self._secrets = secrets
        self._delivered = values
        self._next_look = self._loop.now() + about(self._config.rotation_interval)
        self._next_pod_ca = self._loop.now() + about(_POD_CA_INTERVAL)
        self._backoff.reset()
        self._log.info("secrets loaded", secret_count=len(values.spans), paths=[str(path) for path in paths])
        return values

    async def watch(self, deliver: "Callable[[Values], None]") -> None:
        """Renew and look for changes for ever. Whatever fails, the application runs on with what it has."""
        while True:
            await self._loop.until(self._due())
            try:
                await self._round(deliver)
            except UnavailableError as error:
                if not self._away:
                    self._log.warning(
                        "OpenBao unreachable, the application runs on", reason=error.diagnostic()
                    )
                self._away = True
                self._not_before = self._loop.now() + max(self._backoff.next(), error.retry_after)
            except WrapperError as error:
                self._complain(error.diagnostic())
                self._not_before = self._loop.now() + about(_REFUSED_PAUSE)
            except Exception as error:  # noqa: BLE001  # a fault of ours must not end the application
                self._client.close()
                self._complain(fault(error))
                self._not_before = self._loop.now() + about(_REFUSED_PAUSE)
            else:
                if self._away:
                    self._log.info("OpenBao reachable again")
                self._away = False
                self._backoff.reset()

    @property
    def has_token_to_revoke(self) -> bool:
        """Whether there is a token of our own; one that was given to us is not ours to revoke."""
        return self._client.token is not None and self._config.method != "token"

    async def revoke(self) -> None:
        """Give the token back, and with it every lease; the server gets a second for it."""
        self._client.close()
        try:
            await self._client.call(b"POST", "auth/token/revoke-self", timeout=_REVOKE_TIMEOUT)
        except WrapperError as error:
            self._log.debug("token not revoked", reason=error.diagnostic())

    def _due(self) -> float | None:
        if self._stale:
            return self._not_before
        times = [secret.lease.due for secret in self._secrets if secret.lease is not None]
        times.append(self._token.due if self._token is not None else None)
        if self._is_watching:
            times.append(self._next_look)
        if self._is_pinned:
            times.append(self._next_pod_ca)
        due = [time for time in times if time is not None]
        return max(self._not_before, min(due)) if due else None

    @property
    def _is_watching(self) -> bool:
        return self._config.rotation != "none" and any(secret.is_versioned for secret in self._secrets)

    async def _round(self, deliver: "Callable[[Values], None]") -> None:
        """Whatever is due now."""
        now = self._loop.now()
        if self._token is not None and _is_due(self._token, now):
            await self._keep_token(self._token)
        for secret in self._secrets:
            if secret.lease is not None and _is_due(secret.lease, now):
                await self._keep_lease(secret, secret.lease)
        if self._is_watching and self._next_look <= now:
            await self._look_until_quiet()
            self._next_look = self._loop.now() + about(self._config.rotation_interval)
            self._next_pod_ca = now
        if self._stale:
            await self._refresh(deliver)
        if self._is_pinned and self._next_pod_ca <= now:
            await self._look_at_pod_ca()
        if (self._due() or now + _KEPT_OPEN) - now >= _KEPT_OPEN:
            self._client.close()

    async def _log_in(self) -> None:
        self._client.token, self._token = await login.log_in(self._client, self._config, self._loop.now)

    async def _log_in_anew(self) -> None:
        """A new token; the secrets whose leases go with the old one are to be read again."""
        await self._log_in()
        self._log.info("logged in anew")
        self._stale |= {secret for secret in self._secrets if secret.lease is not None}

    async def _keep_token(self, lease: Lease) -> None:
        if lease.renewable:
            answer = await self._client.call(b"POST", "auth/token/renew-self", login.empty_body())
            if answer.status == 200:
                lease.renewed(login.duration(answer), self._loop.now())
                return
        if self._config.method == "token":
            lease.give_up()
            self._log.warning("the token given in VAULT_TOKEN cannot be renewed further")
        else:
            await self._log_in_anew()

    async def _keep_lease(self, secret: Secret, lease: Lease) -> None:
        if lease.renewable:
            answer = await self._client.call(b"POST", "sys/leases/renew", lease_renewal(lease))
            if answer.status == 200:
                lease.renewed(secret.renewed_duration(answer), self._loop.now())
                return
            if answer.status == 403 and await self._token_is_lost():
                await self._log_in_anew()
        if self._config.rotation == "none":
            lease.give_up()
            self._log.warning(
                "a lease cannot be renewed further, and rotation is none", path=str(secret.path)
            )
        else:
            self._stale.add(secret)

    async def _look_until_quiet(self) -> None:
        """Find the secrets that changed; wait until no more do, so that changes made together cause one
        restart.
        """
        changed = await self._look()
        for _ in range(_MAX_DEBOUNCES if changed else 0):
            await self._loop.sleep(self._config.rotation_debounce)
            more = await self._look()
            if not more - changed:
                break
            changed |= more
        self._stale |= changed

    async def _look(self) -> set[Secret]:
        """The secrets that have another version than the one that was read."""
        watched = [secret for secret in self._secrets if secret.is_versioned]
        answers = await self._client.read([secret.watch_path() for secret in watched])
        if any(answer.status == 403 for answer in answers) and await self._token_is_lost():
            await self._log_in_anew()
            answers = await self._client.read([secret.watch_path() for secret in watched])
        changed: set[Secret] = set()
        for secret, answer in zip(watched, answers, strict=True):
            found = secret.look(answer)
            if found == CHANGED:
                changed.add(secret)
            self._note(secret, found, answer)
        return changed

    async def _look_at_pod_ca(self) -> None:
        """The bridge may hand over the next pod CA: pin it, and show that it holds. Whatever comes of it,
        what there is goes on.
        """
        self._next_pod_ca = self._loop.now() + about(_POD_CA_INTERVAL)
        trouble = ""
        try:
            answer = await self._client.call(b"GET", _POD_CA_PATH)
            pem = jsontext.text(answer.buffer, answer.root.get("pod_ca")) if answer.status == 200 else ""
            if pem and self._client.pin(pem):  # a bridge may not have it
                await self._client.call(b"GET", _POD_CA_PATH)
                self._log.info("the pod CA was rotated: the next one is pinned now")
        except WrapperError as error:
            trouble = error.diagnostic()
        if trouble and trouble != self._pod_ca_complaint:
            self._log.warning("the next pod CA is not pinned yet", reason=trouble)
        self._pod_ca_complaint = trouble

    async def _token_is_lost(self) -> bool:
        """Whether the token itself is the reason for a refusal; only where a new one can be had."""
        if self._config.method == "token":
            return False
        return (await self._client.call(b"GET", "auth/token/lookup-self")).status == 403

    async def _refresh(self, deliver: "Callable[[Values], None]") -> None:
        """Read what is stale anew and, if what the application would get differs, deliver it."""
        order = [secret for secret in self._secrets if secret in self._stale]
        answers = await self._client.read([secret.read_path() for secret in order])
        self._stale = set()
        fresh: dict[Secret, Secret] = {}
        for secret, answer in zip(order, answers, strict=True):
            successor = Secret(secret.path)
            trouble = successor.take(answer, self._loop.now())
            if trouble:
                self._note(secret, trouble, answer)
                if secret.lease is not None:
                    secret.lease.postpone(self._loop.now() + about(_REFUSED_PAUSE))
            else:
                self._note(secret, "", answer)
                successor.watches_data = secret.watches_data
                fresh[secret] = successor
        secrets = [fresh.get(secret, secret) for secret in self._secrets]
        values, warnings = compose(self._config, secrets)
        for warning in warnings:
            self._log.debug(warning)
        self._secrets = secrets
        self._complaint = ""
        if values != self._delivered:
            self._delivered = values
            self._log.debug("secrets changed", paths=[str(secret.path) for secret in fresh])
            deliver(values)

    def _note(self, secret: Secret, trouble: str, answer: Answer) -> None:
        """Say it once when a secret becomes unreadable, and once when it is back."""
        trouble = "" if trouble == CHANGED else trouble
        if trouble == secret.trouble:
            return
        secret.trouble = trouble
        if trouble:
            what = f"a secret is {trouble}, the application keeps the value it has"
            self._log.warning(what, path=str(secret.path), reason=answer.problem())
        else:
            self._log.info("a secret is readable again", path=str(secret.path))

    def _complain(self, what: str) -> None:
        if what != self._complaint:
            self._log.warning("the application keeps the values it has", reason=what)
        self._complaint = what


def _is_due(lease: Lease, now: float) -> bool:
    return lease.due is not None and lease.due <= now
