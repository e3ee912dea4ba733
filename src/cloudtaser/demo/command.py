"""Command: a program that is run to its end, and what it printed.

Used by `chain`, by `app` and by tests; programs of ours are those of the environment this Python belongs to.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudtaser.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command printed, and its exit status."""

    status: int
    output: str
    errors: str

    def json(self) -> Any:
        """Its standard output, parsed."""
        return json.loads(self.output)


def program(name: str) -> str:
    """Path of one of our programs, from the environment this Python belongs to."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise UnavailableError(f"{name} is not installed", fix="run `tools/prepare demo`")
    return found


def wrapper(payload: Path | None) -> str:
    """The wrapper to start applications under: that of a payload's directory, else the one that is installed
    as `cloudtaser-payload`, else the one beside this Python.
    """
    if payload is None and importlib.util.find_spec("cloudtaser_payload") is not None:
        payload = importlib.import_module("cloudtaser_payload").path()
    if payload is None:
        return program("cloudtaser-wrapper")
    if not os.access(payload / "wrapper", os.X_OK):
        raise UnavailableError(f"{payload} holds no payload", fix=f"make payload PAYLOAD_DIR={payload}")
    return str(payload / "wrapper")


async def run_command(
    command: Sequence[str], environment: dict[str, str], *, check: bool = True, timeout: float = 60.0
) -> CommandResult:
    """Run a command to its end; with `check`, a failure raises UnavailableError with what it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C is for us, who then end it
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), timeout)
    except (TimeoutError, asyncio.CancelledError) as reason:
        process.kill()
        await process.wait()
        if not isinstance(reason, TimeoutError):
            raise
        raise UnavailableError(f"{Path(command[0]).name} did not end", on=f"{timeout:.0f} s") from None
    result = CommandResult(process.returncode or 0, output.decode(), errors.decode())
    if check and result.status:
        shown = " ".join([Path(command[0]).name, *command[1:3]])
        raise UnavailableError(f"`{shown} …` failed with status {result.status}", on=result.errors.strip())
    return result
