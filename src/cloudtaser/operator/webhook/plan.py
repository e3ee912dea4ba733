"""The plan: what is to be done to one pod, out of three sources: its annotations, a CloudTaserConfig, the
chart.

Used by `service` before anything is looked up, by `mutation` to do it and by `validation` to say what is
wrong with it. Pure. The first source that says something counts (spec/operator.md, "Controllers").
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.errors import RefusedError
from cloudtaser.kube.allow_list import AllowList
from cloudtaser.kube.annotations import PREFIX, ClientCertificate, Problem, Request, S3Proxy, paths_in
from cloudtaser.operator.webhook.errors import BadRequestError
from cloudtaser.operator.webhook.ports import InjectionConfig, NamespaceView
from cloudtaser.operator.webhook.settings import WebhookSettings
from cloudtaser.wire.names import pod_audience, unseal_audience

ALLOWED_PATHS: Final = PREFIX + "allowed-paths"
"""Of a Namespace: the paths that its pods may name, comma separated, `*` for any text. Nobody but the
cluster's administrators can write it; OpenBao decides all the same."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is the same for all containers of the pod. Empty text: nothing is set."""

    address: str
    direct: bool
    """Without a broker: the wrapper connects to OpenBao itself."""
    ca: str
    """PEM that the wrapper trusts and nothing else; empty in direct mode means the certificates of the
    image."""
    allow_http: bool
    method: str
    role: str
    mount: str
    vault_namespace: str
    skip_verify: bool
    client_cert: ClientCertificate | None
    audience: str
    unseal_audience: str
    secret_paths: str
    allowed_paths: str
    """Patterns of the namespace's own policy; empty allows all, and OpenBao's decide in the end."""
    env_map: str
    templates: tuple[tuple[str, str], ...]
    rotation: str
    rotation_is_asked: bool
    delivery: str
    ebpf: str
    override: bool
    allow_loader_env: bool
    wrap_exec: bool
    wrapper_image: str
    wrapper_resources: Mapping[str, Any]
    s3proxy: S3Proxy | None

    @property
    def sealed(self) -> bool:
        """Whether the containers wait for a token that the operator brings."""
        return self.method == "token"


def make(
    request: Request,
    config: InjectionConfig | None,
    settings: WebhookSettings,
    allowed: AllowList,
    namespace: NamespaceView,
    pod_ca: str,
) -> Plan:
    """The plan. BadRequestError, with all that is wrong, where there can be none."""
    problems: list[Problem] = []
    if request.config and config is None:
        problems.append(Problem(PREFIX + "config", f"there is no CloudTaserConfig {request.config!r} here"))
    elif config is not None and not selects(config.namespace_selector, namespace.labels):
        problems.append(
            Problem(PREFIX + "config", f"{request.config!r} is not for this namespace (namespaceSelector)")
        )
    address, direct, own = _address(request, config, settings, allowed, problems)
    method = request.vault_auth_method or settings.vault_auth_method
    _check_mode(request, settings, direct, method, problems)
    paths = request.secret_paths or ",".join(config.secret_paths if config else ())
    try:
        paths_in(paths)
    except ValueError as error:  # of a CloudTaserConfig: an annotation was read before
        problems.append(Problem(f"CloudTaserConfig {request.config}", str(error)))
    delivery = request.delivery or settings.delivery
    rotation = request.rotation or settings.rotation
    if rotation == "sighup" and delivery == "env":
        problems.append(
            Problem(
                PREFIX + "rotation",
                "'sighup' cannot bring new values: the environment of a running program does not change",
                f"set {PREFIX}delivery to memory or file, or rotation to restart or none",
            )
        )
    if request.s3proxy is not None and not settings.s3proxy_image:
        problems.append(Problem(PREFIX + "s3proxy", "the operator has no image of it", "set s3proxy.image"))
    if problems:
        raise BadRequestError(problems)
    fp8 = settings.fingerprint[:8]
    return Plan(
        address=address,
        direct=direct,
        ca="" if direct and not own else settings.vault_ca if direct else pod_ca,
        allow_http=address.startswith("http://"),
        method=method,
        role=request.vault_role or (config.vault_role if config else "") or settings.vault_role,
        mount=request.vault_auth_mount
        or (config.vault_auth_path.strip("/") if config else "")
        or settings.vault_auth_mount,
        vault_namespace=request.vault_namespace or (settings.vault_namespace if direct and own else ""),
        skip_verify=bool(request.vault_skip_verify),
        client_cert=request.vault_client_cert,
        audience=request.vault_audience or pod_audience(fp8),
        unseal_audience=unseal_audience(fp8) if method == "token" else "",
        secret_paths=paths,
        allowed_paths=namespace.annotations.get(ALLOWED_PATHS, "").strip(),
        env_map=request.env_map or (config.env_map if config else ""),
        templates=request.templates,
        rotation=rotation,
        rotation_is_asked=bool(request.rotation),
        delivery=delivery,
        ebpf=request.ebpf or settings.ebpf,
        override=request.override is not False,
        allow_loader_env=request.allow_loader_env,
        wrap_exec=request.wrap_exec,
        wrapper_image=(config.wrapper_image if config else "") or settings.wrapper_image,
        wrapper_resources=(config.wrapper_resources if config else None) or settings.wrapper_resources,
        s3proxy=request.s3proxy,
    )


