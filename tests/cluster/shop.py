"""The tests' company: a shop whose pods need secrets, each pod of another kind.

`test_pods` and its neighbours take it from the fixture `shop`, which puts the secrets into OpenBao and all
pods into the cluster at once, so that a slow machine starts them side by side.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from tests.cluster.applications import SHELL
from tests.cluster.control_plane import ControlPlane
from tests.cluster.europe import DATABASE, Europe
from tests.cluster.pods import container, pod

SHOP: Final = "shop"
CLOSED: Final = "closed"
"""A namespace under the Pod Security level `restricted`."""
GUARDED: Final = "guarded"
"""A namespace that fails closed."""
FINANCE: Final = "secret/data/finance/ledger"
"""What one ServiceAccount of the shop's may read, and no other."""
AUDITOR: Final = "auditor"
SEALED: Final = "sealed"
PATIENT: Final = "patient"
"""ServiceAccounts whose pods get tokens made for them; nothing is granted to the second one yet."""
PREFIX: Final = "cloudtaser.io/"
LABEL: Final = {f"{PREFIX}inject": "true"}
ORDERS: Final = 3
JOB_EXIT: Final = 7
MAP: Final = "password=DB_PASSWORD"
SHOW: Final = ("show", "DB_PASSWORD", ",", "wait")


def canary(name: str) -> str:
    """A value that is nowhere by chance."""
    return f"canary-{name}-{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class Images:
    """References by which pods name what was pushed."""

    static: str
    speaking: str
    """Static, with `SHOW` as the image's own command."""
    client: str


