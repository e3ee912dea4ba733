"""The custom resources of `api.cloudtaser.io/v1alpha1` as frozen data: what people write in their specs.

Parsed from the API server's JSON by `operator.controllers`, by the webhook's source of configurations and by
the CLI; statuses are JSON that the controllers write. The schemas in `charts/cloudtaser/crds/` have refused
what is badly formed before it gets here; what a server without them lets through is a ProtocolError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar, cast, get_args

from cloudtaser.errors import ProtocolError
from cloudtaser.kube.kinds import Kind

Json = dict[str, Any]
GROUP: Final = "api.cloudtaser.io"
VERSION: Final = "v1alpha1"
CLOUDTASER_CONFIGS: Final = Kind(GROUP, VERSION, "cloudtaserconfigs", "CloudTaserConfig")
SECRET_MAPPINGS: Final = Kind(GROUP, VERSION, "secretmappings", "SecretMapping")
DEBUG_REPORTS: Final = Kind(GROUP, VERSION, "debugreports", "DebugReport")

Check = Literal["hops", "versions", "certificates", "events", "pods", "webhook", "errors"]
CHECKS: Final[tuple[Check, ...]] = get_args(Check)
WorkloadKind = Literal["Deployment", "StatefulSet", "DaemonSet", "CronJob", "Job"]
PlanStatus = Literal["pending", "migrated", "skipped"]
DEFAULT_TTL: Final = 24 * 3600.0
MAX_TTL: Final = 30 * 24 * 3600.0

_DURATION: Final = re.compile(
    r"(?:([0-9]{1,4})d)?(?:([0-9]{1,4})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,7})s)?", re.ASCII
)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Of any object, as far as we use it."""

    namespace: str
    name: str
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    """RFC 3339."""
    deleting: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name

    @classmethod
    def parse(cls, item: Json) -> Metadata:
        """Of an object as the API server sends it."""
        found = _object(item, "metadata")
        return cls(
            namespace=_text(found, "namespace"),
            name=_text(found, "name"),
            uid=_text(found, "uid"),
            resource_version=_text(found, "resourceVersion"),
            generation=_number(found, "generation"),
            creation_timestamp=_text(found, "creationTimestamp"),
            deleting=bool(found.get("deletionTimestamp")),
            labels=_texts(found, "labels"),
            annotations=_texts(found, "annotations"),
        )


@dataclass(frozen=True, slots=True)
class CloudTaserConfig:
    """What pods that name it by `cloudtaser.io/config` take for what their annotations leave out. Empty, or
    None, means: not said."""

    metadata: Metadata
    secret_paths: tuple[str, ...]
    env_map: str = ""
    vault_address: str = ""
    vault_auth_path: str = ""
    vault_role: str = ""
    wrapper_image: str = ""
    wrapper_resources: Mapping[str, Any] | None = None
    namespace_selector: Mapping[str, Any] | None = None
    status: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, item: Json) -> CloudTaserConfig:
        """As the API server sends it. ProtocolError when it cannot be one."""
        spec = _object(item, "spec")
        return cls(
            metadata=Metadata.parse(item),
            secret_paths=_list(spec, "secretPaths", _as_text),
            env_map=_text(spec, "envMap"),
            vault_address=_text(spec, "vaultAddress"),
            vault_auth_path=_text(spec, "vaultAuthPath"),
            vault_role=_text(spec, "vaultRole"),
            wrapper_image=_text(spec, "wrapperImage"),
            wrapper_resources=_object(spec, "wrapperResources") or None,
            namespace_selector=_object(spec, "namespaceSelector") if "namespaceSelector" in spec else None,
            status=_object(item, "status"),
        )


@dataclass(frozen=True, slots=True)
class MappedSecret:
    """One Kubernetes Secret, and where its fields go: the path in OpenBao, and the variable of each field."""

    source: str
    vault_path: str
    fields: Mapping[str, str]

    @classmethod
    def parse(cls, item: Json) -> MappedSecret:
        """One entry of `spec.secrets`."""
        return cls(_text(item, "source"), _text(item, "vaultPath"), _texts(item, "fields"))


