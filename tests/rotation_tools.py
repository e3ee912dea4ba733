"""A rotation of a cluster's CAs as a bridge sees it: the record of `source rotate --ca`, written by hand."""

from __future__ import annotations

import time
from dataclasses import replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cloudtaser.openbao.client import OpenBao
from cloudtaser.openbao.layout import Layout, Space
from cloudtaser.openbao.pki import LEAF_SECONDS, new_key
from cloudtaser.openbao.records import Former, Records, Registered, instant
from cloudtaser.wire.names import successor_uri


async def begin_rotation(client: OpenBao, fingerprint: str, layout: Layout | None = None) -> Registered:
    """New CAs beside the old ones; the registration that names both."""
    records = Records(client, layout or Layout())
    record, version = await records.registered_version(fingerprint)
    assert record is not None
    space = Space.recorded(record.space, record.namespace)
    tunnel, tunnel_ca = await _another(client, space, space.pki_tunnel, record.tunnel_ca)
    pod, pod_ca = await _another(client, space, space.pki_pod, record.pod_ca)
    rotated = replace(
        record,
        tunnel_ca=tunnel_ca,
        pod_ca=pod_ca,
        info_hash=x509.load_pem_x509_certificate(tunnel_ca.encode()).fingerprint(hashes.SHA256()).hex(),
        former_tunnel_ca=tunnel,
        former_pod_cas=(pod,),
        endorsement=await _endorsement(client, space, fingerprint, tunnel.issuer, tunnel_ca),
    )
    await records.write_registered(rotated, version)
    return rotated


async def finish_rotation(client: OpenBao, fingerprint: str, layout: Layout | None = None) -> Registered:
    """The former CAs are gone, from the registration and from OpenBao."""
    records = Records(client, layout or Layout())
    record, version = await records.registered_version(fingerprint)
    assert record is not None
    assert record.former_tunnel_ca is not None
    space = Space.recorded(record.space, record.namespace)
    finished = replace(record, former_tunnel_ca=None, former_pod_cas=())
    await records.write_registered(finished, version)
    await client.request(
        "DELETE", f"{space.pki_tunnel}/issuer/{record.former_tunnel_ca.issuer}", namespace=space.namespace
    )
    for former in record.former_pod_cas:
        await client.request("DELETE", f"{space.pki_pod}/issuer/{former.issuer}", namespace=space.namespace)
    return finished


async def _another(client: OpenBao, space: Space, mount: str, pem: str) -> tuple[Former, str]:
    known = await client.request("GET", f"{mount}/config/issuers", namespace=space.namespace)
    former = Former(pem, str(known["data"]["default"]), instant(time.time()))
    body = {"common_name": "the next", "key_type": "ec", "key_bits": 256, "ttl": "87600h"}
    made = await client.request("POST", f"{mount}/root/rotate/internal", namespace=space.namespace, body=body)
    await client.request(
        "POST",
        f"{mount}/root/replace",
        namespace=space.namespace,
        body={"default": made["data"]["issuer_id"]},
    )
    return former, str(made["data"]["certificate"]).strip() + "\n"


async def _endorsement(client: OpenBao, space: Space, fingerprint: str, issuer: str, tunnel_ca: str) -> str:
    der = x509.load_pem_x509_certificate(tunnel_ca.encode()).public_bytes(Encoding.DER)
    uri = successor_uri(fingerprint, der)
    role = {
        "allowed_uri_sans": [uri],
        "require_cn": False,
        "key_type": "ec",
        "key_bits": 256,
        "max_ttl": LEAF_SECONDS,
    }
    await client.request("POST", f"{space.pki_tunnel}/roles/successor", namespace=space.namespace, body=role)
    body = {"csr": new_key()[1], "uri_sans": uri, "exclude_cn_from_sans": True}
    path = f"{space.pki_tunnel}/issuer/{issuer}/sign/successor"
    answer = await client.request("POST", path, namespace=space.namespace, body=body)
    return str(answer["data"]["certificate"]).strip() + "\n"
