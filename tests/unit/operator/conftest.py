"""Tests on the loop that the program runs on: the transports of uvloop differ from those of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop for every test in this folder."""
    return {"uvloop": uvloop.new_event_loop}
