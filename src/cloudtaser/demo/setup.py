"""What the demo puts into OpenBao as its administrator: a KV secret and a database engine with a role.

Used by `app` and by tests of dynamic credentials. A company does the same with `bao` or Terraform.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloudtaser.demo.chain import Chain
from cloudtaser.demo.postgres import PostgresServer
from cloudtaser.openbao.client import OpenBao

DATABASE_MOUNT = "database"
DATABASE_ROLE = "shop"
LEASE_SECONDS = 300


def administrator(chain: Chain) -> OpenBao:
    """A client that acts as OpenBao's administrator in the space of the chain's cluster, or without
    namespaces in the root."""
    return OpenBao(
        chain.openbao.address,
        ca_file=chain.openbao.ca_file,
        token=chain.openbao.root_token,
        namespace=chain.space.namespace,
    )


async def write_secret(
    client: OpenBao, path: str, fields: Mapping[str, str], *, mount: str = "secret"
) -> None:
    """Write a new version of `<mount>/data/<path>`."""
    await client.request("POST", f"{mount}/data/{path}", body={"data": dict(fields)})


async def offer_database(
    client: OpenBao,
    postgres: PostgresServer,
    *,
    mount: str = DATABASE_MOUNT,
    lease_seconds: int = LEASE_SECONDS,
) -> None:
    """A database engine whose role makes PostgreSQL accounts, five minutes each unless told otherwise."""
    await client.request("POST", f"sys/mounts/{mount}", body={"type": "database"})
    connection = f"postgresql://{{{{username}}}}:{{{{password}}}}@{postgres.address}:{postgres.port}/app?sslmode=disable"
    await client.request(
        "POST",
        f"{mount}/config/app",
        body={
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": [DATABASE_ROLE],
            "connection_url": connection,
            "username": postgres.user,
            "password": postgres.password.reveal_text(),
        },
    )
    create = (
        "create role \"{{name}}\" with login password '{{password}}' valid until '{{expiration}}'; "
        'grant connect on database app to "{{name}}";'
    )
    await client.request(
        "POST",
        f"{mount}/roles/{DATABASE_ROLE}",
        body={
            "db_name": "app",
            "creation_statements": [create],
            "default_ttl": lease_seconds,
            "max_ttl": 12 * lease_seconds,
        },
    )
