"""From fetched values to an environment."""

from __future__ import annotations

import gc
import pickle

import pytest

from cloudtaser.wrapper.buffers import Buffer, Span, span_of
from cloudtaser.wrapper.delivery import MAX_VARIABLE, Values, check
from cloudtaser.wrapper.envmap import EnvMapError

INHERITED = {b"PATH": b"/bin", b"A": b"from the container", b"VAULT_TOKEN": b"t"}


def test_the_secret_wins_over_the_container_unless_told_otherwise() -> None:
    values = Values({"A": span_of(b"secret"), "B": span_of(b"")})
    environment = values.environment(INHERITED, override=True)
    assert environment.inherited == {b"PATH": b"/bin"}
    assert environment.secrets == {b"A": span_of(b"secret"), b"B": span_of(b"")}
    environment = values.environment(INHERITED, override=False)
    assert environment.inherited == {b"PATH": b"/bin", b"A": b"from the container"}
    assert environment.secrets == {b"B": span_of(b"")}


def test_values_are_equal_when_the_application_could_not_tell() -> None:
    assert Values({"A": span_of(b"x")}) == Values({"A": span_of(b"x")})
    assert Values({"A": span_of(b"x")}) != Values({"A": span_of(b"y")})
    assert Values({"A": span_of(b"x")}) != Values({"B": span_of(b"x")})


def test_what_no_environment_can_carry_is_refused() -> None:
    check("A", span_of(b"x" * (MAX_VARIABLE - 2)), "here")
    with pytest.raises(EnvMapError, match="Linux"):
        check("A", span_of(b"x" * (MAX_VARIABLE - 1)), "here")
    with pytest.raises(EnvMapError, match="NUL"):
        check("A", span_of(b"x\0y"), "here")


def test_a_span_shows_itself_to_nobody() -> None:
    span = span_of(b"CANARY")
    assert "CANARY" not in f"{span!r} {span} {span:>10} {span.buffer!r} {Values({'A': span})!r}"
    with pytest.raises(TypeError):
        pickle.dumps(span)
    with pytest.raises(TypeError):
        hash(span)


def test_a_buffer_that_grows_or_is_let_go_is_wiped() -> None:
    buffer = Buffer(4, 64)
    before = memoryview(buffer._data)
    buffer.append(b"CANA")
    buffer.append(b"RY")
    assert bytes(before) == b"\0\0\0\0"
    after = memoryview(buffer._data)
    span = Span(buffer)
    assert bytes(after).startswith(b"CANARY")
    del buffer, span
    gc.collect()
    assert not any(after)


def test_a_buffer_is_bounded() -> None:
    with pytest.raises(OverflowError):
        Buffer(4, 8).append(b"123456789")
