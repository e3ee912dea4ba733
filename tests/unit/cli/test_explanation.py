"""Why a pod was or was not injected: each reason is found, by itself and in any company."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtaser.cli.target.explanation import View, explain, policies, read_log
from cloudtaser.kube.injection import wrapped_containers
from cloudtaser.wrapper.log import Field, render

ASKING = {"cloudtaser.io/inject": "true"}
WEBHOOK = {"webhooks": [{"name": "inject.cloudtaser.io", "clientConfig": {"caBundle": "eA=="}}]}


def pod(**changes: Any) -> dict[str, Any]:
    """A pod of a Deployment that asks and was not injected."""
    metadata = {
        "name": "web-1",
        "namespace": "shop",
        "annotations": ASKING,
        "ownerReferences": [{"kind": "ReplicaSet", "name": "web"}],
    }
    spec = {"containers": [{"name": "app", "image": "web:1"}]}
    return {"metadata": metadata | changes.get("metadata", {}), "spec": spec | changes.get("spec", {})}


def injected() -> dict[str, Any]:
    app = {
        "name": "app",
        "command": ["/cloudtaser/wrapper"],
        "args": ["/bin/web", "--port", "80"],
        "env": [
            {"name": "VAULT_ADDR", "value": "https://broker:8443"},
            {"name": "VAULT_AUTH_ROLE", "value": "shop_web"},
            {"name": "CLOUDTASER_SECRET_PATHS", "value": "secret/data/shop/db, secret/data/shop/api"},
            {"name": "CLOUDTASER_DELIVERY", "value": "memory"},
        ],
    }
    sidecar = {"name": "side", "command": ["/cloudtaser/wrapper"], "args": ["/s"], "restartPolicy": "Always"}
    other = {"name": "cloudtaser-init", "command": ["/wrapper"], "args": ["--install", "/cloudtaser"]}
    return pod(spec={"containers": [app, {"name": "plain"}], "initContainers": [other, sidecar]})


def reasons(view: View) -> str:
    answer = explain(view)
    assert not answer.injected
    assert answer.reasons
    assert all(reason.what and reason.fix for reason in answer.reasons)
    return "\n".join(f"{reason.what} | {reason.fix}" for reason in answer.reasons)


def test_an_injected_pod_is_told_by_its_commands_alone() -> None:
    said = pod(metadata={"annotations": ASKING | {"cloudtaser.io/status": '{"injected":["app"]}'}})
    assert not explain(View(said, {}, WEBHOOK)).injected
    answer = explain(View(injected(), {}, WEBHOOK))
    assert answer.injected
    assert [(one.name, one.kind, one.command) for one in answer.containers] == [
        ("app", "app", ("/bin/web", "--port", "80")),
        ("side", "sidecar", ("/s",)),
    ]
    app = answer.containers[0]
    assert (app.role, app.method, app.delivery, app.rotation) == (
        "shop_web",
        "kubernetes",
        "memory",
        "restart",
    )
    assert app.paths == ("secret/data/shop/db", "secret/data/shop/api")


def test_a_pod_that_does_not_ask_learns_where_to_ask() -> None:
    said = reasons(View(pod(metadata={"annotations": {}}), {}, WEBHOOK))
    assert "it does not ask" in said
    assert "spec.template.metadata of the Deployment, not on the Deployment itself" in said
    assert "set it to 'true'" in reasons(
        View(pod(metadata={"annotations": {"cloudtaser.io/inject": "yes"}}), {}, WEBHOOK)
    )
    by_label = pod(metadata={"annotations": {}, "labels": ASKING})
    assert "it does not ask" not in reasons(View(by_label, {}, WEBHOOK))


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (View(pod(metadata={"namespace": "kube-system"}), {}, WEBHOOK), "kube-system are never injected"),
        (View(pod(metadata={"namespace": "cloudtaser-system"}), {}, WEBHOOK), "are never injected"),
        (View(pod(spec={"hostPID": True}), {}, WEBHOOK), "hostPID"),
        (View(pod(), {}, None), "there is no MutatingWebhookConfiguration"),
        (View(pod(), {}, {"webhooks": [{"clientConfig": {}}]}), "no caBundle yet"),
        (View(pod(), {}, WEBHOOK, now_injected=True), "rollout restart"),
        (View(pod(), {}, WEBHOOK, now_injected=False, now_said=("no such image",)), "no such image"),
        (View(pod(), {}, WEBHOOK, now_injected=False), "did not say why"),
        (View(pod(), None, None, webhook_readable=False), "that can be seen from here"),
    ],
)
def test_each_reason_is_named(view: View, said: str) -> None:
    assert said in reasons(view)


def test_reasons_add_up() -> None:
    view = View(
        pod(metadata={"annotations": {}, "namespace": "kube-system"}, spec={"hostPID": True}), {}, None
    )
    assert len(explain(view).reasons) == 4


def test_what_is_wrong_with_the_annotations_is_noted() -> None:
    view = View(pod(metadata={"annotations": ASKING | {"cloudtaser.io/secret-path": "x"}}), {}, WEBHOOK)
    assert any("cloudtaser.io/secret-paths" in note for note in explain(view).notes)
    assert explain(replace(view, pod=injected())).notes == ()


def test_the_log_tells_score_and_last_fetch_among_the_applications_own_lines() -> None:
    score: dict[str, Field] = {"score": 105, "max": 135, "band": "good", "missing": ["no_swap", "ebpf"]}
    lines = [
        "starting\n",
        render("info", "secrets loaded", {"secret_count": 2, "paths": ["secret/data/shop/db"]}, 0.0),
        '{"program":"another","event":"secrets loaded"}\n',
        '{"program":"cloudtaser-wrapper", cut\n',
        render("info", "protection score", score, 1.0),
        render("warning", "OpenBao does not answer", {"reason": "timed out"}, 2.0),
    ]
    told = read_log("".join(lines))
    assert (told.secrets, told.paths, told.fetched_at) == (
        2,
        ("secret/data/shop/db",),
        "1970-01-01T00:00:00.000Z",
    )
    assert (told.score, told.missing) == ("105 of 135", ("no_swap", "ebpf"))
    assert told.trouble == "1970-01-01T00:00:02.000Z OpenBao does not answer: timed out"
    again = read_log(
        "".join([*lines, render("info", "secrets loaded", {"secret_count": 3, "paths": []}, 3.0)])
    )
    assert (again.secrets, again.trouble) == (3, "")


def test_policies_are_those_of_the_login() -> None:
    assert policies("default", "shop", "web", "token") == ("ct-pod_shop_web",)
    assert policies("shop_web", "shop", "web", "kubernetes") == ("ct-pod_shop_web",)
    assert policies("default", "shop", "web", "kubernetes") == ("of role default",)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"metadata": st.dictionaries(st.sampled_from(["annotations", "labels", "namespace"]), _JSON)},
        optional={
            "spec": st.dictionaries(st.sampled_from(["containers", "initContainers", "hostPID"]), _JSON)
        },
    )
)
def test_whatever_a_pod_looks_like_there_is_an_answer(strange: dict[str, Any]) -> None:
    wrapped_containers(strange)
    explain(View(strange, None, None))


@given(st.text())
def test_whatever_a_log_holds_it_is_read(text: str) -> None:
    read_log(text)
    read_log('{"program":"cloudtaser-wrapper","event":' + text + "}")
