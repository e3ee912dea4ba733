"""Records the AdmissionReviews that a real API server sends: `python bench/webhook/recording.py` writes
reviews.json anew.

Pods as people make them (by hand, by Deployment, Job, StatefulSet and DaemonSet), small and large. Run
again when the tests' Kubernetes is another; the image that names no command is `IMAGE`, which the bench
replaces.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from aiohttp import web

from cloudtaser.operator.webhook import configuration
from cloudtaser.operator.webhook.configuration import Registration
from tests.cluster.admission import Served, kubectl
from tests.cluster.control_plane import ControlPlane
from tests.cluster.identities import Identities
from tests.unit.operator.webhook.pods_rig import Json, container, pod

REVIEWS = Path(__file__).parent / "reviews.json"
IMAGE = "registry.invalid/known:1"
LABEL = {"webhook-bench": "yes"}
ASKED: dict[str, str] = pod()["metadata"]["annotations"]
TOKEN = {"cloudtaser.io/vault-auth-method": "token"}


def probe(port: int) -> Json:
    return {"httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 10}


def large() -> Json:
    """A pod with what large charts put into one."""
    env: list[Json] = [{"name": f"SETTING_{number}", "value": "value " * 5} for number in range(60)]
    env.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    mounts = [{"name": f"config-{number}", "mountPath": f"/etc/app/{number}"} for number in range(8)]
    app = container(
        "known",
        None,
        env=env,
        volumeMounts=mounts,
        livenessProbe=probe(8080),
        readinessProbe=probe(8080),
        ports=[{"containerPort": 8080}],
        resources={"requests": {"cpu": "100m"}, "limits": {"memory": "512Mi"}},
    )
    volumes = [{"name": f"config-{number}", "configMap": {"name": f"app-{number}"}} for number in range(8)]
    return pod(
        app | {"image": IMAGE},
        container("log", ["log", "-f"]),
        inits=[container("migrate")],
        volumes=volumes,
        tolerations=[{"key": "dedicated", "operator": "Exists"}],
        nodeSelector={"kubernetes.io/arch": "amd64"},
        annotations={
            "cloudtaser.io/init-containers": "true",
            "cloudtaser.io/template-URL": "x://{{user}}@db",
        },
    )


def template(subject: Json) -> Json:
    annotations = subject["metadata"]["annotations"]
    return {"metadata": {"labels": {"app": "x"}, "annotations": annotations}, "spec": subject["spec"]}


def workload(kind: str, subject: Json) -> Json:
    spec: Json = {"template": template(subject)}
    if kind == "Job":
        spec["template"]["spec"] = subject["spec"] | {"restartPolicy": "Never"}
    else:
        spec["selector"] = {"matchLabels": {"app": "x"}}
    group = "batch/v1" if kind == "Job" else "apps/v1"
    return {"apiVersion": group, "kind": kind, "metadata": {"name": f"a-{kind.lower()}"}, "spec": spec}


def subjects() -> list[Json]:
    bare = pod(container("known", None) | {"image": IMAGE})
    return [
        bare,
        pod(container(livenessProbe={"exec": {"command": ["x"]}}))
        | {"metadata": {"name": "sealed", "annotations": ASKED | TOKEN}},
        workload("Deployment", bare),
        workload("Deployment", large()) | {"metadata": {"name": "large"}},
        workload("StatefulSet", pod(container())),
        workload("Job", bare),
    ]


async def record(directory: Path) -> list[Any]:
    """The bodies of all reviews of one pod each, by the path that they came to."""
    found: list[Any] = []
    enough = asyncio.Event()

    async def keep(request: web.Request) -> web.Response:
        review = await request.json()
        if request.path == configuration.MUTATE and not any(_same(one, review) for one in found):
            found.append(review)
        if len(found) == len(subjects()):
            enough.set()
        response = {"uid": review["request"]["uid"], "allowed": True}
        return web.json_response(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        )

    application = web.Application()
    application.router.add_post("/{path:.*}", keep)
    served = Served(application, Identities(directory / "pki"), "recorder")
    await served.start()
    async with ControlPlane(directory / "plane") as plane:
        registration = Registration(
            url=served.url, ca_bundle=served.ca_bundle, namespace_selector={"matchLabels": LABEL}
        )
        await plane.apply(configuration.mutating(registration))
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": LABEL}}
        await plane.apply(namespace)
        await plane.kubectl("wait", "--for=create", "serviceaccount/default", "-n", "shop", "--timeout=60s")
        for subject in subjects():
            said = await kubectl(plane, "create", "-n", "shop", "-f", "-", given=subject)
            assert said.code == 0, said.err
        await asyncio.wait_for(enough.wait(), 60)
    await served.stop()
    return found


def _same(one: Any, other: Any) -> bool:
    """Of the same workload, or of the same pod asked about again."""

    def name(review: Any) -> str:
        metadata = review["request"]["object"]["metadata"]
        return str(metadata.get("generateName") or metadata.get("name"))

    return name(one) == name(other)


def main() -> int:
    """Entry point."""
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(record(Path(directory)))
    found.sort(key=lambda review: len(json.dumps(review)))
    REVIEWS.write_text("[\n" + ",\n".join(json.dumps(review, sort_keys=True) for review in found) + "\n]\n")
    print(f"{len(found)} reviews, {[len(json.dumps(review)) for review in found]} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
