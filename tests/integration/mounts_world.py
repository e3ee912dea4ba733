"""The world of `bridge_world` on a server without namespaces: both clusters' spaces are mounts in the root.

Each cluster was registered as a person would, and has a role under which a token may do anything on the whole
server, so that whatever keeps one out of the other's space is the bridge and no policy.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudtaser.bridge.cluster import Cluster
from cloudtaser.bridge.tokens import KeySet
from cloudtaser.demo.openbao import LocalServer, start_dev
from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.form import Form
from cloudtaser.openbao.grants import allow
from cloudtaser.openbao.layout import Layout
from cloudtaser.openbao.layout import Space as Corner
from cloudtaser.openbao.records import Initialized, Records, Registered
from cloudtaser.openbao.registration import register
from cloudtaser.secret import Secret
from cloudtaser.wire.names import OPERATOR_SUBJECT, pod_audience
from tests.integration.bridge_world import EVERYTHING, ISSUER, Space, _pem

MOUNTS = Layout(form=Form.MOUNTS)


@dataclass(eq=False)
class RootSpace(Space):
    """One cluster's space in the root."""

    registered: Registered | None = None
    lease: str = ""
    minted: str = ""
    """A token that an administrator made for this space."""
    grants: Any = field(default=None)

    @property
    def namespace(self) -> str:
        return ""

    @property
    def corner(self) -> Corner:
        return MOUNTS.space(self.fingerprint)

    def cluster(self) -> Cluster:
        assert self.registered is not None
        initialized = Initialized("2026-01-01T00:00:00Z", "b", {}, ISSUER, "", OPERATOR_SUBJECT, "")
        keys = KeySet.from_jwks({"keys": [self.key.public_jwk()]})
        return Cluster(self.fingerprint, self.registered, self.grants, keys, initialized)


@dataclass
class MountsWorld:
    """OpenBao and the two spaces."""

    server: LocalServer
    a: RootSpace
    b: RootSpace
    stranger: str
    """A token of the root that belongs to no space."""

    def admin(self) -> OpenBao:
        return OpenBao(self.server.address, token=self.server.root_token)

    def holder(self, token: str) -> OpenBao:
        return OpenBao(self.server.address, token=Secret(token))


def build_mounts_world(directory: Path) -> MountsWorld:
    """Start OpenBao and fill it."""
    server = start_dev(directory)
    try:
        a = RootSpace("aaaaaaaa-0000-4000-8000-00000000000a")
        b = RootSpace("bbbbbbbb-0000-4000-8000-00000000000b")
        stranger = asyncio.run(_fill(server, a, b))
    except BaseException:
        server.kill()
        raise
    return MountsWorld(server, a, b, stranger)


async def _fill(server: LocalServer, *spaces: RootSpace) -> str:
    async with OpenBao(server.address, token=server.root_token) as admin:
        await admin.request("POST", "sys/policies/acl/all", body={"policy": json.dumps(EVERYTHING)})
        for space in spaces:
            await _fill_space(admin, space)
        body = {"policies": ["all"], "no_parent": True}
        return str((await admin.request("POST", "auth/token/create", body=body))["auth"]["client_token"])


async def _fill_space(admin: OpenBao, space: RootSpace) -> None:
    await register(admin, space.fingerprint, form=Form.MOUNTS)
    corner, records = space.corner, Records(admin, MOUNTS)
    await allow(admin, space.fingerprint, "shop", "web", ["secret/data/common/db"])
    space.registered, space.grants = (
        await records.registered(space.fingerprint),
        await records.grants(space.fingerprint),
    )
    keys = {"jwt_validation_pubkeys": [_pem(space.key)], "bound_issuer": ISSUER}
    await admin.request("POST", corner.login_config, body=keys)
    role = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": [pod_audience(space.fp8)]}
    await admin.request("POST", corner.role_path("all"), body=role | {"token_policies": ["all"]})
    certificates = corner.path("certificates")
    await admin.request("POST", f"sys/mounts/{certificates}", body={"type": "pki"})
    root = {"common_name": "x", "key_type": "ec", "key_bits": 256}
    await admin.request("POST", f"{certificates}/root/generate/internal", body=root)
    leased = {"allow_any_name": True, "generate_lease": True, "ttl": "1h", "key_type": "ec", "key_bits": 256}
    await admin.request("POST", f"{certificates}/roles/leased", body=leased)
    issued = await admin.request("POST", f"{certificates}/issue/leased", body={"common_name": "canary"})
    space.lease = issued["lease_id"]
    space.canary = f"CANARY-{space.fp8}"
    for path in ("shop/db", "common/db", "x"):
        await admin.kv_write(corner.secret, path, {"v": space.canary})
    body = {"policies": ["all"], "no_parent": True, "meta": {"cloudtaser-space": space.fp8}}
    space.minted = (await admin.request("POST", "auth/token/create", body=body))["auth"]["client_token"]
