"""The session while the application runs: whatever goes wrong, it goes on, and nothing of it is fatal."""

from __future__ import annotations

import itertools
import json
import os

import pytest

from cloudtaser.wrapper.client import Answer, Call
from cloudtaser.wrapper.config import Config, load
from cloudtaser.wrapper.delivery import Values
from cloudtaser.wrapper.errors import UnavailableError
from cloudtaser.wrapper.http1 import Response
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import Loop
from cloudtaser.wrapper.session import Session

Said = dict[str, object] | BaseException


def config(**more: str) -> Config:
    settings = {
        "VAULT_ADDR": "http://127.0.0.1:1",
        "VAULT_AUTH_METHOD": "token",
        "VAULT_TOKEN": "t",
        "CLOUDTASER_SECRET_PATHS": "secret/data/app",
        "CLOUDTASER_ROTATION_DEBOUNCE": "0",
        **more,
    }
    return load({name.encode(): value.encode() for name, value in settings.items()})


def kv2(value: str, version: int, created: str = "") -> dict[str, object]:
    """A secret, read at `created`, as the engine gives it."""
    return {"data": {"data": {"password": value}, "metadata": {"version": version, "created_time": created}}}


def metadata(version: int, created: str = "", *, deleted: str = "") -> dict[str, object]:
    state = {"created_time": created, "deletion_time": deleted, "destroyed": False}
    return {"data": {"current_version": version, "versions": {str(version): state}}}


class Script:
    """A client that answers reads with what the test says, in order; then it ends the watch."""

    def __init__(self, *said: Said) -> None:
        self._said = list(said)
        self.asked: list[str] = []
        self.token: object = None
        self.closed = 0

    def close(self) -> None:
        self.closed += 1

    async def call(self, method: bytes, path: str, body: object = None) -> Answer:
        return answer({"data": {"ttl": 0}})

    def judge(self, answer: Answer) -> None:
        pass

    async def ask(self, calls: list[Call]) -> list[Answer]:
        return await self.read([path for _, path, _ in calls])

    async def read(self, paths: list[str]) -> list[Answer]:
        self.asked += paths
        if not self._said:
            raise KeyboardInterrupt
        said = self._said.pop(0)
        if isinstance(said, BaseException):
            raise said
        return [answer(said) for _ in paths]


def answer(document: dict[str, object]) -> Answer:
    response = Response()
    response.status = 404 if "errors" in document else 200
    response.body.append(json.dumps(document).encode())
    return Answer(response)


class Clock:
    """Moves on by itself: the loop never really waits."""

    def __init__(self, step: float = 60.0) -> None:
        self.now = 0.0
        self._step = step

    def __call__(self) -> float:
        self.now += self._step
        return self.now


def live(settings: Config, client: Script, step: float = 60.0) -> tuple[list[Values], str]:
    """Start, then watch until the script is over; what was delivered after the start, and the log."""
    reading, writing = os.pipe()
    loop = Loop(Clock(step))
    delivered: list[Values] = []

    async def life() -> None:
        session = Session(loop, settings, client, Log(fd=writing))  # type: ignore[arg-type]  # a script
        await session.start()
        await session.watch(delivered.append)

    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run(loop.spawn(life()))
    finally:
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            log = file.read().decode()
    return delivered, log


def test_a_fault_of_the_wrappers_own_leaves_the_application_running_and_is_said_once() -> None:
    client = Script(
        kv2("old", 1),
        OverflowError("s3cret"),
        OverflowError("s3cret"),
        metadata(2),
        metadata(2),
        kv2("new", 2),
    )
    delivered, log = live(config(), client)
    assert [bytes(values.spans["PASSWORD"].view()) for values in delivered] == [b"new"]
    assert log.count("unexpected OverflowError") == 1
    assert "s3cret" not in log
    assert client.closed


def test_a_pause_the_server_asks_for_does_not_shorten_the_time_it_is_tried() -> None:
    """Busy once, for longer than is left: the last attempt comes at the end of the time, not never."""
    now = [0.0]
    loop = Loop(lambda: now[0])
    client = Script(UnavailableError("busy", retry_after=0.4), kv2("there", 1))
    session = Session(loop, config(CLOUDTASER_STARTUP_TIMEOUT="0.2"), client, Log("error"))  # type: ignore[arg-type]  # a script
    starting = loop.spawn(session.start())
    assert client.asked == ["secret/data/app"]
    assert starting.wait is not None
    assert starting.wait.deadline == pytest.approx(0.2)
    now[0] = 0.2
    values = loop.run(starting)
    assert isinstance(values, Values)
    assert bytes(values.spans["PASSWORD"].view()) == b"there"


