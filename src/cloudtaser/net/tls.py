"""TLS contexts: one function for each leg of the chain, and what a party's certificate says.

Used by every program that opens or accepts a connection; the bytes are moved by `layers`. Certificates and
keys come as PEM in memory and reach OpenSSL through a memfd, so that no key ever lies in a file of ours. No
leg issues or takes session tickets: a revoked certificate must not live on in one (spec/wire.md).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloudtaser.errors import ConfigError, ProtocolError
from cloudtaser.secret import Secret
from cloudtaser.wire.names import PartyName, PartyRole, parse_uri

if TYPE_CHECKING:  # the beacon uses this module and has no cryptography
    from cryptography import x509


class UntrustedError(ProtocolError):
    """The peer's certificate does not verify: by its CA, its name or its dates."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate, its key and the certificates between it and its CA, all PEM."""

    certificate_pem: bytes
    key: Secret
    chain_pem: bytes = b""


def load_identity(context: ssl.SSLContext, identity: Identity) -> None:
    """Give `context` the certificate and key to present. ConfigError when they do not fit each other."""
    parts = (identity.key.reveal(), identity.certificate_pem, identity.chain_pem)
    descriptor = os.memfd_create("cloudtaser-identity", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb", buffering=0) as file:
            for part in parts:
                file.write(part if part.endswith(b"\n") or not part else part + b"\n")
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"a certificate and its key cannot be used: {reason(error)}") from None
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def beacon_client(ca_file: str | None, insecure: bool) -> ssl.SSLContext:
    """Towards a beacon: the system's CAs, or those in `ca_file`; `insecure` checks nothing (tests, --dev)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"the CA file cannot be used: {reason(error)}", on=ca_file) from None
    return context


def beacon_server(cert_file: str, key_file: str) -> ssl.SSLContext:
    """The beacon's own side: TLS 1.2 or newer, no tickets. Call again to re-read a changed certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _no_tickets(context)
    try:
        context.load_cert_chain(cert_file, key_file, password="")
    except (ssl.SSLError, OSError) as error:
        on = cert_file if cert_file == key_file else f"{cert_file}, {key_file}"
        raise ConfigError(f"the certificate and its key cannot be used: {reason(error)}", on=on) from None
    return context


def tunnel_client(identity: Identity, ca_pems: Sequence[bytes]) -> ssl.SSLContext:
    """The bridge's side of the tunnel: TLS 1.3, exactly the tunnel CA (two during a rotation), no host name.

    TLS 1.3 lets a client finish its handshake before the server has looked at the client's certificate: a
    finished handshake says who the server is, and no more. A refusal ends the connection (`layers`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _tunnel(context, identity, ca_pems)


def tunnel_server(identity: Identity, ca_pems: Sequence[bytes]) -> ssl.SSLContext:
    """The broker's side of the tunnel: TLS 1.3, a client certificate under the tunnel CA is required."""
    return _tunnel(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), identity, ca_pems)


def pod_server(identity: Identity) -> ssl.SSLContext:
    """The bridge's side towards pods: TLS 1.3, no client certificate (a pod shows a token)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _only_tls13(context)
    load_identity(context, identity)
    return context


def pod_client(pod_ca_pem: bytes) -> ssl.SSLContext:
    """A pod's side, as the operator plays it: trusts the pod CA only, checks the server's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _only_tls13(context)
    _trust(context, [pod_ca_pem])
    return context


def peer_certificate(ssl_object: ssl.SSLObject) -> x509.Certificate:
    """The certificate the other side proved to own. ProtocolError when it showed none."""
    from cryptography import x509

    der = ssl_object.getpeercert(binary_form=True)
    if der is None:
        raise ProtocolError("the peer showed no certificate")
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        raise ProtocolError("the peer's certificate cannot be read") from None


def require_party(certificate: x509.Certificate, fingerprint: str, role: PartyRole) -> PartyName:
    """Who the certificate names, if that is a `role` of cluster `fingerprint`; otherwise ProtocolError.

    It must carry exactly one URI SAN (spec/wire.md, "Tunnel"): with two, two checks could disagree.
    """
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise ProtocolError("the peer's certificate names no party") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ProtocolError(f"the peer's certificate names {len(uris)} parties instead of one")
    party = parse_uri(uris[0])
    if party.role != role:
        raise ProtocolError(f"the peer is a {party.role}, expected a {role}")
    if party.fingerprint != fingerprint:
        raise ProtocolError("the peer belongs to another cluster")
    return party


def reason(error: Exception) -> str:
    """An ssl or OS error in a person's words: no file, no line, no module of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        text = error.reason or (error.args[1] if len(error.args) > 1 else str(error))
        return str(text).lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _tunnel(context: ssl.SSLContext, identity: Identity, ca_pems: Sequence[bytes]) -> ssl.SSLContext:
    _only_tls13(context)
    context.verify_mode = ssl.CERT_REQUIRED
    _trust(context, ca_pems)
    load_identity(context, identity)
    return context


def _only_tls13(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _no_tickets(context)


def _no_tickets(context: ssl.SSLContext) -> None:
    context.options |= ssl.OP_NO_TICKET
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0


def _trust(context: ssl.SSLContext, ca_pems: Sequence[bytes]) -> None:
    if not ca_pems:
        raise ConfigError("no CA certificate was given to trust")
    try:
        for pem in ca_pems:
            context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"a CA certificate cannot be used: {reason(error)}") from None
