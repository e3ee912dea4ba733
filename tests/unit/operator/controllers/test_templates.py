"""Templates: which Secrets a workload uses and which paths it asks for, and what follows for its mapping."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cloudtaser.kube.resources import MappedSecret, Metadata, SecretMapping
from cloudtaser.operator.controllers.mapping_controller import judge
from cloudtaser.operator.controllers.templates import Template

MAPPING = SecretMapping(
    Metadata("shop", "web"),
    "shop",
    "Deployment",
    "web",
    (
        MappedSecret("db", "secret/data/db", {"password": "P"}),
        MappedSecret("api", "secret/data/api", {"key": "K"}),
    ),
)
EMPTY = Template(False, "", frozenset(), frozenset())
ALL = frozenset({"secret/data/db", "secret/data/api"})


def workload(pod: dict[str, Any], **annotations: str) -> dict[str, Any]:
    marked = {f"cloudtaser.io/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return {"spec": {"template": {"metadata": {"annotations": marked}, "spec": pod}}}


@pytest.mark.parametrize(
    "pod",
    [
        {"containers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "db"}}}]}]},
        {"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]},
        {"initContainers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]},
        {"volumes": [{"secret": {"secretName": "db"}}]},
        {"volumes": [{"projected": {"sources": [{"configMap": {"name": "x"}}, {"secret": {"name": "db"}}]}}]},
        {"volumes": [{"csi": {"nodePublishSecretRef": {"name": "db"}}}]},
    ],
)
def test_a_secret_is_found_wherever_it_is_used(pod: dict[str, Any]) -> None:
    assert Template.of("Deployment", workload(pod)).secrets == {"db"}


def test_what_is_no_use_of_a_secret_is_none() -> None:
    pod = {
        "imagePullSecrets": [{"name": "pull"}],
        "containers": [
            {
                "env": [
                    {"name": "A", "value": "x"},
                    {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "a"}}},
                ],
                "envFrom": [{"configMapRef": {"name": "map"}}],
            }
        ],
        "volumes": [{"emptyDir": {}}, {"configMap": {"name": "map"}}],
    }
    assert Template.of("Deployment", workload(pod)).secrets == frozenset()


def test_paths_come_from_annotations_and_references() -> None:
    references = [
        {"name": "A", "value": "vault:secret/data/a#field"},
        {"name": "B", "value": "x://${vault:/v1/secret/data/b#user#2}:${vault:secret/data/c#pass}@h"},
        {"name": "C", "value": "vault:without a field"},
    ]
    found = Template.of(
        "StatefulSet",
        workload(
            {"containers": [{"env": references}]}, inject="true", secret_paths="secret/data/d#3,pki/x?a=b"
        ),
    )
    assert found.injected
    assert found.paths == {"secret/data/a", "secret/data/b", "secret/data/c", "secret/data/d", "pki/x"}


def test_a_cron_jobs_template_lies_deeper() -> None:
    job = workload({"volumes": [{"secret": {"secretName": "db"}}]}, inject="true", config="shop")
    found = Template.of("CronJob", {"spec": {"jobTemplate": job}})
    assert (found.injected, found.config, set(found.secrets)) == (True, "shop", {"db"})


def test_what_is_not_there_is_nothing() -> None:
    assert Template.of("Job", {}) == EMPTY


@pytest.mark.parametrize(
    ("template", "config_paths", "phase", "words"),
    [
        (None, frozenset(), "Missing", "there is no Deployment web"),
        (EMPTY, frozenset(), "Pending", "target protect"),
        (Template(True, "", ALL, frozenset()), frozenset(), "Migrated", "uses none"),
        (Template(True, "c", frozenset({"secret/data/db"}), frozenset()), ALL, "Migrated", "uses none"),
        (
            Template(True, "", frozenset({"secret/data/db"}), frozenset()),
            frozenset(),
            "Incomplete",
            "does not ask for secret/data/api",
        ),
        (
            Template(True, "", ALL, frozenset({"db", "unmapped"})),
            frozenset(),
            "Incomplete",
            "still uses the Kubernetes Secret db",
        ),
    ],
)
def test_how_far_a_workload_is(
    template: Template | None, config_paths: frozenset[str], phase: str, words: str
) -> None:
    verdict = judge(MAPPING, template, config_paths)
    assert verdict.phase == phase
    assert words in verdict.message


def test_a_skipped_workload_is_skipped_whatever_it_does() -> None:
    skipped = dataclasses.replace(MAPPING, plan_status="skipped", reason="next year")
    assert judge(skipped, EMPTY, frozenset()).message == "next year"
