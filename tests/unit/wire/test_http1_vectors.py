"""The bridge's reader of responses, held to the shared vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloudtaser.wire.http1 import Body, End, HttpError, ResponseHead, ResponseParser

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "http1.json").read_text())


def ids(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def read(wire: bytes, size: int) -> tuple[ResponseHead | None, bytes, bool]:
    """Head, body and whether it came to its end, of a response that arrives in pieces of `size`."""
    parser = ResponseParser()
    parser.expect(b"GET")
    head, body, ended = None, b"", False
    for start in range(0, len(wire), size):
        for event in parser.receive(wire[start : start + size]):
            if isinstance(event, ResponseHead):
                head = event
            elif isinstance(event, Body):
                body += event.data
            else:
                assert isinstance(event, End)
                ended = True
    return head, body, ended


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("vector", VECTORS["whole"], ids=ids)
def test_a_whole_response_is_read(vector: dict[str, Any], size: int) -> None:
    head, body, ended = read(vector["wire"].encode("latin-1"), size)
    assert head is not None
    assert ended
    assert (head.status, body.decode("latin-1")) == (vector["status"], vector["body"])
    assert head.keep_alive is vector["keep_alive"]


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("vector", VECTORS["refused"], ids=ids)
def test_what_two_readers_could_take_differently_is_refused(vector: dict[str, Any], size: int) -> None:
    with pytest.raises(HttpError):
        read(vector["wire"].encode("latin-1"), size)


@pytest.mark.parametrize("vector", VECTORS["cut"], ids=ids)
def test_a_response_that_is_cut_off_has_no_end(vector: dict[str, Any]) -> None:
    assert not read(vector["wire"].encode("latin-1"), 100_000)[2]
