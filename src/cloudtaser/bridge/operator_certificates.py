"""The operator's two certificates of the pod CA: with which it hears announcements, and with which it seals.

Used by `calls` (what is asked) and `service` (the signing), for requests on a stream of kind `operator` whose
caller has proved to be the cluster's operator. Names come from here; of a request the public key alone is
taken (spec/openbao.md, "PKI roles per space").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cloudtaser.bridge.authorities import Authority, authorities_of
from cloudtaser.bridge.csr import CertificateRequest, read_csr
from cloudtaser.bridge.refusal import RequestRefused
from cloudtaser.errors import ProtocolError, UnavailableError
from cloudtaser.openbao import pki
from cloudtaser.openbao.layout import Space
from cloudtaser.openbao.pki import PkiRole
from cloudtaser.wire.names import OPERATOR_NAME, operator_uri
from cloudtaser.wire.strict_json import dump_object, parse_object

if TYPE_CHECKING:
    from cloudtaser.bridge.cluster import Cluster
    from cloudtaser.openbao.client import OpenBao

_MAX_BODY: Final = 16384


@dataclass(frozen=True, slots=True)
class Requests:
    """What is to be signed: of the server's key, and of the sealing key."""

    server: CertificateRequest
    seal: CertificateRequest


def read(body: bytes) -> Requests:
    """The two requests in a body. RequestRefused when they are none, or for one and the same key."""
    try:
        fields = parse_object(body, what="the body", limit=_MAX_BODY)
        if fields.keys() != {"server", "seal"} or not all(isinstance(one, str) for one in fields.values()):
            raise ProtocolError("the body holds no two certificate requests, server and seal")
        requests = Requests(read_csr(fields["server"]), read_csr(fields["seal"]))
    except ProtocolError as error:
        raise RequestRefused(400, error.what, "body_form") from None
    if requests.server.spki == requests.seal.spki:
        raise RequestRefused(400, "one key for two purposes", "body_form")
    return requests


async def sign(client: OpenBao, cluster: Cluster, requests: Requests, ttl: float) -> bytes:
    """The answer: both certificates, and the pod CA that signed them. `ttl` in seconds. Raises OpenBaoError,
    UnavailableError while a rotation is half done."""
    registered = cluster.registered
    space = Space.recorded(registered.space, registered.namespace)
    life = f"{ttl:.0f}s"
    server = await pki.sign(
        client, space, PkiRole.OPERATOR_POD, requests.server.pem, names=(OPERATOR_NAME,), ttl=life
    )
    uris = (operator_uri(cluster.fingerprint),)
    seal = await pki.sign(client, space, PkiRole.OPERATOR_SEAL, requests.seal.pem, uris=uris, ttl=life)
    current = authorities_of(registered).pod[0]
    if any(Authority.of(one.authority_pem.decode()).der != current.der for one in (server, seal)):
        raise UnavailableError("OpenBao signs with another pod CA than the registration names")
    return dump_object(
        {
            "server": (server.certificate_pem + server.chain_pem).decode(),
            "seal": seal.certificate_pem.decode(),
            "pod_ca": current.pem,
        }
    )
