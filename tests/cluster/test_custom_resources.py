"""The custom resources in a real API server: what is taken, what is refused in which words, who owns what."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from cloudtaser.errors import UnavailableError
from cloudtaser.kube.errors import ConflictError
from cloudtaser.kube.kinds import Kind
from cloudtaser.kube.resources import (
    CLOUDTASER_CONFIGS,
    DEBUG_REPORTS,
    SECRET_MAPPINGS,
    CloudTaserConfig,
    DebugReport,
    SecretMapping,
)
from tests.cluster.accounts import EVERYTHING, account, client, namespace
from tests.cluster.control_plane import ControlPlane
from tests.cluster.custom_resources import DEFINITIONS

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.anywhere,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(600),
]

WHERE: Final = "custom-resources"
DOCUMENT: Final = Path(__file__).parents[2] / "docs/custom-resources.md"
KINDS: Final = (CLOUDTASER_CONFIGS, SECRET_MAPPINGS, DEBUG_REPORTS)
CONFIG: Final[dict[str, Any]] = {
    "vaultAddress": "https://vault.example.com:8200",
    "vaultAuthPath": "auth/kubernetes",
    "vaultRole": "shop",
    "secretPaths": ["secret/data/shop/db", "pki/issue/web?common_name=shop.example"],
    "envMap": "password=PGPASSWORD,user?=PGUSER;certificate=@TLS_CERT;",
    "wrapperImage": "registry.example.com/wrapper@sha256:" + "0" * 64,
    "wrapperResources": {"limits": {"memory": "64Mi", "cpu": 1}, "requests": {"cpu": "10m"}},
    "namespaceSelector": {
        "matchLabels": {"team": "shop"},
        "matchExpressions": [{"key": "stage", "operator": "In", "values": ["prod"]}],
    },
}
MAPPING: Final[dict[str, Any]] = {
    "tenant": "shop",
    "workload": {"kind": "Deployment", "name": "web", "replicas": 3},
    "secrets": [
        {"source": "db", "vaultPath": "secret/data/shop/db", "fields": {"password": "PGPASSWORD"}},
        {"source": "api", "vaultPath": "secret/data/shop/api", "fields": {"key": "API_KEY"}},
    ],
}
REPORT: Final[dict[str, Any]] = {
    "checks": ["hops", "errors"],
    "target": {"namespace": WHERE, "kind": "Deployment", "name": "web"},
    "ttl": "2h30m",
}
SPECS: Final = {CLOUDTASER_CONFIGS: CONFIG, SECRET_MAPPINGS: MAPPING, DEBUG_REPORTS: REPORT}


def made(kind: Kind, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"namespace": WHERE, "name": name}
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": spec}


def changed(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of `spec` with one value replaced; dots part the steps, numbers are places in lists."""
    spec = copy.deepcopy(spec)
    *way, last = path.split(".")
    holder: Any = spec
    for step in way:
        holder = holder[int(step)] if isinstance(holder, list) else holder[step]
    holder[int(last) if isinstance(holder, list) else last] = value
    return spec


@pytest.fixture(autouse=True)
async def place(resources: ControlPlane) -> None:
    await namespace(resources, WHERE)


async def test_what_is_written_is_what_is_read(resources: ControlPlane) -> None:
    await resources.apply(*(made(kind, "whole", spec) for kind, spec in SPECS.items()))
    config = CloudTaserConfig.parse(await resources.get("ctc", "whole", "-n", WHERE))
    assert (config.metadata.key, config.vault_role) == ((WHERE, "whole"), "shop")
    assert config.secret_paths == tuple(CONFIG["secretPaths"])
    assert config.env_map == CONFIG["envMap"]
    assert config.vault_auth_path == "auth/kubernetes"
    assert config.wrapper_image == CONFIG["wrapperImage"]
    assert config.wrapper_resources == CONFIG["wrapperResources"]
    assert config.namespace_selector == CONFIG["namespaceSelector"]
    mapping = SecretMapping.parse(await resources.get("ctm", "whole", "-n", WHERE))
    assert (mapping.tenant, mapping.kind, mapping.name, mapping.replicas) == ("shop", "Deployment", "web", 3)
    assert mapping.plan_status == "pending"
    assert [(one.source, one.vault_path, one.fields) for one in mapping.secrets] == [
        ("db", "secret/data/shop/db", {"password": "PGPASSWORD"}),
        ("api", "secret/data/shop/api", {"key": "API_KEY"}),
    ]
    report = DebugReport.parse(await resources.get("ctd", "whole", "-n", WHERE))
    assert (report.checks, report.ttl) == (("hops", "errors"), 9000.0)
    assert (report.target.kind, report.target.name) == ("Deployment", "web")


