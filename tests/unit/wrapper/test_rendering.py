"""From a template to a value in secret memory."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.wrapper.buffers import Span, span_of
from cloudtaser.wrapper.rendering import MAX_VALUE, render
from cloudtaser.wrapper.templates import Field, parse_template


def rendered(text: str, **fields: bytes) -> bytes:
    def value_of(field: Field) -> Span | None:
        return span_of(fields[field.name]) if field.name in fields else None

    span = render(parse_template("X", text.encode(), "here"), value_of)
    return bytes(span.view())


def test_text_and_values_follow_each_other() -> None:
    found = rendered("pg://{{u}}:{{p|urlencode}}@db/{{gone?}}", u=b"app", p=b"p@ss/w:rd%")
    assert found == b"pg://app:p%40ss%2Fw%3Ard%25@db/"


@given(st.binary(max_size=200))
def test_filters_are_those_of_the_standards(value: bytes) -> None:
    assert rendered("{{v}}", v=value) == value
    assert rendered("{{v|urlencode}}", v=value) == quote(value, safe="").encode()
    assert rendered("{{v|base64}}", v=value) == base64.b64encode(value)
    assert rendered("{{v|base64|urlencode}}", v=value) == quote(base64.b64encode(value), safe="").encode()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_json_reads_back_what_was_put_in(value: str) -> None:
    assert json.loads(rendered('"{{v|json}}"', v=value.encode())) == value


def test_a_value_is_bounded() -> None:
    with pytest.raises(OverflowError):
        rendered("{{v}}{{v}}", v=b"x" * (MAX_VALUE // 2 + 1))
