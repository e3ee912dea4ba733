"""The wrapper at the agent's own socket: they speak the same protocol, and a registered wrapper stays."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import threading
import time
from pathlib import Path
from typing import Any, Self

import pytest

from cloudtaser.ebpf import processes
from cloudtaser.ebpf import socket as agent_socket
from cloudtaser.ebpf.protocol import Refusal
from cloudtaser.ebpf.socket import Refused, Server, bind
from tests.integration.agent.support import OK, framed
from tests.unit.wrapper.launch import PATIENCE, Wrapped, run

WAIT = ("sh", "-c", "echo started; trap 'exit 0' TERM; while :; do sleep 0.05; done")


class Door:
    """Decides what the test says; in the agent this is `admission`, which needs a kernel."""

    def __init__(self, refusal: Refusal | None = None) -> None:
        self.refusal = refusal
        self.asked: queue.Queue[tuple[int, str]] = queue.Queue()
        self.scores: queue.Queue[dict[str, Any]] = queue.Queue()

    async def admit(self, connection: socket.socket, container: str) -> dict[str, object]:
        self.asked.put((agent_socket.peer_number(connection), container))
        if self.refusal is not None:
            raise Refused(self.refusal, "as the test says")
        return {"mode": "enforce", "tier": "fmod_ret", "known": 46, "hold": 40}

    def scored(self, _: socket.socket, score: dict[str, object]) -> None:
        self.scores.put(score)

    def turned_away(self, _: Refusal) -> None:
        pass


class Running:
    """The agent's server in a loop of its own."""

    def __init__(self, door: Door, place: Path) -> None:
        self._door, self._place = door, place
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    async def _open(self) -> None:
        self._server = Server(self._door)
        self._server.serve("test", bind(str(self._place)))

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)


def test_it_is_registered_tells_its_score_and_stays(
    settings: dict[str, str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_socket, "FIRST_FRAME", 1.5)  # seconds, after which a stranger has to go
    door = Door()
    required = settings | {"CLOUDTASER_EBPF": "required"}
    with Running(door, place), Wrapped(*WAIT, settings=required) as wrapper:
        assert door.asked.get(timeout=PATIENCE) == (wrapper.process.pid, "app")
        assert wrapper.line() == "started"
        score = door.scores.get(timeout=PATIENCE)
        assert (score["max"], score["measured"]) == (135, "by itself")
        with socket.socket(socket.AF_UNIX) as stranger:  # came after the wrapper, and has to go before it
            stranger.settimeout(PATIENCE)
            stranger.connect(str(place))
            assert stranger.recv(1) == b""
        assert door.asked.empty()


def test_it_finds_the_restarted_agent_and_is_registered_once_more(
    settings: dict[str, str], place: Path
) -> None:
    with Wrapped(*WAIT, settings=settings | {"CLOUDTASER_EBPF": "true"}) as wrapper:
        for event in ("the node's agent protects this process", "protects this process again"):
            door = Door()
            with Running(door, place):
                wrapper.event(event)
                assert door.asked.get(timeout=PATIENCE)[0] == wrapper.process.pid
                assert door.scores.get(timeout=PATIENCE)["max"] == 135
            wrapper.event("the agent is looked for")


def test_a_process_has_one_connection(settings: dict[str, str], place: Path) -> None:
    request = framed({"v": 1, "register": {"container": "test"}})
    with (
        Running(Door(), place),
        socket.socket(socket.AF_UNIX) as first,
        socket.socket(socket.AF_UNIX) as second,
    ):
        for connection in (first, second):
            connection.settimeout(PATIENCE)
            connection.connect(str(place))
            connection.sendall(request)
            assert b'"ok":true' in connection.recv(4096)
        assert first.recv(1) == b""
        second.sendall(framed({"v": 1, "score": {}}))
        assert b'"ok":true' in second.recv(4096)


@pytest.mark.parametrize("refusal", [Refusal.NOT_ALLOWED, Refusal.VERSION, Refusal.BAD_REQUEST])
def test_its_refusals_are_told_in_its_words(settings: dict[str, str], place: Path, refusal: Refusal) -> None:
    with Running(Door(refusal), place):
        done = run("--", "true", settings=settings | {"CLOUDTASER_EBPF": "required"}, check_code=69)
    assert f"as the test says ({refusal.value})" in done.stderr
    assert OK["v"] == 1


def test_a_process_is_told_by_when_it_started() -> None:
    """What /proc says of a start is what the kernel's programs say of it, in coarser units."""
    ticks = processes.start_ticks(os.getpid())
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert 0 < ticks <= since_boot * os.sysconf("SC_CLK_TCK")
    assert processes.start_ticks(2**31 - 2) == -1