def test_every_attempt_at_the_start_ends_with_the_time_it_is_tried_and_later_ones_are_free() -> None:
    now = [0.0]
    loop = Loop(lambda: now[0])
    deadlines: list[float | None] = []

    class Slow(Script):
        deadline: float | None = None

        async def read(self, paths: list[str]) -> list[Answer]:
            deadlines.append(self.deadline)
            return await super().read(paths)

    client = Slow(UnavailableError("busy", retry_after=40), UnavailableError("busy"), kv2("there", 1))
    session = Session(loop, config(CLOUDTASER_STARTUP_TIMEOUT="30"), client, Log("error"))  # type: ignore[arg-type]  # a script
    starting = loop.spawn(session.start())
    now[0] = 30.0
    with pytest.raises(UnavailableError, match="unreachable for 30 s"):
        loop.run(starting)
    assert deadlines == [30.0, 31.0]  # the last one gets a moment
    assert client.deadline is None


def test_behind_a_broker_the_pod_ca_is_asked_for_even_where_nothing_else_is_looked_at() -> None:
    certificate = "-----BEGIN CERTIFICATE-----\nMAMCAQU=\n-----END CERTIFICATE-----"
    settings = config(
        VAULT_ADDR="broker://127.0.0.1:1", CLOUDTASER_CA=certificate, CLOUDTASER_ROTATION="none"
    )

    class Asked(Script):
        calls: list[str]

        async def call(self, method: bytes, path: str, body: object = None) -> Answer:
            self.calls.append(path)
            if self.calls.count("cloudtaser/pod-ca") == 3:
                raise KeyboardInterrupt
            return await super().call(method, path, body)

    client = Asked(kv2("there", 1))
    client.calls = []
    delivered, log = live(settings, client, 300.0)
    assert delivered == []
    assert client.calls == ["auth/token/lookup-self", *["cloudtaser/pod-ca"] * 3]
    assert "pod CA" not in log


@pytest.mark.parametrize("seen_gone", [True, False])
def test_a_secret_that_was_deleted_and_made_again_under_its_old_version_is_delivered(seen_gone: bool) -> None:
    gone: list[Said] = [{"errors": []}] if seen_gone else []
    again = metadata(1, "2026-01-02T00:00:00Z")
    client = Script(
        kv2("old", 1, "2026-01-01T00:00:00Z"),
        metadata(1, "2026-01-01T00:00:00Z"),
        *gone,
        again,
        again,
        kv2("new", 1, "2026-01-02T00:00:00Z"),
        again,
    )
    delivered, _ = live(config(), client)
    assert [bytes(values.spans["PASSWORD"].view()) for values in delivered] == [b"new"]


class Simulated:
    """A clock that a test moves from deadline to deadline."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Outage(Script):
    """Unreachable between two times on the clock; counts who asks meanwhile."""

    def __init__(self, clock: Simulated, since: float, until: float, *said: Said) -> None:
        super().__init__(*said)
        self._clock = clock
        self._since = since
        self._until = until
        self.attempts: list[float] = []

    async def read(self, paths: list[str]) -> list[Answer]:
        if self._since <= self._clock.now < self._until:
            self.attempts.append(self._clock.now)
            raise UnavailableError("cannot connect: Connection refused", on="vault:8200")
        return await super().read(paths)


def test_ten_minutes_without_openbao_are_survived_said_once_and_heal_by_themselves() -> None:
    clock = Simulated()
    client = Outage(
        clock,
        45.0,
        645.0,
        kv2("old", 1),
        metadata(1),
        metadata(2),
        metadata(2),
        kv2("new", 2),
    )
    reading, writing = os.pipe()
    loop = Loop(clock)
    delivered: list[tuple[float, Values]] = []

    async def life() -> None:
        session = Session(loop, config(), client, Log(fd=writing))  # type: ignore[arg-type]  # a script
        await session.start()
        await session.watch(lambda values: delivered.append((clock.now, values)))

    task = loop.spawn(life())
    while not task.done:
        assert task.wait is not None
        assert task.wait.deadline is not None
        clock.now = max(clock.now, task.wait.deadline)
        task.step(False)
    assert isinstance(task.error, KeyboardInterrupt)  # the script is over
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        log = file.read().decode()
    assert log.count("OpenBao unreachable, the application runs on") == 1
    assert log.count("OpenBao reachable again") == 1
    ((when, values),) = delivered
    assert bytes(values.spans["PASSWORD"].view()) == b"new"
    assert when < 645 + 5  # within one pause of the backoff
    pauses = [after - before for before, after in itertools.pairwise(client.attempts)]
    assert max(pauses) <= 4.0
    assert 150 < len(client.attempts) < 600  # two seconds on average
    assert len({round(pause, 3) for pause in pauses}) > len(pauses) / 2  # jitter
