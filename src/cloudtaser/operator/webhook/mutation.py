"""The mutation: a pod as it came, a plan, and what its images start; out comes the pod as it is to be.

Used by `service`; `enforcement` looks at the outcome. Pure, and a projection: mutating a mutated pod changes
nothing. What is already there is judged from the pod's specification alone, and put right where another
webhook or the pod's author changed it; what others added to a container of ours (mounts, a pull policy)
stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.kube.annotations import IMAGE_DIGEST, PREFIX, STATUS, TOKEN_ACCESSOR, Problem, check_secrets
from cloudtaser.kube.injection import COMMAND
from cloudtaser.kube.registry.image import ImageConfig
from cloudtaser.operator.webhook import environment, execs, payload, s3proxy, status
from cloudtaser.operator.webhook.environment import Circumstances
from cloudtaser.operator.webhook.errors import BadRequestError, NotInjectedError
from cloudtaser.operator.webhook.hardening import hardened
from cloudtaser.operator.webhook.plan import ALLOWED_PATHS, Plan, outside
from cloudtaser.operator.webhook.pods import (
    JWT_DIRECTORY,
    JWT_VOLUME,
    PAYLOAD_VOLUME,
    WRAPPER_DIRECTORY,
    Container,
    containers,
    is_below,
    mapping,
    objects,
    strings,
)
from cloudtaser.operator.webhook.settings import WebhookSettings

Json = dict[str, Any]

_MIRROR: Final = "kubernetes.io/config.mirror"
_JOINED_DNS: Final = ("ClusterFirst", "ClusterFirstWithHostNet")


@dataclass(frozen=True, slots=True)
class Mutated:
    """The pod as it is to be, who was wrapped, and what its author should know."""

    pod: Json
    wrapped: tuple[str, ...]
    warnings: tuple[str, ...]


def circumstances(pod: Mapping[str, Any], settings: WebhookSettings) -> Circumstances:
    """What the environment of the pod's containers depends on besides the plan."""
    owners = objects(mapping(pod, "metadata").get("ownerReferences"))
    return Circumstances(
        fingerprint=settings.fingerprint,
        operator_address=settings.operator_address,
        rotation_grace=settings.rotation_grace,
        rotation_debounce=settings.rotation_debounce,
        poll_interval=settings.poll_interval,
        is_job=any(owner.get("kind") == "Job" for owner in owners),
    )


def check(pod: Mapping[str, Any], plan: Plan, selected: Sequence[Container]) -> None:
    """Raise NotInjectedError where the pod can get no wrapper, BadRequestError with all that could never
    work."""
    spec = mapping(pod, "spec")
    if spec.get("hostPID") is True:
        raise NotInjectedError(
            "host_pid",
            "a pod with hostPID gets no secrets: every process of the node is beside them",
            fix="unset hostPID",
        )
    if mapping(spec, "os").get("name") == "windows":
        raise NotInjectedError("windows", "there is no wrapper for Windows")
    if _MIRROR in mapping(mapping(pod, "metadata"), "annotations"):
        raise NotInjectedError(
            "static_pod", "a static pod is the kubelet's own: what is stored is only its image"
        )
    problems: list[Problem] = []
    if plan.sealed and spec.get("hostNetwork") is True:
        what = "'token' cannot be used with hostNetwork: the wrapper's port would be the node's"
        problems.append(Problem(PREFIX + "vault-auth-method", what))
    if plan.sealed and plan.wrap_exec:
        what = "with 'token' each command would wait for a token of its own"
        problems.append(Problem(PREFIX + "wrap-exec", what, "use vault-auth-method kubernetes"))
    for container in selected:
        problems += _container_problems(container, plan)
    if problems:
        raise BadRequestError(problems)