async def test_the_least_that_can_be_said_is_enough(resources: ControlPlane) -> None:
    least = made(CLOUDTASER_CONFIGS, "least", {"secretPaths": ["secret/data/a"]})
    await resources.apply(least, made(DEBUG_REPORTS, "least", {}))
    config = CloudTaserConfig.parse(await resources.get("ctc", "least", "-n", WHERE))
    assert (config.vault_address, config.wrapper_resources, config.namespace_selector) == ("", None, None)
    report = DebugReport.parse(await resources.get("ctd", "least", "-n", WHERE))
    assert len(report.checks) == 7
    assert report.ttl == 86400.0


@pytest.mark.parametrize(
    ("kind", "path", "value", "words"),
    [
        (CLOUDTASER_CONFIGS, "secretPaths", [], "should have at least 1 items"),
        (CLOUDTASER_CONFIGS, "secretPaths.0", "a b", "a path holds no blank"),
        (CLOUDTASER_CONFIGS, "secretPaths.0", "a,b", "give each path an entry of its own"),
        (CLOUDTASER_CONFIGS, "secretPaths.0", "secret/../b", "no segment '.' or '..'"),
        (CLOUDTASER_CONFIGS, "envMap", "a=A;b=B;c=C", "more groups (parted by ';') than secretPaths"),
        (CLOUDTASER_CONFIGS, "vaultAddress", "vault.example.com", "write it as https://HOST[:PORT]"),
        (CLOUDTASER_CONFIGS, "vaultAddress", "https://u@vault.example.com", "without a user"),
        (CLOUDTASER_CONFIGS, "vaultAddress", "https://vault.example.com/?a=b", "without a user, a path"),
        (CLOUDTASER_CONFIGS, "vaultAuthPath", "auth/../x y", "write it like auth/kubernetes"),
        (CLOUDTASER_CONFIGS, "wrapperResources.limits", {"memory": "much"}, "memory"),
        (
            CLOUDTASER_CONFIGS,
            "namespaceSelector.matchExpressions.0",
            {"key": "a", "operator": "In"},
            "In and NotIn need values",
        ),
        (SECRET_MAPPINGS, "workload.kind", "Pod", 'supported values: "Deployment"'),
        (SECRET_MAPPINGS, "status", "skipped", "a skipped workload needs a reason"),
        (SECRET_MAPPINGS, "secrets.0.vaultPath", "secret/data/*", "write it like secret/data/shop/db"),
        (SECRET_MAPPINGS, "secrets.0.vaultPath", "secret/data/../x", "no segment '.' or '..'"),
        (SECRET_MAPPINGS, "secrets.0.fields", {"password": "PG-PASSWORD"}, "secrets[0].fields.password"),
        (DEBUG_REPORTS, "checks", ["hops", "hopes"], 'supported values: "hops"'),
        (DEBUG_REPORTS, "ttl", "soon", "write it like 30m, 12h or 7d"),
        (DEBUG_REPORTS, "target", {"kind": "Pod"}, "kind and name go together"),
    ],
)
async def test_what_cannot_work_is_refused_with_what_to_do(
    resources: ControlPlane, kind: Kind, path: str, value: Any, words: str
) -> None:
    with pytest.raises(UnavailableError, match=re.escape(words)):
        await resources.kubectl(
            "apply", "-f", "-", given=json.dumps(made(kind, "bad", changed(SPECS[kind], path, value)))
        )


async def test_a_misspelt_field_is_said(resources: ControlPlane) -> None:
    bad = made(CLOUDTASER_CONFIGS, "misspelt", CONFIG | {"secretPath": ["a"]})
    with pytest.raises(UnavailableError, match=r'unknown field "spec\.secretPath"'):
        await resources.kubectl("create", "--validate=strict", "-f", "-", given=json.dumps(bad))


async def test_a_report_and_a_mappings_workload_stay_what_they_are(resources: ControlPlane) -> None:
    await resources.apply(made(DEBUG_REPORTS, "fixed", REPORT), made(SECRET_MAPPINGS, "fixed", MAPPING))
    with pytest.raises(UnavailableError, match="a report is made once"):
        await resources.apply(made(DEBUG_REPORTS, "fixed", REPORT | {"ttl": "1h"}))
    with pytest.raises(UnavailableError, match="a mapping stays with its workload"):
        await resources.apply(made(SECRET_MAPPINGS, "fixed", changed(MAPPING, "workload.name", "other")))
    await resources.apply(made(SECRET_MAPPINGS, "fixed", changed(MAPPING, "workload.replicas", 5)))


