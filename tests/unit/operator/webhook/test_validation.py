"""What is refused, what is warned of, and what a fail-closed namespace insists on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cloudtaser.kube.annotations import MAX_HINTS, MAX_PROBLEMS, parse
from cloudtaser.operator.webhook import service
from cloudtaser.operator.webhook.errors import BadRequestError
from cloudtaser.operator.webhook.pods import select
from cloudtaser.operator.webhook.review import MAX_MESSAGE
from tests.unit.operator.webhook.pods_rig import (
    WRAPPER_IMAGE,
    Config,
    Json,
    World,
    container,
    mutated,
    named,
    pod,
    review,
)


async def verdict(world: World, subject: Json, *, required: bool = False, **more: Any) -> tuple[bool, str]:
    answer = await world.webhook().validate(review(subject, **more), required=required)
    assert answer.patch == ()
    return answer.allowed, answer.message or " ".join(answer.warnings)


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize(
    ("annotations", "says"),
    [
        ({"cloudtaser.io/env-map": "a=1b"}, "'1b' is not a variable name"),
        ({"cloudtaser.io/secretpaths": "x"}, "did you mean cloudtaser.io/secret-paths?"),
        ({"cloudtaser.io/vault-address": "https://evil.example.com"}, "not on the operator's list"),
        ({"cloudtaser.io/containers": "apq"}, "did you mean app?"),
        ({"cloudtaser.io/config": "none"}, "there is no CloudTaserConfig 'none' here"),
    ],
)
async def test_what_could_never_work_is_refused(
    annotations: dict[str, str], says: str, required: bool
) -> None:
    allowed, message = await verdict(World(), pod(annotations=annotations), required=required)
    assert not allowed
    assert says in message


async def test_a_misspelt_request_is_refused_though_it_asks_for_nothing() -> None:
    subject = pod(inject=False, metadata={"annotations": {"cloudtaser.io/injct": "true"}})
    assert await verdict(World(), subject) == (
        False,
        "cloudtaser.io/injct: there is no such annotation; did you mean cloudtaser.io/inject?",
    )


async def test_a_pod_that_declines_is_only_warned_of() -> None:
    declined = {"cloudtaser.io/inject": "false", "cloudtaser.io/nonsense": "x"}
    allowed, message = await verdict(World(), pod(inject=False, metadata={"annotations": declined}))
    assert allowed
    assert "cloudtaser.io/nonsense: there is no such annotation" in message


async def test_annotations_without_the_word_are_warned_of() -> None:
    subject = pod(inject=False, metadata={"annotations": {"cloudtaser.io/secret-paths": "a/b"}})
    assert await verdict(World(), subject) == (
        True,
        'cloudtaser.io/inject is not "true": the other annotations have no effect',
    )


async def test_a_pod_with_hostpid_is_refused_only_where_secrets_are_required() -> None:
    assert (await verdict(World(), pod(hostPID=True)))[0]
    assert not (await verdict(World(), pod(hostPID=True), required=True))[0]


# --- fail-closed namespaces look at the final pod


async def test_a_pod_as_we_make_it_passes() -> None:
    for volumes in (False, True):
        world = World()
        once = await mutated(
            world, pod(inits=[container("log", restartPolicy="Always")]), image_volumes=volumes
        )
        assert await verdict(world, once, required=True) == (True, "")


async def test_a_pod_that_was_not_mutated_is_refused_only_where_secrets_are_required() -> None:
    assert await verdict(World(), pod()) == (True, "")
    allowed, message = await verdict(World(), pod(), required=True)
    assert not allowed
    assert "there is no volume with the wrapper's program" in message
    assert "container app does not start the wrapper" in message


def of(part: str, change: Callable[[Any], Any]) -> Callable[[Json], None]:
    def spoil(subject: Json) -> None:
        change(named(subject, part) if part else subject["spec"])

    return spoil


def _mounted(*paths: str) -> Callable[[Json], None]:
    mounts = [{"name": f"evil-{index}", "mountPath": path} for index, path in enumerate(paths)]
    return of("cloudtaser-init", lambda one: one["volumeMounts"].extend(mounts))


SPOILT: dict[str, tuple[Callable[[Json], None], str]] = {
    "another command": (of("app", lambda one: one.update(command=["sh"])), "does not start the wrapper"),
    "an option of the wrapper's": (
        of("app", lambda one: one.update(command=["/cloudtaser/wrapper"])),
        "does not start",
    ),
    "nothing to start": (of("app", lambda one: one.pop("args")), "does not start the wrapper"),
    "another image": (
        of("cloudtaser-init", lambda one: one.update(image="evil/x")),
        "runs evil/x, not the operator's",
    ),
    "another program": (of("cloudtaser-init", lambda one: one.update(command=["sh"])), "does not install"),
    "a variable for it": (
        of("cloudtaser-init", lambda one: one.update(env=[{"name": "LD_PRELOAD"}])),
        "does not install",
    ),
    "other arguments": (
        of("cloudtaser-init", lambda one: one.update(args=["--install", "/x"])),
        "does not install",
    ),
    "another working directory": (
        of("cloudtaser-init", lambda one: one.update(workingDir="/x")),
        "does not install",
    ),
    **{
        f"a file of the author's at {path}": (_mounted(path), "does not install")
        for path in (
            "/cloudtaser",
            "/cloudtaser/wrapper",
            "/",
            "//x/../cloudtaser/",
            "/target/wrapper",
            "/etc",
        )
    },
    "a mount that a symbolic link leads elsewhere": (
        _mounted("/var/run/secrets/a", "/var/run/secrets/a/b"),
        "does not install",
    ),
    "a part of the volume filled": (
        of("cloudtaser-init", lambda one: one["volumeMounts"][0].update(subPath="x")),
        "does not install",
    ),
    "not copied at all": (of("", lambda spec: spec["initContainers"].pop(0)), "there is no init container"),
    "copied too late": (
        of("", lambda spec: spec["initContainers"].reverse()),
        "comes after a container that needs it",
    ),
    "writable": (
        of("app", lambda one: one["volumeMounts"][0].update(readOnly=False)),
        "could write to the wrapper",
    ),
    "written by another": (
        of(
            "",
            lambda spec: spec["containers"].append(
                container(
                    "b",
                    ["/cloudtaser/wrapper", "--"],
                    args=["x"],
                    volumeMounts=[{"name": "cloudtaser-payload", "mountPath": "/y"}],
                )
            ),
        ),
        "container b could write",
    ),
    "a part of it": (
        of("app", lambda one: one["volumeMounts"][0].update(subPath="x")),
        "something else at /cloudtaser",
    ),
    "something over it": (
        of(
            "app",
            lambda one: one["volumeMounts"].append(
                {"name": "cloudtaser-payload", "mountPath": "/cloudtaser/wrapper", "readOnly": True}
            ),
        ),
        "belongs",
    ),
    "on a disk": (of("", lambda spec: spec["volumes"][0].update(emptyDir={})), "is not in memory"),
    "from a disk": (
        of(
            "", lambda spec: spec.update(volumes=[{"name": "cloudtaser-payload", "hostPath": {"path": "/x"}}])
        ),
        "is not in memory",
    ),
    "another mounted image": (
        of(
            "",
            lambda spec: spec["volumes"].__setitem__(
                0, {"name": "cloudtaser-payload", "image": {"reference": "evil/x"}}
            ),
        ),
        "comes from evil/x",
    ),
    "another vault": (
        of("app", lambda one: one["env"].append({"name": "VAULT_ADDR", "value": "https://evil"})),
        "another VAULT_ADDR",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
async def test_a_pod_that_somebody_changed_afterwards_is_refused(how: str) -> None:
    world = World()
    subject = await mutated(world, pod(inits=[container("log", restartPolicy="Always")]))
    spoil, says = SPOILT[how]
    spoil(subject)
    allowed, message = await verdict(world, subject, required=True)
    assert not allowed
    assert says in message
    if how != "something over it":
        assert (await verdict(world, subject))[0]


async def test_what_others_mount_into_every_container_is_no_fault() -> None:
    world = World()
    subject = await mutated(world, pod())
    mounts = named(subject, "cloudtaser-init")["volumeMounts"]
    mounts[-1] = {
        "name": "kube-api-access-x",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        "readOnly": True,
    }
    mounts.append({"name": "aws", "mountPath": "/var/run/secrets/eks.amazonaws.com/serviceaccount"})
    assert await verdict(world, subject, required=True) == (True, "")


async def test_the_image_before_an_upgrade_is_accepted_for_a_while() -> None:
    world = World()
    world.configs["shop", "old"] = Config(wrapper_image="registry.example.com/wrapper:0")
    once = await mutated(world, pod(annotations={"cloudtaser.io/config": "old"}))
    assert not (await verdict(world, once, required=True))[0]
    webhook = world.webhook(accepted_wrapper_images=("registry.example.com/wrapper:0",))
    assert (await webhook.validate(review(once), required=True)).allowed
    assert world.settings.wrapper_image == WRAPPER_IMAGE


async def test_an_ephemeral_container_may_read_the_payload_and_never_write_to_it() -> None:
    world = World()
    subject = await mutated(world, pod())
    mount = {"name": "cloudtaser-payload", "mountPath": "/x"}
    subject["spec"]["ephemeralContainers"] = [{"name": "d", "image": "x", "volumeMounts": [mount]}]
    asked = {"operation": "UPDATE", "subresource": "ephemeralcontainers"}
    allowed, message = await verdict(world, subject, required=True, **asked)
    assert (allowed, message) == (False, "ephemeral container d could write to the wrapper's program")
    mount["readOnly"] = True  # type: ignore[assignment]
    assert (await verdict(world, subject, required=True, **asked))[0]


@pytest.mark.parametrize("annotated", [True, False])
async def test_the_program_of_a_pod_that_waits_is_not_exchanged(annotated: bool) -> None:
    world = World()
    before = await mutated(world, pod(schedulingGates=[{"name": "wait"}]))
    after = copy.deepcopy(before)
    named(after, "cloudtaser-init")["image"] = "evil/x"
    if not annotated:
        del before["metadata"]["annotations"], after["metadata"]["annotations"]
    changed: Json = {"operation": "UPDATE", "old": before}
    allowed, message = await verdict(world, after, required=True, **changed)
    assert (allowed, message) == (False, "cloudtaser-init would run evil/x, not the operator's image")
    assert await verdict(world, after, **changed) == (True, "")


async def test_every_other_change_of_a_pod_passes() -> None:
    world = World()
    before = await mutated(world, pod(metadata={"finalizers": ["x/y"]} | pod()["metadata"]))
    after = copy.deepcopy(before)
    del after["metadata"]["finalizers"]
    named(after, "app")["image"] = "registry.example.com/app:2"
    assert await verdict(world, after, required=True, operation="UPDATE", old=before) == (True, "")
    for one in (before, after):  # as one that was made before the namespace was fail-closed
        named(one, "cloudtaser-init")["image"] = "registry.example.com/wrapper:0"
    assert await verdict(world, after, required=True, operation="UPDATE", old=before) == (True, "")
    named(after, "cloudtaser-init")["image"] = WRAPPER_IMAGE
    assert await verdict(world, after, required=True, operation="UPDATE", old=before) == (True, "")


# --- workloads


def deployment(template: Json, **metadata: Any) -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "w", **metadata},
        "spec": {"template": template},
    }


async def told(world: World, subject: Json) -> str:
    answer = await world.webhook().validate_workload(review(subject))
    assert answer.allowed
    assert answer.patch == ()
    return " | ".join(answer.warnings)


async def test_a_workload_is_never_refused_and_told_everything() -> None:
    bad = deployment(pod(annotations={"cloudtaser.io/env-map": "a=1b", "cloudtaser.io/nonsense": "x"}))
    message = await told(World(), bad)
    assert "cloudtaser.io/nonsense: there is no such annotation" in message
    assert "a pod with hostPID" in await told(World(), deployment(pod(hostPID=True)))
    assert await told(World(), deployment(pod())) == ""


@pytest.mark.parametrize(
    "metadata",
    [{"annotations": {"cloudtaser.io/inject": "true"}}, {"labels": {"cloudtaser.io/inject": "true"}}],
)
async def test_what_sits_on_the_workload_instead_of_its_template_is_said(metadata: Json) -> None:
    message = await told(World(), deployment(pod(inject=False), **metadata))
    assert "cloudtaser.io/inject: belongs into the pod template's metadata; here it has no effect" in message
    assert "belongs" not in await told(World(), deployment(pod(), **metadata))


async def test_the_template_of_a_cronjob_is_found() -> None:
    bad = pod(annotations={"cloudtaser.io/env-map": "a=1b"})
    cron = {"kind": "CronJob", "metadata": {}, "spec": {"jobTemplate": {"spec": {"template": bad}}}}
    assert "'1b' is not a variable name" in await told(World(), copy.deepcopy(cron))


async def test_a_refusal_with_very_many_reasons_stays_short_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(service, "_log", SimpleNamespace(warning=lambda _, **more: told.append(more["why"])))
    world = World()
    wrong = {f"cloudtaser.io/secret-paths{'x' * 200}{number}": "x" for number in range(5000)}
    allowed, message = await verdict(world, pod(annotations=wrong))
    assert not allowed
    assert message.startswith("cloudtaser.io/secret-paths")
    assert [len(text) for text in (message, *told, world.occurrences[0].message)] == [MAX_MESSAGE] * 3


async def test_names_that_no_container_has_get_a_few_hints_only() -> None:
    wrong = ",".join(f"apq{number}" for number in range(64))
    asked = {"cloudtaser.io/containers": wrong, "cloudtaser.io/skip-containers": wrong.replace("apq", "apk")}
    request, problems = parse(pod(annotations=asked)["metadata"]["annotations"], {})
    assert problems == ()
    _, unknown = select(pod(container("apqk")), request)
    assert [bool(problem.fix) for problem in unknown] == [True] * MAX_HINTS + [False] * (128 - MAX_HINTS)
    said = BadRequestError(unknown)
    assert len(said.problems) == MAX_PROBLEMS
    assert said.diagnostic().endswith(". And 64 more")


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        (pod(*[container(f"c{number}") for number in range(101)]), "more than 100 containers"),
        (
            pod(annotations={f"cloudtaser.io/template-A{number}": "x" for number in range(101)}),
            "more than 100 templates",
        ),
        (
            pod(
                *[container(f"c{number}") for number in range(20)],
                annotations={"cloudtaser.io/template-A": "x" * 60_000},
            ),
            "are too long for 20 containers",
        ),
    ],
    ids=["containers", "templates", "both"],
)
async def test_a_pod_that_is_too_much_work_is_refused_before_it_is_done(subject: Json, says: str) -> None:
    allowed, message = await verdict(World(), subject)
    assert not allowed
    assert says in message


async def test_a_large_pod_is_none_that_is_too_much() -> None:
    templates = {f"cloudtaser.io/template-A{number}": "{{password}}" + "x" * 50 for number in range(100)}
    large = pod(*[container(f"c{number}") for number in range(100)], annotations=templates)
    world = World()
    allowed, message = await verdict(world, await mutated(world, large))
    assert allowed, message