def _container_problems(container: Container, plan: Plan) -> list[Problem]:
    on = f"container {container.name}"
    problems = []
    for mount in objects(container.spec.get("volumeMounts")):
        path = mount.get("mountPath")
        for directory, volume in ((WRAPPER_DIRECTORY, PAYLOAD_VOLUME), (JWT_DIRECTORY, JWT_VOLUME)):
            if is_below(path, directory) and (mount.get("name"), path) != (volume, directory):
                problems.append(Problem(on, f"mounts a volume of its own at {path}, where ours belongs"))
    asked = asked_by(container, plan)
    for problem in asked.problems:
        is_ours = problem.on.startswith(PREFIX)
        problems.append(problem if is_ours else Problem(f"{on}: {problem.on}", problem.what, problem.fix))
    for path in outside(asked.paths, plan.allowed_paths):
        what = f"{path!r} is outside of what this namespace's pods may name"
        problems.append(Problem(on, what, f"see {ALLOWED_PATHS} of the namespace"))
    return problems


@dataclass(frozen=True, slots=True)
class Asked:
    """What one container would fetch, and what the wrapper would not accept."""

    paths: tuple[str, ...]
    problems: tuple[Problem, ...]


def asked_by(container: Container, plan: Plan) -> Asked:
    """What the container would fetch: what it sets itself comes before what the pod says."""
    own = {name: environment.meant(text) for name, text in container.variables.items()}
    prefix = "CLOUDTASER_TEMPLATE_"
    templates = dict(plan.templates) | {
        name.removeprefix(prefix): text for name, text in own.items() if name.startswith(prefix)
    }
    blame = {
        "CLOUDTASER_SECRET_PATHS": PREFIX + "secret-paths",
        "CLOUDTASER_ENV_MAP": PREFIX + "env-map",
        **{f"{prefix}{name}": f"{PREFIX}template-{name}" for name in templates},
    }
    paths, problems = check_secrets(
        own.get("CLOUDTASER_SECRET_PATHS") or plan.secret_paths,
        own.get("CLOUDTASER_ENV_MAP") or plan.env_map,
        tuple(templates.items()),
        {name: text for name, text in own.items() if not environment.is_for_wrapper(name)},
        override=plan.override,
        allow_loader_env=plan.allow_loader_env,
        on={name: there for name, there in blame.items() if name not in own or container.is_wrapped},
    )
    return Asked(paths, problems)


def without_secrets(selected: Sequence[Container], plan: Plan) -> list[Container]:
    """Those that are really to be wrapped: where a pod asks for nothing but the S3 proxy, none of them."""
    if plan.s3proxy is not None and not any(_asks(container, plan) for container in selected):
        return [container for container in selected if container.is_wrapped]
    return list(selected)


def mutate(
    pod: Mapping[str, Any],
    plan: Plan,
    selected: Sequence[Container],
    images: Mapping[str, ImageConfig],
    settings: WebhookSettings,
) -> Mutated:
    """The pod with the wrapper. `images`: what was found out of those containers whose images had to be
    asked, by container. NotInjectedError where one of them starts nothing. `check` passed before.
    """
    result = _opened(pod)
    spec = result["spec"]
    around = circumstances(pod, settings)
    ports = environment.ports(list(selected), [one for one in containers(pod) if one not in selected])
    for container in selected:
        found = spec[container.part][container.index]
        _wrap(found, container, images.get(container.name))
        decisions = environment.decided(plan, container.name, around, ports[container.name])
        preset = environment.defaults(plan, container.kind, around)
        found["env"] = environment.merged(container, decisions, preset, plan)
        payload.mount(found, image_volume=settings.image_volumes)
        found["securityContext"] = hardened(
            mapping(found, "securityContext"), mapping(spec, "securityContext")
        )
        if plan.sealed:
            execs.add_sealed_probes(found, container.kind, ports[container.name])
        if plan.wrap_exec:
            execs.wrap(found)
    if selected:
        payload.add(spec, plan, settings)
    if plan.s3proxy is not None:
        s3proxy.add(spec, plan, plan.s3proxy, around, settings)
    if selected or plan.s3proxy is not None:
        payload.add_tokens(spec, plan)
    wrapped = tuple(container.name for container in selected)
    _annotate(result, plan, wrapped, selected, images)
    return Mutated(result, wrapped, tuple(_warnings(pod, plan, selected)))