def _address(
    request: Request,
    config: InjectionConfig | None,
    settings: WebhookSettings,
    allowed: AllowList,
    problems: list[Problem],
) -> tuple[str, bool, bool]:
    """The address, whether it is without a broker, and whether it is the operator's own."""
    own = settings.vault_address.rstrip("/")
    asked = (request.vault_address or (config.vault_address if config else "")).rstrip("/")
    if not asked or asked == own:
        return own, not own.startswith("broker://"), True
    on = PREFIX + "vault-address" if request.vault_address else f"CloudTaserConfig {request.config}"
    try:
        return str(allowed.check(asked)), True, False
    except RefusedError as error:
        problems.append(Problem(on, error.what, error.fix))
        return asked, True, False


def _check_mode(
    request: Request, settings: WebhookSettings, direct: bool, method: str, problems: list[Problem]
) -> None:
    """What only makes sense with a broker, or only without one."""
    if direct and method == "token":
        problems.append(
            Problem(PREFIX + "vault-auth-method", "'token' needs the broker, which tokens are brought by")
        )
    if not direct:
        for name, value in (
            ("vault-namespace", request.vault_namespace),
            ("vault-client-cert", request.vault_client_cert),
            ("vault-audience", request.vault_audience),
        ):
            if value:
                problems.append(Problem(PREFIX + name, "behind the broker it has no meaning", "take it out"))
    if request.vault_skip_verify and not direct:
        what = "behind the broker the pinned CA is all there is"
        problems.append(Problem(PREFIX + "vault-skip-verify", what, "take it out"))
    elif request.vault_skip_verify and not settings.allow_skip_verify:
        problems.append(Problem(PREFIX + "vault-skip-verify", "the operator does not allow it"))


def outside(paths: Sequence[str], policy: str) -> list[str]:
    """The paths that no pattern of the policy covers; without a policy none."""
    if not policy:
        return []
    patterns = [pattern.strip().removeprefix("/").removeprefix("v1/") for pattern in policy.split(",")]
    return [path for path in paths if not any(fnmatch.fnmatchcase(path, one) for one in patterns)]


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions) takes these labels; none takes all."""
    if not selector:
        return True
    given = selector.get("matchLabels")
    if isinstance(given, Mapping) and any(labels.get(key) != value for key, value in given.items()):
        return False
    expressions = selector.get("matchExpressions")
    if not isinstance(expressions, list | tuple):
        return True
    return all(_holds(one, labels) for one in expressions if isinstance(one, Mapping))


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(str(expression.get("key"))), expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False
