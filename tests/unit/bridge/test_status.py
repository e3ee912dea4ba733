"""The status socket: one document to whoever may connect, and no port."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import pytest

from cloudtaser.bridge.status import StatusSocket, ask
from cloudtaser.errors import ConfigError, UnavailableError


async def test_whoever_connects_gets_the_document(tmp_path: Path) -> None:
    path = str(tmp_path / "made" / "bridge.sock")
    status = StatusSocket(path, lambda: {"ready": True, "clusters": []})
    await status.start()
    assert await asyncio.to_thread(ask, path) == {"ready": True, "clusters": []}
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    await status.close()
    assert not Path(path).exists()


async def test_a_socket_left_by_a_killed_bridge_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "bridge.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    status = StatusSocket(str(path), dict)
    await status.start()
    assert await asyncio.to_thread(ask, str(path)) == {}
    await status.close()


async def test_a_living_bridges_socket_is_not_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "bridge.sock")
    first = StatusSocket(path, lambda: {"id": 1})
    await first.start()
    with pytest.raises(ConfigError, match="another bridge"):
        await StatusSocket(path, lambda: {"id": 2}).start()
    assert await asyncio.to_thread(ask, path) == {"id": 1}
    await first.close()


async def test_an_impossible_path_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file / "bridge.sock", tmp_path / ("long" * 50)):
        with pytest.raises(ConfigError, match="--status-socket"):
            await StatusSocket(str(path), dict).start()


def test_asking_nobody_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="--status-socket"):
        ask(str(tmp_path / "none.sock"))
