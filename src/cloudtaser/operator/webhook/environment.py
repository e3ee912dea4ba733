"""The environment of a wrapped container: every variable that the webhook sets for the wrapper.

Used by `mutation` and `s3proxy`. Pure. Names and meanings are the wrapper's (docs/wrapper.md, "Settings");
a test hands what comes out of here to the wrapper's own reader.

Two kinds. Where the wrapper goes, as whom and whom it trusts is decided here and nowhere else: what the
container itself sets of these is replaced or taken out, and where it imports whole ConfigMaps an empty
value stands in their way. What it fetches and how it hands that over is a default: a container may set its
own, so that two containers of one pod can have different secrets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloudtaser.operator.webhook.plan import Plan
from cloudtaser.operator.webhook.pods import Container, Kind, objects

Json = dict[str, Any]

FIRST_PORT: Final = 8199
"""Where the first sealed wrapper of a pod listens; each further one takes the next."""
JOB_STARTUP_TIMEOUT: Final = "5m"

DECIDED: Final = (
    "VAULT_ADDR", "VAULT_AUTH_METHOD", "VAULT_AUTH_ROLE", "VAULT_AUTH_MOUNT_PATH", "VAULT_NAMESPACE",
    "VAULT_SKIP_VERIFY", "VAULT_JWT_FILE", "VAULT_CACERT", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY",
    "CLOUDTASER_CA", "CLOUDTASER_ALLOW_HTTP", "CLOUDTASER_ALLOW_PLAIN_UNSEAL", "CLOUDTASER_AGENT_SOCKET",
    "CLOUDTASER_CONTAINER", "CLOUDTASER_EBPF", "CLOUDTASER_FINGERPRINT", "CLOUDTASER_LISTEN_ADDR",
    "CLOUDTASER_OPERATOR_ADDR", "CLOUDTASER_POD_UID", "CLOUDTASER_UNSEAL_JWT_FILE",
)  # fmt: skip
"""Set here or not at all."""
OWN_FILES: Final = ("VAULT_CACERT", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY")
"""Files in the container, which only the container's author knows: his own in direct mode."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the environment depends on besides the plan."""

    fingerprint: str
    operator_address: str
    rotation_grace: str = ""
    rotation_debounce: str = ""
    poll_interval: str = ""
    is_job: bool = False
    """The pod is to end, so it does not wait for ever."""


def decided(plan: Plan, container: str, around: Circumstances, port: int | None) -> dict[str, str | Json]:
    """The variables of the first kind; an object is a `valueFrom`. `port`: where a sealed wrapper listens."""
    found: dict[str, str | Json] = {
        "VAULT_ADDR": plan.address,
        "VAULT_AUTH_METHOD": plan.method,
        "VAULT_AUTH_ROLE": plan.role,
        "VAULT_AUTH_MOUNT_PATH": plan.mount,
        "VAULT_NAMESPACE": plan.vault_namespace,
        "VAULT_SKIP_VERIFY": "true" if plan.skip_verify else "false",  # whatever the image sets
        "CLOUDTASER_CA": plan.ca,
        "CLOUDTASER_ALLOW_HTTP": "true" if plan.allow_http else "",
        "CLOUDTASER_CONTAINER": container,
        "CLOUDTASER_EBPF": plan.ebpf,
    }
    if plan.client_cert is not None:
        found["VAULT_CLIENT_CERT"] = plan.client_cert.certificate
        found["VAULT_CLIENT_KEY"] = plan.client_cert.key
    if plan.sealed:
        found["CLOUDTASER_FINGERPRINT"] = around.fingerprint
        found["CLOUDTASER_LISTEN_ADDR"] = f":{port}"
        found["CLOUDTASER_OPERATOR_ADDR"] = around.operator_address
        found["CLOUDTASER_POD_UID"] = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}
    return {name: value for name, value in found.items() if value}