async def test_two_managers_apply_each_its_own_fields(resources: ControlPlane) -> None:
    async with client(resources, await account(resources, WHERE, "appliers", EVERYTHING)) as kube:
        git, person = "argocd", "someone"
        config = made(CLOUDTASER_CONFIGS, "shared", {"secretPaths": ["secret/data/a"], "vaultRole": "shop"})
        for _ in range(2):
            first = await kube.apply_object(CLOUDTASER_CONFIGS, config, field_manager=git)
        assert first["metadata"]["generation"] == 1
        addition = made(CLOUDTASER_CONFIGS, "shared", {"envMap": "a=A"})
        for _ in range(2):
            second = await kube.apply_object(CLOUDTASER_CONFIGS, addition, field_manager=person)
        assert second["metadata"]["generation"] == 2
        again = await kube.apply_object(CLOUDTASER_CONFIGS, config, field_manager=git)
        assert (again["spec"]["envMap"], again["metadata"]["generation"]) == ("a=A", 2)
        with pytest.raises(ConflictError, match=r'conflict with "argocd".*\.spec\.secretPaths'):
            await kube.apply_object(
                CLOUDTASER_CONFIGS,
                made(CLOUDTASER_CONFIGS, "shared", {"secretPaths": ["secret/data/b"]}),
                field_manager=person,
            )
        # entries of a mapping are each their owner's
        one, two = MAPPING["secrets"]
        workload = {"workload": MAPPING["workload"]}
        await kube.apply_object(
            SECRET_MAPPINGS,
            made(SECRET_MAPPINGS, "shared", workload | {"secrets": [one]}),
            field_manager=git,
        )
        both = await kube.apply_object(
            SECRET_MAPPINGS,
            made(SECRET_MAPPINGS, "shared", workload | {"secrets": [two]}),
            field_manager=person,
        )
        assert {entry["source"] for entry in both["spec"]["secrets"]} == {"db", "api"}


async def test_the_status_is_not_written_with_the_spec_nor_the_spec_with_the_status(
    resources: ControlPlane,
) -> None:
    async with client(resources, await account(resources, WHERE, "writers", EVERYTHING)) as kube:
        body = made(CLOUDTASER_CONFIGS, "apart", {"secretPaths": ["secret/data/a"]})
        await kube.create_object(CLOUDTASER_CONFIGS, body | {"status": {"ready": True}})
        found = await kube.get_object(CLOUDTASER_CONFIGS, WHERE, "apart")
        assert "status" not in found
        after = await kube.patch_object(
            CLOUDTASER_CONFIGS,
            WHERE,
            "apart",
            {"spec": {"vaultRole": "taken"}, "status": {"ready": True, "injectedPods": 4}},
            subresource="status",
        )
        assert "vaultRole" not in after["spec"]
        assert after["metadata"]["generation"] == 1
    table = await resources.kubectl("get", "ctc", "apart", "-n", WHERE)
    head, row = table.splitlines()
    assert head.split() == ["NAME", "VAULT", "READY", "INJECTED", "AGE"]
    assert row.split()[:3] == ["apart", "true", "4"]


async def test_every_field_is_explained(resources: ControlPlane) -> None:
    for kind in KINDS:
        text = await resources.kubectl("explain", kind.plural, "--recursive")
        assert "<no description>" not in text.partition("FIELDS:")[0], kind
        file = DEFINITIONS / f"{kind.plural}.yaml"
        schema = YAML(typ="safe").load(file)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        assert list(unexplained(schema, kind.name)) == []
    assert "first" in await resources.kubectl("explain", "ctc")
    assert "KV version 2" in await resources.kubectl("explain", "ctc.spec.secretPaths")


def unexplained(schema: dict[str, Any], where: str) -> Any:
    """The fields below `schema` that have no description."""
    for name, field in (schema.get("properties") or {}).items():
        if name == "metadata":
            continue
        if not field.get("description"):
            yield f"{where}.{name}"
        yield from unexplained(field, f"{where}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from unexplained(schema["items"], f"{where}[]")


async def test_the_documents_examples_are_taken(resources: ControlPlane) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(examples) >= len(KINDS)
    for example in examples:
        await resources.kubectl("apply", "--validate=strict", "-n", WHERE, "-f", "-", given=example)