def _opened(pod: Mapping[str, Any]) -> Json:
    """A copy of the pod down to its containers. What lies deeper is shared: it is replaced, never changed,
    and what is still the same object needs no comparing.
    """
    spec = dict(mapping(pod, "spec"))
    for part in ("initContainers", "containers"):
        if isinstance(spec.get(part), list):
            spec[part] = [dict(one) if isinstance(one, dict) else one for one in spec[part]]
    return {**pod, "metadata": dict(mapping(pod, "metadata")), "spec": spec}


def _wrap(found: Json, container: Container, image: ImageConfig | None) -> None:
    """The wrapper for a command, the original behind it."""
    original = list(container.original)
    if image is not None:
        # the kubelet expands $(NAME) in what a pod says and leaves an image's own words alone
        entrypoint = [environment.literal(word) for word in image.entrypoint]
        cmd = [environment.literal(word) for word in image.cmd]
        original = entrypoint + (list(container.args) if container.args and not container.is_wrapped else cmd)
    if not original:
        raise NotInjectedError(
            "image",
            "the image says nothing of what to start",
            on=f"container {container.name}",
            fix="set its command",
        )
    found["command"] = list(COMMAND)
    found["args"] = original


def _annotate(
    result: Json,
    plan: Plan,
    wrapped: tuple[str, ...],
    selected: Sequence[Container],
    images: Mapping[str, ImageConfig],
) -> None:
    metadata = result["metadata"]
    annotations = strings(metadata, "annotations")
    annotations.pop(TOKEN_ACCESSOR, None)  # ours alone, and only of a pod that is there
    before = status.digests(annotations.pop(IMAGE_DIGEST, ""))
    known = {container.name: before.get(container.name) for container in selected if container.is_wrapped}
    digests = known | {name: image.digest for name, image in images.items()}
    shown = status.of_digests({name: digests.get(name) for name in wrapped})
    if shown:
        annotations[IMAGE_DIGEST] = shown
    annotations[STATUS] = status.of_pod(plan, wrapped)
    metadata["annotations"] = annotations


def _warnings(pod: Mapping[str, Any], plan: Plan, selected: Sequence[Container]) -> list[str]:
    spec = mapping(pod, "spec")
    warnings = []
    if not selected and plan.s3proxy is None:
        warnings.append("no container is left to hand secrets to")
    if selected and plan.s3proxy is None and not any(_asks(container, plan) for container in selected):
        warnings.append(f"no secret is asked for: set {PREFIX}secret-paths")
    for container in selected:
        for name in environment.overruled(container, plan):
            if not container.is_wrapped:
                warnings.append(
                    f"container {container.name}: its {name} is replaced, that is for annotations to say"
                )
        if container.variables.get("VAULT_TOKEN"):
            warnings.append(
                f"container {container.name}: a token in VAULT_TOKEN lies in etcd for everybody to read"
            )
    if spec.get("shareProcessNamespace") is True and selected:
        warnings.append("shareProcessNamespace: the pod's other containers see the application's processes")
    policy = spec.get("dnsPolicy", "ClusterFirst")
    joined = policy == "ClusterFirstWithHostNet" if spec.get("hostNetwork") is True else policy in _JOINED_DNS
    if not joined and not plan.direct and selected:
        warnings.append("the broker's name may not resolve: set dnsPolicy ClusterFirstWithHostNet")
    return warnings


def _asks(container: Container, plan: Plan) -> bool:
    """Whether it fetches anything; what it imports may hold references, and is not looked into."""
    imports = any("valueFrom" in entry for entry in objects(container.spec.get("env")))
    return bool(asked_by(container, plan).paths) or container.has_imports or imports