@dataclass(slots=True)
class Shop:
    """Its secrets, and where its pods are."""

    images: Images
    database_port: int
    password: str = field(default_factory=lambda: canary("db"))
    closed_password: str = field(default_factory=lambda: canary("closed"))
    finance: str = field(default_factory=lambda: canary("finance"))
    rotating: list[str] = field(default_factory=lambda: [canary("first"), canary("second"), canary("third")])

    @property
    def canaries(self) -> dict[str, bytes]:
        """Every value that OpenBao keeps for it."""
        named = {"db": self.password, "closed": self.closed_password, "finance": self.finance}
        named |= {f"rotating {number}": value for number, value in enumerate(self.rotating)}
        return {name: value.encode() for name, value in named.items()}

    async def open(self, plane: ControlPlane, europe: Europe) -> None:
        """Fill OpenBao and PostgreSQL, and apply every pod."""
        await europe.sql(
            f"create role shop login password '{self.password}'; create table orders (id int);"
            f"insert into orders select generate_series(1, {ORDERS}); grant all on orders to shop"
        )
        await europe.write(f"{SHOP}/db", {"password": self.password})
        await europe.write(f"{SHOP}/pg", {"pguser": "shop", "pgpassword": self.password})
        await europe.write(f"{SHOP}/rotating", {"password": self.rotating[0]})
        for namespace in (CLOSED, GUARDED):
            await europe.write(f"{namespace}/db", {"password": self.closed_password})
        await europe.write("finance/ledger", {"password": self.finance})
        await europe.allow(SHOP, AUDITOR, FINANCE)
        await europe.allow(SHOP, SEALED, f"secret/data/{SHOP}/db")
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        required = {f"{PREFIX}enforce": "required"}
        for name, labels in ((SHOP, {}), (CLOSED, restricted), (GUARDED, required)):
            await plane.apply(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
            )
        await plane.apply(*self.objects())

    def objects(self) -> list[dict[str, Any]]:
        """All that runs."""
        return [
            self.client("client", "psql -XAtc 'select current_user, count(*) from orders'"),
            self.static("static"),
            pod(
                "speaking",
                container(self.images.speaking),
                namespace=SHOP,
                annotations=asks("db", env_map=MAP),
                labels=LABEL,
            ),
            *self._stateful_set(),
            self._job("failing", "show", "DB_PASSWORD", ",", "exit", str(JOB_EXIT)),
            self._job("succeeding", "show", "DB_PASSWORD"),
            self._probed("probed", f"exec {SHELL} -c true"),
            self._probed("asking", "psql -XAtc 'select 1'", **{f"{PREFIX}wrap-exec": "true"}),
            self._with_init_container(),
            pod(
                "two",
                container(self.images.static, *SHOW, name="first"),
                container(self.images.static, *SHOW, name="second"),
                namespace=SHOP,
                annotations=asks("db", env_map=MAP),
                labels=LABEL,
            ),
            self.static("quiet", namespace=CLOSED),
            self.static("rotating", path="rotating"),
            *(
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": SHOP}}
                for name in (AUDITOR, SEALED, PATIENT)
            ),
            *map(self._sealed, (SEALED, PATIENT)),
            self._of_finance("auditing", serviceAccountName=AUDITOR),
            self._of_finance("curious"),
        ]

    def static(self, name: str, *, namespace: str = SHOP, path: str = "db", **more: str) -> dict[str, Any]:
        """A pod of one static program, without a shell, that shows its password and stays."""
        return pod(
            name,
            container(self.images.static, *SHOW),
            namespace=namespace,
            annotations=asks(path, namespace=namespace, env_map=MAP, **more),
            labels=LABEL,
        )

    def _of_finance(self, name: str, **spec: Any) -> dict[str, Any]:
        return pod(
            name,
            container(self.images.static, "show", "PASSWORD"),
            namespace=SHOP,
            annotations={f"{PREFIX}inject": "true", f"{PREFIX}secret-paths": FINANCE},
            **spec,
        )

    def _sealed(self, account: str) -> dict[str, Any]:
        return pod(
            account,
            container(self.images.static, "show", "PASSWORD", ",", "wait"),
            namespace=SHOP,
            annotations={
                f"{PREFIX}secret-paths": f"secret/data/{SHOP}/db",
                f"{PREFIX}vault-auth-method": "token",
            },
            labels=LABEL,
            serviceAccountName=account,
        )

    def client(self, name: str, script: str, **more: str) -> dict[str, Any]:
        """A pod of the unmodified PostgreSQL client that runs a shell script; it is told where the database
        is but not the password."""
        return pod(name, self._client(script), namespace=SHOP, annotations=asks("pg", **more))

    def _client(self, script: str, **more: Any) -> dict[str, Any]:
        where = {"PGHOST": DATABASE, "PGPORT": str(self.database_port), "PGDATABASE": "app"}
        return container(
            self.images.client,
            command=[SHELL, "-c", script],
            env=[{"name": name, "value": value} for name, value in where.items()],
            **more,
        )

    def _probed(self, name: str, probe: str, **more: str) -> dict[str, Any]:
        command = {"exec": {"command": [SHELL, "-c", probe]}}
        patient = {"periodSeconds": 5, "timeoutSeconds": 20, "failureThreshold": 30}
        return pod(
            name,
            self._client(
                "sleep 3600 & wait",
                startupProbe=command | patient,
                readinessProbe=command | patient,
                lifecycle={"preStop": command},
            ),
            namespace=SHOP,
            annotations=asks("pg", **more),
        )

    def _with_init_container(self) -> dict[str, Any]:
        migration = self._client("psql -XAtc \"select 'migrated by ' || current_user\"") | {"name": "migrate"}
        return pod(
            "migrated",
            container(self.images.static, "show", "PGPASSWORD", ",", "wait"),
            namespace=SHOP,
            annotations={
                f"{PREFIX}secret-paths": f"secret/data/{SHOP}/pg",
                f"{PREFIX}init-containers": "true",
            },
            labels=LABEL,
            initContainers=[migration],
        )

    def _stateful_set(self) -> list[dict[str, Any]]:
        labels = {"app": "ledger"} | LABEL
        template = self.static("ledger")
        template["metadata"] = {"annotations": template["metadata"]["annotations"], "labels": labels}
        template["spec"]["restartPolicy"] = "Always"
        template["spec"]["containers"] = [
            container(self.images.static, "show", "DB_PASSWORD", "HOSTNAME", ",", "wait")
        ]
        metadata = {"name": "ledger", "namespace": SHOP}
        selector = {"app": "ledger"}
        return [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": {"clusterIP": "None", "selector": selector, "ports": [{"port": 80}]},
            },
            {
                "apiVersion": "apps/v1",
                "kind": "StatefulSet",
                "metadata": metadata,
                "spec": {
                    "replicas": 2,
                    "serviceName": "ledger",
                    "podManagementPolicy": "Parallel",
                    "selector": {"matchLabels": selector},
                    "template": {"metadata": template["metadata"], "spec": template["spec"]},
                },
            },
        ]

    def _job(self, name: str, *steps: str) -> dict[str, Any]:
        template = self.static(name)
        template["spec"]["containers"] = [container(self.images.static, *steps)]
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": SHOP},
            "spec": {
                "backoffLimit": 0,
                "template": {
                    "metadata": {key: template["metadata"][key] for key in ("annotations", "labels")},
                    "spec": template["spec"],
                },
            },
        }


def asks(path: str, namespace: str = SHOP, env_map: str = "", **more: str) -> dict[str, str]:
    """The two annotations of a pod: which secret, and either the wish itself or, beside the label, the
    variables' names."""
    paths = {f"{PREFIX}secret-paths": f"secret/data/{namespace}/{path}"}
    if env_map:
        return paths | {f"{PREFIX}env-map": env_map} | more
    return paths | {f"{PREFIX}inject": "true"} | more