def defaults(plan: Plan, kind: Kind, around: Circumstances) -> dict[str, str]:
    """The variables of the second kind."""
    ends = around.is_job or kind is Kind.INIT
    rotation = "none" if ends and not plan.rotation_is_asked else plan.rotation
    found = {
        "CLOUDTASER_SECRET_PATHS": plan.secret_paths,
        "CLOUDTASER_ENV_MAP": plan.env_map,
        **{f"CLOUDTASER_TEMPLATE_{name}": text for name, text in plan.templates},
        "CLOUDTASER_DELIVERY": plan.delivery,
        "CLOUDTASER_OVERRIDE": "" if plan.override else "false",
        "CLOUDTASER_ALLOW_LOADER_ENV": "true" if plan.allow_loader_env else "",
        "CLOUDTASER_ROTATION": rotation,
        "CLOUDTASER_ROTATION_GRACE": around.rotation_grace,
        "CLOUDTASER_ROTATION_DEBOUNCE": around.rotation_debounce,
        "CLOUDTASER_ROTATION_INTERVAL": around.poll_interval,
        "CLOUDTASER_STARTUP_TIMEOUT": JOB_STARTUP_TIMEOUT if around.is_job else "",
    }
    return {name: value for name, value in found.items() if value}


def merged(
    container: Container, decisions: Mapping[str, str | Json], preset: Mapping[str, str], plan: Plan
) -> list[Json]:
    """The container's variables with ours: its own in their places, ours that are new behind them."""
    left_alone = OWN_FILES if plan.direct else ()
    guarded = [name for name in DECIDED if name not in left_alone] if container.has_imports else []
    entries: list[Json] = []
    seen: set[str] = set()
    for entry in objects(container.spec.get("env")):
        name = str(entry.get("name"))
        if name in decisions:
            if name not in seen:
                entries.append(variable(name, decisions[name]))
        elif name not in DECIDED or name in left_alone or (name in guarded and _is_empty(entry)):
            entries.append(entry)
        else:
            continue
        seen.add(name)
    ours = {**decisions, **preset}
    entries += (variable(name, value) for name, value in ours.items() if name not in seen)
    entries += ({"name": name} for name in guarded if name not in seen and name not in ours)
    return entries


def _is_empty(entry: Mapping[str, Any]) -> bool:
    return not entry.get("value") and "valueFrom" not in entry


def overruled(container: Container, plan: Plan) -> Iterator[str]:
    """The container's own variables that count for nothing, since they are decided here."""
    for name, value in container.variables.items():
        if name in DECIDED and value and not (plan.direct and name in OWN_FILES):
            yield name


def variable(name: str, value: str | Json) -> Json:
    """One entry of `env`. In a value the kubelet takes `$(NAME)` for a reference: ours mean what they say."""
    if isinstance(value, str):
        return {"name": name, "value": literal(value)}
    return {"name": name, "valueFrom": value}


def literal(text: str) -> str:
    """`text` such that the kubelet's expansion of variables gives it back."""
    return text.replace("$", "$$") if "$(" in text or "$$" in text else text


def meant(text: str) -> str:
    """The other way round, as far as it can be known here: `$$` stands for `$`."""
    return text.replace("$$", "$")


def is_for_wrapper(name: str) -> bool:
    """Whether a variable is a setting of the wrapper's, which the application does not see."""
    return name.startswith("CLOUDTASER_") or name in DECIDED or name == "VAULT_TOKEN"


def taken_port(container: Container) -> int | None:
    """The port that a sealed wrapper of this container was given before."""
    text = container.variables.get("CLOUDTASER_LISTEN_ADDR", "")
    digits = text.removeprefix(":")
    is_port = text.startswith(":") and digits.isascii() and digits.isdigit() and len(digits) <= 5
    return int(digits) if is_port and 1024 <= int(digits) < 65536 else None


def ports(containers: list[Container], others: list[Container]) -> dict[str, int]:
    """A port of its own for each sealed wrapper, by container; none that any container of the pod declares.

    One that was given before stays, so that another container put in between changes nothing.
    """
    used = {
        port.get("containerPort")
        for container in [*containers, *others]
        for port in objects(container.spec.get("ports"))
    }
    given: dict[str, int] = {}
    for container in containers:
        port = taken_port(container)
        if container.is_wrapped and port is not None and port not in used:
            given[container.name] = port
            used.add(port)
    following = FIRST_PORT
    for container in containers:
        if container.name not in given:
            while following in used:
                following += 1
            given[container.name] = following
            used.add(following)
    return given
