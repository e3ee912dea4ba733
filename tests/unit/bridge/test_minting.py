"""Minting: a pod's token is made for what was granted and nothing else, and known by its pod."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudtaser.bridge.minting import holder, narrow
from cloudtaser.bridge.refusal import RequestRefused

F = "0ad50c05-1153-4508-9237-4cb2912e2c23"
GRANTED = {"shop_web", "shop_"}


def test_what_is_not_granted_is_left_out() -> None:
    asked = {"policies": ["ct-pod_shop_web", "ct-pod_shop_", "ct-pod_shop_other"], "meta": {"pod": "web-0"}}
    assert narrow(asked, GRANTED, F) == asked | {"policies": ["ct-pod_shop_web", "ct-pod_shop_"]}
    tagged = {"policies": ["ct-pod_0ad50c05_shop_web", "ct-pod_0ad50c05_bank_web"]}
    assert narrow(tagged, GRANTED, F, "ct-pod_0ad50c05_") == {"policies": ["ct-pod_0ad50c05_shop_web"]}


@pytest.mark.parametrize(
    ("policies", "command"),
    [
        (["ct-pod_bank_web", "ct-pod_bank_"], f"{F} --namespace bank --serviceaccount web --path PATH"),
        (["ct-pod_bank_"], f"{F} --namespace bank --path PATH"),
    ],
)
def test_without_a_grant_there_is_no_token_but_the_command_for_one(policies: list[str], command: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        narrow({"policies": policies}, GRANTED, F)
    assert caught.value.status == 404
    assert f"`cloudtaser-cli source allow {command}`" in caught.value.what


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"policies": []},
        {"policies": "ct-pod_shop_web"},
        {"policies": [1]},
        {"policies": ["root"]},
        {"policies": ["ct-pod_shop_web", "cloudtaser-operator"]},
        {"policies": ["ct-pod_shop_web"] * 17},
    ],
    ids=str,
)
def test_a_request_without_policies_of_pods_never_reaches_openbao(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused) as caught:
        narrow(fields, GRANTED, F)
    assert caught.value.status == 400


META = {"namespace": "shop", "serviceaccount": "web", "pod": "web-0", "pod_uid": "u-1", "container": "app"}


def looked_up(**data: Any) -> bytes:
    fields = {"path": "auth/token/create/cloudtaser-pod", "ttl": 3600, "meta": META} | data
    return json.dumps({"data": fields}).encode()


def test_a_minted_token_is_known_by_the_pod_that_it_was_made_for() -> None:
    found = holder(looked_up(), 100.0)
    assert found is not None
    assert (found.namespace, found.serviceaccount, found.pod_name, found.pod_uid) == (
        "shop",
        "web",
        "web-0",
        "u-1",
    )
    assert (found.subject, found.expires_at) == ("system:serviceaccount:shop:web", 3700.0)


@pytest.mark.parametrize(
    "body",
    [
        looked_up(path="auth/jwt/login"),
        looked_up(meta=None),
        looked_up(meta=META | {"pod_uid": ""}),
        looked_up(meta={"namespace": "shop"}),
        b"{}",
        b"nonsense",
    ],
)
def test_any_other_token_has_no_pod(body: bytes) -> None:
    assert holder(body, 100.0) is None
