"""Annotations: the grammar of everything that a pod may say under `cloudtaser.io/`.

Used by the webhook at admission, and by the CLI. Pure. All that is wrong is reported at once up to a bound,
each problem with the annotation it is about; a name that is not known gets the nearest one that is. What
belongs to the wrapper (paths, map, templates, references) is read by the wrapper's own grammar, so that
admission and start never disagree (spec/operator.md "Annotations", spec/wrapper.md "Configuration").
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

from cloudtaser.errors import ProtocolError
from cloudtaser.net.addresses import Scope, parse_host, scope, scope_of_name
from cloudtaser.wrapper.envmap import EnvMapError, is_name, parse_paths
from cloudtaser.wrapper.errors import ConfigError as WrapperConfigError
from cloudtaser.wrapper.references import is_reference
from cloudtaser.wrapper.selection import Selection

PREFIX: Final = "cloudtaser.io/"
INJECT: Final = PREFIX + "inject"
STATUS: Final = PREFIX + "status"
TOKEN_ACCESSOR: Final = PREFIX + "token-accessor"
IMAGE_DIGEST: Final = PREFIX + "image-digest"
WRITTEN_BY_US: Final = (STATUS, TOKEN_ACCESSOR, IMAGE_DIGEST)
TEMPLATE: Final = "template-"

METHODS: Final = ("kubernetes", "token")
ROTATIONS: Final = ("restart", "sighup", "none")
DELIVERIES: Final = ("env", "memory", "auto", "file")
EBPF: Final = ("auto", "true", "required", "off")
S3_AUTHS: Final = ("auto", "env", "web-identity", "instance")
S3_PORT: Final = 8190
S3_HEALTH_PORT: Final = 8191

_WORD: Final = re.compile(r"[!-~]{1,256}", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_OBJECT_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_SEGMENTS: Final = re.compile(r"(?!\.)[A-Za-z0-9_.-]+(?:/(?!\.)[A-Za-z0-9_.-]+)*", re.ASCII)
_FILE: Final = re.compile(r"/[!-+\--~]{1,4095}", re.ASCII)  # no comma, which parts two of them
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_TRANSIT_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
_MAX_SHOWN: Final = 80
_MAX_NAMES: Final = 64
"""Of containers in one annotation."""
MAX_PROBLEMS: Final = 64
"""That are told of one pod. What comes here was not checked by an API server yet: a pod may carry 100,000."""
MAX_HINTS: Final = 8
"""That are looked for in one pod, for comparing texts costs as much as all the rest."""
_MAX_HINTED: Final = 40
"""Letters of a name that gets a hint, or is one: comparing two takes up to the square of it."""
_MAX_CANDIDATES: Final = 64
_MAX_COMPARED: Final = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that cannot be used, on which annotation (or variable of a container), and what to do."""

    on: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{self.on}: {self.what}"
        return f"{line}; {self.fix}" if self.fix else line


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Files in the container with which the wrapper shows itself to an Ingress, direct mode only."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class S3Proxy:
    """The sidecar that a pod asks for."""

    transit_key: str
    endpoint: str = ""
    region: str = ""
    bucket: str = ""
    port: int = S3_PORT
    auth: str = "auto"


@dataclass(frozen=True, slots=True)
class Request:
    """What a pod asks for. None or empty: it does not say, and a CloudTaserConfig or the chart does."""

    inject: bool = False
    secret_paths: str = ""
    env_map: str = ""
    templates: tuple[tuple[str, str], ...] = ()
    vault_address: str = ""
    vault_role: str = ""
    vault_auth_method: str = ""
    vault_auth_mount: str = ""
    vault_namespace: str = ""
    vault_skip_verify: bool | None = None
    vault_client_cert: ClientCertificate | None = None
    vault_audience: str = ""
    config: str = ""
    containers: tuple[str, ...] = ()
    skip_containers: tuple[str, ...] = ()
    init_containers: bool = False
    rotation: str = ""
    delivery: str = ""
    ebpf: str = ""
    override: bool | None = None
    wrap_exec: bool = False
    allow_loader_env: bool = False
    s3proxy: S3Proxy | None = None


