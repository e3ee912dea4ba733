"""The session: a token, the secrets it can read, and what keeps both fresh.

`fetching` runs it: `start` until everything is there, then `watch` for as long as the application lives.
All decisions about one secret are in `secrets`, about its lease in `upkeep`, all timing in `lease` and
`backoff`; `diagnosis` finds words for what is refused or missing.
"""

import time

from cloudtaser.wrapper import diagnosis, login, upkeep
from cloudtaser.wrapper.backoff import Backoff, about
from cloudtaser.wrapper.client import Answer, Call, Client
from cloudtaser.wrapper.composing import compose
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.delivery import Values
from cloudtaser.wrapper.errors import (
    ConfigError,
    NotReadyError,
    RefusedError,
    UnavailableError,
    WrapperError,
    fault,
)
from cloudtaser.wrapper.lease import Lease
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import Loop
from cloudtaser.wrapper.podca import PodCa
from cloudtaser.wrapper.secrets import CHANGED, FAILING, FORBIDDEN, GONE, UNRENEWED, Secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtaser.wrapper.sealing import Sealing

_REMIND_EVERY = 30.0
_GUESS_FIRST, _GUESS_LIMIT = 60.0, 600.0  # seconds between logins that only find out if the token is lost
_REFUSED_FIRST, _REFUSED_LIMIT = 1.0, 60.0  # seconds between attempts after a refusal
_MAX_DEBOUNCES = 5
_REVOKE_TIMEOUT = 1.0
_KEPT_OPEN = 60.0
_LAST_ATTEMPT = 1.0
_KEEPS = {
    FORBIDDEN: "a secret is forbidden, the application keeps the value it has",
    GONE: "a secret is gone, the application keeps the value it has",
    FAILING: "a secret cannot be made anew now, the application keeps the value it has",
    UNRENEWED: "a lease cannot be renewed now, the application keeps the value it has",
}