@dataclass(frozen=True, slots=True)
class SecretMapping:
    """One workload of a migration plan (spec/cli.md "Migration plan"), with its tenant."""

    metadata: Metadata
    tenant: str
    kind: WorkloadKind
    name: str
    secrets: tuple[MappedSecret, ...]
    replicas: int = 0
    plan_status: PlanStatus = "pending"
    reason: str = ""
    status: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, item: Json) -> SecretMapping:
        """As the API server sends it. ProtocolError when it cannot be one."""
        spec = _object(item, "spec")
        workload = _object(spec, "workload")
        return cls(
            metadata=Metadata.parse(item),
            tenant=_text(spec, "tenant"),
            kind=cast("WorkloadKind", _one_of(workload, "kind", get_args(WorkloadKind))),
            name=_text(workload, "name"),
            secrets=_list(spec, "secrets", lambda entry: MappedSecret.parse(_as_object(entry))),
            replicas=_number(workload, "replicas"),
            plan_status=cast("PlanStatus", _one_of(spec, "status", get_args(PlanStatus), "pending")),
            reason=_text(spec, "reason"),
            status=_object(item, "status"),
        )


@dataclass(frozen=True, slots=True)
class ReportTarget:
    """What a DebugReport is about. Empty is everything; a namespace alone is everything in it."""

    namespace: str = ""
    kind: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class DebugReport:
    """A request for a report, and the report once it is made."""

    metadata: Metadata
    checks: tuple[Check, ...] = CHECKS
    target: ReportTarget = ReportTarget()
    ttl: float = DEFAULT_TTL
    """Seconds after which it is deleted, from its completion on."""
    status: Mapping[str, Any] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        """Pending, Running, Complete or Failed; empty before the first look at it."""
        return str(self.status.get("phase", ""))

    @classmethod
    def parse(cls, item: Json) -> DebugReport:
        """As the API server sends it. ProtocolError when it cannot be one."""
        spec = _object(item, "spec")
        target = _object(spec, "target")
        checks = _list(spec, "checks", _as_text) or CHECKS
        for check in checks:
            if check not in CHECKS:
                raise ProtocolError(f"spec.checks names {check!r}, which is no check")
        return cls(
            metadata=Metadata.parse(item),
            checks=cast("tuple[Check, ...]", checks),
            target=ReportTarget(_text(target, "namespace"), _text(target, "kind"), _text(target, "name")),
            ttl=parse_duration(_text(spec, "ttl")) if "ttl" in spec else DEFAULT_TTL,
            status=_object(item, "status"),
        )


def parse_duration(text: str) -> float:
    """Seconds of a duration like `90s`, `30m`, `1h30m`, `7d`. ProtocolError when it is none, or too long."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ProtocolError(f"{text[:40]!r} is no duration", fix="write it like 30m, 12h or 7d")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    if total > MAX_TTL:
        raise ProtocolError(f"{text!r} is longer than {MAX_TTL / 86400:g} days")
    return total


def _value(holder: Json, name: str, kind: type[_T], empty: _T) -> _T:
    value = holder.get(name)
    if value is None:
        return empty
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ProtocolError(f"{name} is not what the schema says, but {type(value).__name__}")
    return value


def _object(holder: Json, name: str) -> Json:
    return _value(holder, name, dict, {})


def _text(holder: Json, name: str) -> str:
    return _value(holder, name, str, "")


def _number(holder: Json, name: str) -> int:
    return _value(holder, name, int, 0)


def _texts(holder: Json, name: str) -> dict[str, str]:
    return {str(key): _as_text(value) for key, value in _object(holder, name).items()}


def _list(holder: Json, name: str, each: Callable[[object], _T]) -> tuple[_T, ...]:
    return tuple(each(entry) for entry in _value(holder, name, list, []))


def _one_of(holder: Json, name: str, choices: tuple[str, ...], default: str = "") -> str:
    value = _text(holder, name) or default
    if value not in choices:
        raise ProtocolError(f"{name} is {value[:40]!r}, not one of {', '.join(choices)}")
    return value


def _as_text(value: object) -> str:
    if not isinstance(value, str):
        raise ProtocolError(f"a text was expected, not {type(value).__name__}")
    return value


def _as_object(value: object) -> Json:
    if not isinstance(value, dict):
        raise ProtocolError(f"an object was expected, not {type(value).__name__}")
    return value
