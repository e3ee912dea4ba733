"""Custom resources: what a server without our schemas could let through is one line, never a traceback."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.errors import ProtocolError
from cloudtaser.kube.resources import CloudTaserConfig, DebugReport, SecretMapping, parse_duration

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "secretPaths",
        "envMap",
        "vaultAddress",
        "wrapperResources",
        "namespaceSelector",
        "workload",
        "tenant",
        "secrets",
        "status",
        "checks",
        "target",
        "ttl",
    ]
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("7d", 604_800), ("0s", 0)]
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1h", "1.5h", "31d", "1h ", "h", "9999999s", "٣h"])
def test_what_is_no_duration_is_said(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_duration(text)


@pytest.mark.parametrize("kind", [CloudTaserConfig, SecretMapping, DebugReport])
@given(spec=st.dictionaries(FIELDS, JSON, max_size=4), status=JSON)
def test_whatever_is_there_is_read_or_refused_in_words(kind: Any, spec: Any, status: Any) -> None:
    item = {"metadata": {"namespace": "shop", "name": "x"}, "spec": spec, "status": status}
    with contextlib.suppress(ProtocolError):
        assert kind.parse(item).metadata.key == ("shop", "x")
