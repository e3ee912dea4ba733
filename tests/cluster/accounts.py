"""ServiceAccounts of the tests' cluster, each with the rights that a test gives it, and clients of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloudtaser.kube.client import KubeApi
from tests.cluster.control_plane import ControlPlane

EVERYTHING: list[dict[str, Any]] = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]


async def namespace(plane: ControlPlane, name: str, labels: dict[str, str] | None = None) -> str:
    """Make a namespace, ready for pods; its name."""
    metadata = {"name": name, "labels": labels or {}}
    await plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    return name


async def account(
    plane: ControlPlane, namespace: str, name: str, rules: list[dict[str, Any]] | None = None
) -> Path:
    """Make a ServiceAccount, with a ClusterRole of `rules` where given; the file with a token of it."""
    made: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}}
    ]
    if rules is not None:
        group = "rbac.authorization.k8s.io"
        role = f"{namespace}-{name}"
        subject = {"kind": "ServiceAccount", "namespace": namespace, "name": name}
        made.append(
            {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": role}, "rules": rules}
        )
        made.append(
            {
                "apiVersion": f"{group}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": role},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
                "subjects": [subject],
            }
        )
    await plane.apply(*made)
    token = await plane.kubectl("create", "token", name, "--namespace", namespace, "--duration", "4h")
    file = plane.directory / f"{namespace}-{name}.token"
    file.touch(mode=0o600)
    file.write_text(token)
    return file


def client(plane: ControlPlane, token_file: Path, *, timeout: float = 30.0) -> KubeApi:
    """A client of the API server under the token in `token_file`."""
    return KubeApi(
        plane.server, ca_file=str(plane.identities.ca), token_file=str(token_file), timeout=timeout
    )
