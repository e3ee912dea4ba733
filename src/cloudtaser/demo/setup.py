"""What the demo puts into OpenBao as its administrator: a KV secret and a database engine with a role.

Used by `app` and by tests of dynamic credentials. A company does the same with `bao` or Terraform.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloudtaser.demo.chain import Chain
from cloudtaser.demo.postgres import PostgresServer
from cloudtaser.openbao.client import OpenBao
from cloudtaser.wire.hashes import short_fingerprint

DATABASE_MOUNT = "database"
DATABASE_ROLE = "shop"
LEASE_SECONDS = 300


def administrator(chain: Chain) -> OpenBao:
    """A client that acts as OpenBao's administrator in the space of the chain's cluster."""
    space = f"cloudtaser/{short_fingerprint(chain.fingerprint)}"
    return OpenBao(
        chain.openbao.address,
        ca_file=chain.openbao.ca_file,
        token=chain.openbao.root_token,
        namespace=space,
    )


async def write_secret(client: OpenBao, path: str, fields: Mapping[str, str]) -> None:
    """Write a new version of `secret/data/<path>`."""
    await client.request("POST", f"secret/data/{path}", body={"data": dict(fields)})


async def offer_database(client: OpenBao, postgres: PostgresServer) -> None:
    """A database engine whose role makes PostgreSQL accounts that live for five minutes."""
    await client.request("POST", f"sys/mounts/{DATABASE_MOUNT}", body={"type": "database"})
    connection = (
        f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/app?sslmode=disable"
    )
    await client.request(
        "POST",
        f"{DATABASE_MOUNT}/config/app",
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
        f"{DATABASE_MOUNT}/roles/{DATABASE_ROLE}",
        body={
            "db_name": "app",
            "creation_statements": [create],
            "default_ttl": LEASE_SECONDS,
            "max_ttl": 12 * LEASE_SECONDS,
        },
    )
