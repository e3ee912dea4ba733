"""The wrapper's reader of responses, held to the shared vectors: what it takes, the bridge's takes too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.wrapper.http1 import HttpError, ResponseReader

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "http1.json").read_text())


def ids(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def read(wire: bytes, size: int) -> tuple[ResponseReader, bytes]:
    """A reader that got the bytes in pieces of `size`, and what it left."""
    reader = ResponseReader()
    position = 0
    while position < len(wire) and not reader.done:
        position += reader.receive(memoryview(wire[position : position + size]))
    return reader, wire[position:]


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("vector", VECTORS["whole"], ids=ids)
def test_a_whole_response_is_read(vector: dict[str, Any], size: int) -> None:
    reader, left = read(vector["wire"].encode("latin-1"), size)
    assert reader.done
    assert left == b""
    response = reader.response
    assert (response.status, bytes(response.body.view()).decode("latin-1")) == (
        vector["status"],
        vector["body"],
    )
    assert response.keep_alive is vector["keep_alive"]


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("vector", VECTORS["refused"], ids=ids)
def test_what_two_readers_could_take_differently_is_refused(vector: dict[str, Any], size: int) -> None:
    with pytest.raises(HttpError):
        read(vector["wire"].encode("latin-1"), size)


@pytest.mark.parametrize("vector", VECTORS["cut"], ids=ids)
def test_a_response_that_is_cut_off_is_not_done(vector: dict[str, Any]) -> None:
    assert not read(vector["wire"].encode("latin-1"), 100_000)[0].done