class Session:
    """One run's dealings with OpenBao. Only one of its coroutines runs at a time."""

    __slots__ = (
        "_away", "_backoff", "_client", "_complaint", "_config", "_delivered", "_guesses", "_is_blind",
        "_log", "_loop", "_next_guess", "_next_look", "_not_before", "_pod_ca", "_refusals", "_secrets",
        "_stale", "_token", "sealing",
    )  # fmt: skip

    def __init__(self, loop: Loop, config: Config, client: Client, log: Log) -> None:
        self.sealing: Sealing | None = None
        self._loop = loop
        self._config = config
        self._client = client
        self._log = log
        self._backoff = Backoff()
        self._refusals = Backoff(_REFUSED_FIRST, _REFUSED_LIMIT)
        self._token: Lease | None = None
        self._secrets: list[Secret] = []
        self._stale: set[Secret] = set()
        self._delivered: Values | None = None
        self._next_look = 0.0
        self._not_before = 0.0
        self._away = False
        self._complaint = ""
        self._is_blind = False
        self._next_guess = 0.0
        self._guesses = Backoff(_GUESS_FIRST, _GUESS_LIMIT)
        is_pinned = config.endpoint is not None and config.endpoint.broker
        self._pod_ca = PodCa(loop, client, log) if is_pinned else None

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
        secrets = [Secret(path) for path in paths]
        answers = await self._client.ask([secret.read_call() for secret in secrets])
        for answer in answers:
            self._client.judge(answer)
        for secret, path, answer in zip(secrets, paths, answers, strict=True):
            trouble = secret.take(answer, self._loop.now(), time.time())
            if trouble == FORBIDDEN and not is_fresh:
                self._token = None
                raise UnavailableError("the token of an earlier attempt is refused", on=str(path))
            if trouble == FORBIDDEN:
                found = await diagnosis.refused(self._client, path, answer)
                raise RefusedError(f"reading is refused: {found.what}", on=str(path), fix=found.fix)
            if trouble == GONE:
                found = await diagnosis.missing(self._client, path, answer)
                what = f"cannot read {path}: {found.what}"
                raise ConfigError(what, on=path.origin, fix=found.fix)
        values, warnings = compose(self._config, secrets)
        for warning in warnings:
            self._log.warning(warning)
        self._secrets = secrets
        self._delivered = values
        self._next_look = self._loop.now() + about(self._config.rotation_interval)
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
                    state = "answers, but is not ready" if isinstance(error, NotReadyError) else "unreachable"
                    self._log.warning(f"OpenBao {state}, the application runs on", reason=error.diagnostic())
                self._away = True
                self._not_before = self._loop.now() + max(self._backoff.next(), error.retry_after)
            except WrapperError as error:
                self._complain(error.diagnostic())
                self._not_before = self._loop.now() + self._refusals.next()
            except Exception as error:  # noqa: BLE001  # a fault of ours must not end the application
                self._client.close()
                self._complain(fault(error))
                self._not_before = self._loop.now() + self._refusals.next()
            else:
                if self._complaint:
                    self._log.info("secrets are kept fresh again")
                self._complaint = ""
                self._refusals.reset()
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
        if self._stale or self._client.token is None:
            return self._not_before
        times = [secret.lease.due for secret in self._secrets if secret.lease is not None]
        times.append(self._token.due if self._token is not None else None)
        if self._is_watching:
            times.append(self._next_look)
        if self._pod_ca is not None:
            times.append(self._pod_ca.next_look)
        due = [time for time in times if time is not None]
        return max(self._not_before, min(due)) if due else None

    @property
    def _is_watching(self) -> bool:
        if self._config.rotation == "none":
            return False
        return any(secret.is_versioned or _is_looked_up(secret) for secret in self._secrets)

    async def _round(self, deliver: "Callable[[Values], None]") -> None:
        """Whatever is due now."""
        now = self._loop.now()
        if self._client.token is None:  # sealed again, and what came could not be tried yet
            await self._log_in_anew()
        if self._token is not None and _is_due(self._token, now):
            await self._keep_token(self._token)
        for secret in self._secrets:
            if secret.lease is not None and _is_due(secret.lease, now):
                await self._keep_lease(secret, secret.lease)
        if self._is_watching and self._next_look <= now:
            await self._look_until_quiet()
            self._next_look = self._loop.now() + about(self._config.rotation_interval)
            if self._pod_ca is not None:
                self._pod_ca.next_look = now
        if self._stale:
            await self._refresh(deliver)
        if self._pod_ca is not None and self._pod_ca.next_look <= now:
            await self._pod_ca.look()
        if (self._due() or now + _KEPT_OPEN) - now >= _KEPT_OPEN:
            self._client.close()

    async def _log_in(self) -> None:
        client, config, now = self._client, self._config, self._loop.now
        if self.sealing is None:
            client.token, self._token = await login.log_in(client, config, now)
        else:
            self._token = await login.unsealed(client, config, now, self.sealing, self._log)

    async def _log_in_anew(self) -> None:
        """A new token; the secrets whose leases go with the old one are to be read again. Where it must come
        sealed, the application runs on until it does.
        """
        if self.sealing is not None and self._client.token is not None:
            self._client.token = None
            self._log.warning("sealed again: the token is gone, the application runs on")
        await self._log_in()
        self._log.info("logged in anew")
        self._stale |= {secret for secret in self._secrets if secret.has_lease}
        answer = await self._client.call(b"GET", "auth/token/lookup-self")
        if answer.status == 403 and not self._is_blind:
            self._next_guess = self._loop.now() + self._guesses.next()
        self._is_blind = answer.status == 403

    async def _keep_token(self, lease: Lease) -> None:
        if lease.renewable:
            answer = await self._client.call(b"POST", "auth/token/renew-self", login.empty_body())
            if answer.status == 200:
                lease.renewed(login.duration(answer), self._loop.now())
                return
        if self._config.method == "token" and self.sealing is None:
            lease.give_up()
            self._log.warning("the token given in VAULT_TOKEN cannot be renewed further")
        else:
            await self._log_in_anew()

    async def _keep_lease(self, secret: Secret, lease: Lease) -> None:
        verdict, answer = await upkeep.renew(self._client, self._loop, secret, lease)
        if verdict in (upkeep.KEPT, upkeep.LATER):
            await self._note(secret, UNRENEWED if verdict == upkeep.LATER else "", answer)
            return
        if verdict == upkeep.REFUSED and await self._token_is_lost():
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
        """The secrets that have another version than the one that was read, or whose lease was revoked."""
        watched = [secret for secret in self._secrets if secret.is_versioned or _is_looked_up(secret)]
        answers = await self._ask_about(watched)
        refused = [answer.status == 403 for answer in answers]
        if any(refused) and await self._token_is_lost(everything=all(refused)):
            await self._log_in_anew()
            answers = await self._ask_about(watched)
        elif not all(refused):
            self._next_guess = 0.0
            self._guesses.reset()
        changed: set[Secret] = set()
        for secret, answer in zip(watched, answers, strict=True):
            if secret.lease is not None:
                if upkeep.is_gone(secret.lease, answer):
                    changed.add(secret)
                    if secret not in self._stale:  # else it went with the token
                        self._log.warning("a lease was revoked: it is replaced", path=str(secret.path))
                continue
            found = secret.look(answer)
            if found == CHANGED:
                changed.add(secret)
            await self._note(secret, found, answer)
        return changed

    async def _ask_about(self, watched: list[Secret]) -> list[Answer]:
        calls: list[Call] = []
        for secret in watched:
            lease = secret.lease
            calls.append(upkeep.look_up(lease) if lease else (b"GET", secret.watch_path(), None))
        answers = await self._client.ask(calls)
        for answer in answers:
            self._client.judge(answer)
        return answers

    async def _token_is_lost(self, *, everything: bool = False) -> bool:
        """Whether the token itself is the reason for a refusal (of `everything` that was asked). A token that
        may not look at itself, or lost the right to, does not tell: then a login now and then does.
        """
        if not self._is_blind:
            answer = await self._client.call(b"GET", "auth/token/lookup-self")
            return answer.status == 403
        if not everything or self._loop.now() < self._next_guess:
            return False
        self._next_guess = self._loop.now() + self._guesses.next()
        return True

    async def _refresh(self, deliver: "Callable[[Values], None]") -> None:
        """Read what is stale anew and, if what the application would get differs, deliver it."""
        order = [secret for secret in self._secrets if secret in self._stale]
        answers = await self._client.ask([secret.read_call() for secret in order])
        for secret, answer in zip(order, answers, strict=True):
            if not _is_the_engines(secret, answer):
                self._client.judge(answer)
        self._stale = set()
        fresh: dict[Secret, Secret] = {}
        for secret, answer in zip(order, answers, strict=True):
            successor = Secret(secret.path)
            failing = _is_the_engines(secret, answer)
            trouble = FAILING if failing else successor.take(answer, self._loop.now(), time.time())
            await self._note(secret, trouble, answer)
            if not trouble:
                successor.watches_data = secret.watches_data
                fresh[secret] = successor
            elif secret.lease is not None:
                secret.lease.postpone(self._loop.now() + secret.backoff.next())
        secrets = [fresh.get(secret, secret) for secret in self._secrets]
        values, warnings = compose(self._config, secrets)
        for warning in warnings:
            self._log.debug(warning)
        self._secrets = secrets
        if values != self._delivered:
            self._delivered = values
            self._log.debug("secrets changed", paths=[str(secret.path) for secret in fresh])
            deliver(values)

    async def _note(self, secret: Secret, trouble: str, answer: Answer | None) -> None:
        """Say it once when a secret becomes unreadable, and once when it is back."""
        trouble = "" if trouble == CHANGED else trouble
        if trouble == secret.trouble:
            return
        secret.trouble = trouble
        if trouble and answer is not None:
            reason = answer.problem()
            if trouble == FORBIDDEN:
                reason = str(await diagnosis.refused(self._client, secret.path, answer))
            elif trouble == GONE:
                reason = str(await diagnosis.missing(self._client, secret.path, answer))
            self._log.warning(_KEEPS[trouble], path=str(secret.path), reason=reason)
        else:
            self._log.info("a secret is readable again", path=str(secret.path))

    def _complain(self, what: str) -> None:
        if what != self._complaint:
            self._log.warning("the application keeps the values it has", reason=what)
        self._complaint = what


def _is_looked_up(secret: Secret) -> bool:
    """Whether it is asked now and then if somebody revoked the lease."""
    lease = secret.lease
    return lease is not None and lease.may_look_up and not lease.is_gone


def _is_the_engines(secret: Secret, answer: Answer) -> bool:
    """Whether a failure is that of the secret's own engine, whose database may be away, and not OpenBao's."""
    return answer.status == 500 and not secret.is_versioned


def _is_due(lease: Lease, now: float) -> bool:
    return lease.due is not None and lease.due <= now