def is_asked(annotations: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a pod opts in: by the annotation, or by the label where there is no annotation."""
    return annotations.get(INJECT, labels.get(INJECT)) == "true"


def parse(annotations: Mapping[str, str], labels: Mapping[str, str]) -> tuple[Request, tuple[Problem, ...]]:
    """What the annotations ask for, and everything that is wrong with them. What is wrong has no effect."""
    found: dict[str, Any] = {}
    templates: list[tuple[str, str]] = []
    problems: list[Problem] = []
    for name in sorted(annotations):
        if not name.startswith(PREFIX) or name in WRITTEN_BY_US:
            continue
        short, text = name.removeprefix(PREFIX), annotations[name].strip()
        try:
            if short.startswith(TEMPLATE):
                templates.append((_template_name(short.removeprefix(TEMPLATE)), text))
            elif short in GRAMMAR:
                found[short] = GRAMMAR[short](text)
            elif len(problems) < MAX_PROBLEMS:
                problems.append(_unknown(name, hint=len(problems) < MAX_HINTS))
        except ValueError as error:
            if len(problems) < MAX_PROBLEMS:
                problems.append(Problem(name, str(error)))
    problems += _label_problems(annotations, labels) + _together(found)
    s3proxy = _s3proxy(found, problems)
    fields = {
        short.replace("-", "_"): value for short, value in found.items() if not short.startswith("s3proxy")
    }
    fields["inject"] = is_asked(annotations, labels)
    request = Request(**fields, templates=tuple(templates), s3proxy=s3proxy)
    return request, tuple(problems)


def check_secrets(
    secret_paths: str,
    env_map: str,
    templates: Sequence[tuple[str, str]],
    values: Mapping[str, str],
    *,
    override: bool = True,
    allow_loader_env: bool = False,
    on: Mapping[str, str] | None = None,
) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """The paths that would be read for a container, and what the wrapper would refuse to start with.

    `values` are the container's own variables, among them references (`vault:PATH#FIELD`). `on` says what to
    blame for a variable instead of the variable itself. The first of each kind is reported.
    """
    blame = on or {}
    wanted = Selection(override=override, loader_names=allow_loader_env)
    problems: list[Problem] = []

    def attempt(step: Callable[[], None]) -> None:
        try:
            step()
        except WrapperConfigError as error:
            problems.append(Problem(blame.get(error.on, error.on), error.what, error.fix))

    attempt(lambda: wanted.list_paths(secret_paths))
    if not problems:
        attempt(lambda: wanted.map_fields(env_map))
        for name, text in templates:
            attempt(partial(wanted.add_template, name, text.encode(), f"CLOUDTASER_TEMPLATE_{name}"))
        for name, text in values.items():
            attempt(partial(wanted.add_reference, name, text.encode()))
    return tuple(path.path for path in wanted.paths), tuple(problems)


def paths_in(secret_paths: str) -> tuple[str, ...]:
    """The paths of a list, without versions and parameters. Raises ValueError where it is none."""
    return tuple(path.path for path in parse_paths(secret_paths)) if secret_paths else ()


def holds_reference(value: str) -> bool:
    """Whether the wrapper takes the value of a variable for a reference to a secret."""
    return is_reference(value.encode())


# --- the grammar, one function a kind of value; each raises ValueError with a phrase


def _boolean(text: str) -> bool:
    if text in ("true", "false"):
        return text == "true"
    raise ValueError(f"{_shown(text)} is neither true nor false")


def _one_of(choices: tuple[str, ...], **also: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        found = also.get(text.lower(), text.lower())
        if found not in choices:
            raise ValueError(f"{_shown(text)} is not one of {', '.join(choices)}{_meant(text, choices)}")
        return found

    return read


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{_shown(text)} is no {what}")
        return text

    return read


def _paths(text: str) -> str:
    try:
        parse_paths(text)
    except EnvMapError as error:
        raise ValueError(str(error)) from None
    return text


def _text(text: str) -> str:
    if not text:
        raise ValueError("it is empty")
    return text


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",", _MAX_NAMES))
    if len(names) > _MAX_NAMES:
        raise ValueError(f"more than {_MAX_NAMES} containers are named")
    for name in names:
        if not _LABEL.fullmatch(name):
            raise ValueError(f"{_shown(name)} is no container's name")
    if len(set(names)) < len(names):
        raise ValueError("a container is named twice")
    return names


def _mount(text: str) -> str:
    if not _SEGMENTS.fullmatch(text.strip("/")) or text.strip("/") == "auth":
        raise ValueError(f"{_shown(text)} is no mount of a login, such as auth/kubernetes")
    return text.strip("/")


def _client_certificate(text: str) -> ClientCertificate:
    certificate, comma, key = (part.strip() for part in text.partition(","))
    if not comma:
        certificate, key = f"{certificate.rstrip('/')}/tls.crt", f"{certificate.rstrip('/')}/tls.key"
    for path in (certificate, key):
        if not text or not _FILE.fullmatch(path) or "/../" in path:
            raise ValueError(
                f"{_shown(text)} is neither a directory with tls.crt and tls.key nor CERTIFICATE,KEY"
            )
    return ClientCertificate(certificate, key)


def _port(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{3,4}", text, re.ASCII) or not 1024 <= int(text) < 65536:
        raise ValueError(f"{_shown(text)} is no port from 1024 to 65535")
    if int(text) == S3_HEALTH_PORT:
        raise ValueError(f"port {S3_HEALTH_PORT} is the sidecar's own, for its health")
    return int(text)


def _endpoint(text: str) -> str:
    """`http(s)://HOST[:PORT]` of an object store; never a place that hands out the cloud's own
    credentials."""
    match = re.fullmatch(
        r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^\[\]/?#@:\s]+)(:[1-9][0-9]{0,4})?/?", text, re.ASCII
    )
    if match is None:
        raise ValueError(f"{_shown(text)} is no endpoint of the form https://HOST[:PORT]")
    try:
        host = parse_host(match.group(2).strip("[]"))
    except ProtocolError as error:
        raise ValueError(error.what) from None
    where = scope_of_name(host) if isinstance(host, str) else scope(host)
    if where in (Scope.METADATA, Scope.LINK_LOCAL, Scope.OTHER):
        raise ValueError(f"{_shown(text)} is a {where} address, which is no object store")
    return text.rstrip("/")


GRAMMAR: Final[Mapping[str, Callable[[str], object]]] = {
    "inject": _boolean,
    "secret-paths": _paths,
    "env-map": _text,
    "vault-address": _matching(_WORD, "address"),  # which ones are allowed is the operator's: `allow_list`
    "vault-role": _matching(_WORD, "role"),
    "vault-auth-method": _one_of(METHODS),
    "vault-auth-mount": _mount,
    "vault-namespace": _matching(_SEGMENTS, "namespace"),
    "vault-skip-verify": _boolean,
    "vault-client-cert": _client_certificate,
    "vault-audience": _matching(_WORD, "audience"),
    "config": _matching(_OBJECT_NAME, "name of a CloudTaserConfig"),
    "containers": _names,
    "skip-containers": _names,
    "init-containers": _boolean,
    "rotation": _one_of(ROTATIONS),
    "delivery": _one_of(DELIVERIES),
    "ebpf": _one_of(EBPF, false="off"),
    "override": _boolean,
    "wrap-exec": _boolean,
    "allow-loader-env": _boolean,
    "s3proxy": _boolean,
    "s3proxy-endpoint": _endpoint,
    "s3proxy-region": _matching(_REGION, "region"),
    "s3proxy-bucket": _matching(_BUCKET, "bucket"),
    "s3proxy-transit-key": _matching(_TRANSIT_KEY, "name of a Transit key"),
    "s3proxy-port": _port,
    "s3proxy-auth": _one_of(S3_AUTHS),
}
"""Every annotation that a pod may carry, besides `template-<ENV>` and those that we write."""

_KNOWN: Final = (*GRAMMAR, *(name.removeprefix(PREFIX) for name in WRITTEN_BY_US))


def _template_name(name: str) -> str:
    if not is_name(name):
        raise ValueError(f"{_shown(name)} is not a variable name ([A-Za-z_][A-Za-z0-9_]*)")
    return name


# --- what only several of them together can get wrong


def _label_problems(annotations: Mapping[str, str], labels: Mapping[str, str]) -> list[Problem]:
    label = labels.get(INJECT)
    if label is None or label in ("true", "false") or INJECT in annotations:
        return []
    return [Problem(f"label {INJECT}", f"{_shown(label)} is neither true nor false")]


def _together(found: Mapping[str, Any]) -> list[Problem]:
    both = sorted(set(found.get("containers", ())) & set(found.get("skip-containers", ())))
    if not both:
        return []
    return [Problem(PREFIX + "skip-containers", f"container {both[0]} is in {PREFIX}containers too")]


def _s3proxy(found: dict[str, Any], problems: list[Problem]) -> S3Proxy | None:
    details = {
        name.removeprefix("s3proxy-").replace("-", "_"): value
        for name, value in found.items()
        if name.startswith("s3proxy-")
    }
    if not found.get("s3proxy"):
        if details:
            first = min(name for name in found if name.startswith("s3proxy-"))
            problems.append(
                Problem(PREFIX + first, "there is no S3 proxy", f'set {PREFIX}s3proxy: "true" as well')
            )
        return None
    if "transit_key" not in details:
        what = "an S3 proxy needs the Transit key that wraps its keys"
        if not any(problem.on == PREFIX + "s3proxy-transit-key" for problem in problems):
            problems.append(Problem(PREFIX + "s3proxy", what, f"set {PREFIX}s3proxy-transit-key"))
        return None
    return S3Proxy(**details)


def nearest(text: str, known: Iterable[str]) -> str:
    """The known name that was probably meant; empty if none is near. Takes milliseconds at most, whatever
    is given: only the few that have the most letters in common are compared in full."""
    if len(text) > _MAX_HINTED:
        return ""
    matcher = difflib.SequenceMatcher(b=text)

    def overlap(name: str) -> float:
        matcher.set_seq1(name)
        return matcher.quick_ratio()

    candidates = [one for one in islice(known, _MAX_CANDIDATES) if len(one) <= _MAX_HINTED]
    likely = heapq.nlargest(_MAX_COMPARED, candidates, key=overlap)
    close = difflib.get_close_matches(text, likely, n=1, cutoff=0.6)
    return close[0] if close else ""


def _unknown(name: str, *, hint: bool) -> Problem:
    close = nearest(name.removeprefix(PREFIX).lower().replace("_", "-"), _KNOWN) if hint else ""
    fix = f"did you mean {PREFIX}{close}?" if close else "see the list of annotations"
    return Problem(name, "there is no such annotation", fix)


def _meant(text: str, choices: tuple[str, ...]) -> str:
    close = nearest(text.lower(), choices)
    return f" (did you mean {close}?)" if close else ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")
