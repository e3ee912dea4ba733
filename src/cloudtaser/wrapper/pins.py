"""The pinned pod CA, and how the next one takes its place while the application runs (spec/wire.md, "CA
rotation and running pods").

`connection` asks which CA to trust, `client` offers what the bridge handed over inside the pinned session and
reports how connections went. In memory only: a process that is started anew begins with `CLOUDTASER_CA`.
"""

import _ssl

from cloudtaser.wrapper.config import bridge_server_name, first_certificate
from cloudtaser.wrapper.errors import ProtocolError

_MAX_PEM = 16_384
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class Pins:
    """`pem` is what the next connection trusts. Until one came about under it, the pin before it is kept."""

    __slots__ = ("_before", "_named", "pem")

    def __init__(self, pem: str) -> None:
        self.pem = pem
        self._before = ""
        self._named = ("", "")  # a pin and its name, which every request asks for

    @property
    def server_name(self) -> str:
        """The SNI that names the pin."""
        if self._named[0] != self.pem:
            self._named = (self.pem, bridge_server_name(self.pem))
        return self._named[1]

    def adopt(self, pem: str) -> bool:
        """Pin the CA that the bridge handed over, from the next connection on; whether it is another one.

        Raises ProtocolError for what is not one CA certificate.
        """
        certificate = _one_authority(pem)
        if certificate == self.pem.strip():
            return False
        self._before, self.pem = self.pem, certificate
        return True

    def fall_back(self) -> bool:
        """A handshake failed: try the other pin, if there still are two."""
        if not self._before:
            return False
        self._before, self.pem = self.pem, self._before
        return True

    def confirm(self) -> None:
        """A connection came about: the pin holds, the other one is forgotten."""
        self._before = ""


def _one_authority(text: str) -> str:
    """The one certificate in `text`, a CA that signed itself as far as OpenSSL tells. Raises
    ProtocolError."""
    pem = text.strip()
    if (
        not pem.isascii()
        or len(pem) > _MAX_PEM
        or not (pem.startswith(_BEGIN) and pem.endswith(_END))
        or pem.count("-----") != 4
    ):
        raise ProtocolError("the next pod CA is not one PEM certificate")
    try:
        der = first_certificate(pem)
        context = _ssl._SSLContext(_ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(None, None, pem)
        held, shown = context.get_ca_certs(True), context.get_ca_certs(False)
    except (OSError, ValueError):  # SSLError is an OSError
        raise ProtocolError("the next pod CA cannot be read") from None
    if held != [der] or shown[0].get("subject") != shown[0].get("issuer") or not shown[0].get("subject"):
        raise ProtocolError("the next pod CA is not a CA that signed itself")
    return pem
