"""Addresses: where OpenBao, the operator and the wrapper's own listener are, as the settings spell them.

`config` reads them, `connection` and `listener` use them.
"""

from cloudtaser.wrapper.errors import ConfigError


class Endpoint:
    """Where OpenBao is asked for: `tls` or plain, through a broker or not, and the Host header that goes
    with it.
    """

    __slots__ = ("broker", "host", "port", "tls")

    def __init__(self, host: str, port: int, *, tls: bool, broker: bool) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.broker = broker

    def authority(self) -> str:
        """host:port as a URL spells it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, allow_http: bool) -> Endpoint:
    """`VAULT_ADDR`: https://host[:port], http:// on loopback (or allowed), broker://host:port. Raises
    ConfigError.
    """
    if not text:
        raise ConfigError("not set", on="VAULT_ADDR", fix="set https://host:port or broker://host:port")
    scheme, mark, rest = text.partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in ("https", "http", "broker"):
        raise ConfigError(f"{text!r} has no scheme of https, http or broker", on="VAULT_ADDR")
    rest = rest.removesuffix("/")
    if not rest.isascii() or any(letter <= " " or letter in "@/?#\\%\x7f" for letter in rest):
        raise ConfigError(
            "holds user information, a path, a query or a blank",
            on="VAULT_ADDR",
            fix="set scheme://host:port",
        )
    host, port = host_and_port(rest, {"https": 443, "http": 8200, "broker": 0}[scheme], "VAULT_ADDR")
    if scheme == "http" and not allow_http and not is_loopback(host):
        raise ConfigError(
            "http:// beyond loopback would show every secret", on="VAULT_ADDR", fix="use https://"
        )
    return Endpoint(host, port, tls=scheme != "http", broker=scheme == "broker")


def host_and_port(text: str, default: int, variable: str) -> tuple[str, int]:
    """`HOST[:PORT]` or `[ADDRESS][:PORT]`; `default` 0 means that a port is needed. Raises ConfigError, which
    names the variable.
    """
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")) or ":" not in host:
            raise ConfigError(f"{text!r} is no host", on=variable)
        digits = tail[1:]
    else:
        host, _, digits = text.partition(":")
        tail = f":{digits}" if _ else ""
    if (tail and not digits) or (digits and (not digits.isdigit() or not 0 < int(digits[:6]) < 65536)):
        raise ConfigError(f"{digits!r} is no port", on=variable)
    port = int(digits) if digits else default
    if not host or not port:
        fix = "set scheme://host:port" if variable == "VAULT_ADDR" else "set host:port"
        raise ConfigError("names no host, or no port where one is needed", on=variable, fix=fix)
    return host, port


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    parts = host.split(".")
    if len(parts) == 4 and parts[0] == "127" and all(part.isdigit() and int(part) < 256 for part in parts):
        return True
    return host.lower() in ("localhost", "::1")


def listen_address(text: str) -> tuple[str, int]:
    """`CLOUDTASER_LISTEN_ADDR`: `[HOST]:PORT`, without a host every address; port 0 lets the kernel choose.

    Raises ConfigError.
    """
    host, colon, digits = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_address = not host or (":" in bare) == (bare != host)
    if not colon or not is_address or not all(letter in "0123456789abcdefABCDEF.:" for letter in bare):
        raise ConfigError(
            f"{text!r} is no address to listen at", on="CLOUDTASER_LISTEN_ADDR", fix="set :8199"
        )
    if not (digits.isascii() and digits.isdigit()) or int(digits[:6]) > 65535:
        raise ConfigError(f"{digits!r} is no port", on="CLOUDTASER_LISTEN_ADDR")
    return bare, int(digits)
