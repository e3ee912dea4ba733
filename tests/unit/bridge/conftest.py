"""The bridge runs on uvloop, whose transports are not asyncio's: so do its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The one loop of these tests."""
    return {"uvloop": uvloop.new_event_loop}
