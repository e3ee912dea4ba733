"""Targets: where a token may be brought, judged from the pod as the API server has it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.operator.tokens.announcement import Refusal
from cloudtaser.operator.tokens.target import ACCESSOR_ANNOTATION, decode, encode, find

UID = "7a4b1c7e-58f3-4a3c-9a53-0d5a3d1c2b4a"


def container(name: str = "web", **changes: Any) -> dict[str, Any]:
    variables = {"VAULT_AUTH_METHOD": "token", "CLOUDTASER_LISTEN_ADDR": ":8200"} | changes.pop("env", {})
    made: dict[str, Any] = {
        "name": name,
        "command": ["/cloudtaser/wrapper"],
        "env": [{"name": key, "value": value} for key, value in variables.items() if value is not None],
    }
    return made | changes


def pod(
    *containers: dict[str, Any], annotation: str = "", init: tuple[dict[str, Any], ...] = (), **status: Any
) -> Any:
    return {
        "metadata": {
            "uid": UID,
            "resourceVersion": "17",
            "annotations": {ACCESSOR_ANNOTATION: annotation} if annotation else {},
        },
        "spec": {"containers": list(containers or (container(),)), "initContainers": list(init)},
        "status": {"phase": "Running", "podIP": "10.88.0.7"} | status,
    }


def test_a_token_is_brought_to_the_pods_own_address_at_the_wrappers_port() -> None:
    target = find(pod(annotation="web=abc.d,side=e"), UID, "web")
    assert target.authority == "10.88.0.7:8200"
    assert target.version == "17"
    assert target.accessors == {"web": "abc.d", "side": "e"}
    six = find(pod(container(env={"CLOUDTASER_LISTEN_ADDR": None}), podIP="fd00::7"), UID, "web")
    assert six.authority == "[fd00::7]:8199"
    sidecar = find(pod(container(), init=(container("side"),)), UID, "side")
    assert sidecar.port == 8200


def test_whoever_writes_a_pod_does_not_choose_whom_the_operator_talks_to() -> None:
    named = container(env={"CLOUDTASER_LISTEN_ADDR": "169.254.169.254:80"})
    assert find(pod(named), UID, "web").authority == "10.88.0.7:80"
    for address in ("127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "::1", "fe80::1"):
        with pytest.raises(Refusal) as caught:
            find(pod(podIP=address), UID, "web")
        assert caught.value.reason == "address"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "gone"),
        ({"metadata": {"uid": "another"}}, "gone"),
        (pod(phase="Succeeded"), "gone"),
        (pod(phase="Failed"), "gone"),
        (pod(podIP=None), "no_address"),
        (pod(podIP="nonsense"), "no_address"),
        (pod(container("other")), "not_ours"),
        (pod(container(command=["/bin/sh"])), "not_ours"),
        (pod(container(command=None)), "not_ours"),
        (pod(container(env={"VAULT_AUTH_METHOD": "kubernetes"})), "not_ours"),
        (pod(container(env={"CLOUDTASER_LISTEN_ADDR": ":0"})), "not_ours"),
        (pod(container(env={"CLOUDTASER_LISTEN_ADDR": ":99999"})), "not_ours"),
        (pod(container(env={"CLOUDTASER_LISTEN_ADDR": ":http"})), "not_ours"),
    ],
)
def test_no_token_is_made_for_what_we_did_not_inject_or_what_is_gone(found: Any, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        find(found, UID, "web")
    assert caught.value.reason == reason


def test_an_annotation_says_what_it_says_in_one_spelling() -> None:
    assert encode({"web": "b", "app": "a"}) == "app=a,web=b"
    assert decode("app=a,web=b") == {"app": "a", "web": "b"}
    assert decode("x,=,a=b=c,web=ok,Web=no,a=\n") == {"web": "ok"}


@given(st.text(max_size=200))
def test_an_annotation_in_anybodys_hand_is_read_as_what_it_holds_or_nothing(text: str) -> None:
    assert decode(encode(decode(text))) == decode(text)
