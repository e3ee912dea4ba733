"""The settings: every variable the wrapper reads, checked once at start (spec/wrapper.md "Configuration").

`app` calls `load` with the environment it was started with. A bad value raises ConfigError, which names the
variable and the fix.
"""

import binascii

from cloudtaser.wrapper import memory
from cloudtaser.wrapper.addresses import Endpoint, host_and_port, listen_address, parse_address
from cloudtaser.wrapper.buffers import Span
from cloudtaser.wrapper.envmap import Groups, SecretPath
from cloudtaser.wrapper.errors import ConfigError
from cloudtaser.wrapper.log import LEVELS
from cloudtaser.wrapper.selection import Selection
from cloudtaser.wrapper.signals import number_of
from cloudtaser.wrapper.templates import Template

DEFAULT_JWT_FILE = "/var/run/secrets/cloudtaser.io/token"
DEFAULT_UNSEAL_JWT_FILE = "/var/run/secrets/cloudtaser.io/unseal-token"
DEFAULT_LISTEN_PORT = 8199
AGENT_PLACES = ("@cloudtaser-agent", "/run/cloudtaser/agent.sock")
"""Where the node agent may listen: in the pod's network namespace, and outside Kubernetes."""
BRIDGE_NAME = "bridge.cloudtaser.internal"

# What a webhook or a person sets for the wrapper, and the application must not see.
OURS = frozenset(
    (
        "VAULT_ADDR", "VAULT_NAMESPACE", "VAULT_TOKEN", "VAULT_AUTH_METHOD", "VAULT_AUTH_ROLE",
        "VAULT_AUTH_MOUNT_PATH",
        "VAULT_SKIP_VERIFY", "VAULT_CACERT", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY", "VAULT_JWT_FILE",
    )
)  # fmt: skip
OUR_PREFIX = "CLOUDTASER_"
TEMPLATE_PREFIX = "CLOUDTASER_TEMPLATE_"
DELIVERIES = ("env", "memory", "auto", "file")

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off", "")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_ROLE = 256
_MAX_NAME = 253
_MAX_SOCKET_PATH = 107


class Config:
    """The settings of one run. `endpoint` is None for a plain init."""

    __slots__ = (
        "agent",
        "agent_places",
        "allow_loader_env",
        "allow_plain_unseal",
        "ca_file",
        "ca_pem",
        "client_cert",
        "client_key",
        "container",
        "death_signal",
        "delivery",
        "endpoint",
        "fingerprint",
        "groups",
        "jwt_file",
        "listen",
        "log_level",
        "method",
        "mount",
        "namespace",
        "operator",
        "override",
        "paths",
        "pod_uid",
        "references",
        "request_timeout",
        "require_memfd_secret",
        "revoke_on_exit",
        "role",
        "rotation",
        "rotation_debounce",
        "rotation_grace",
        "rotation_interval",
        "rotation_probation",
        "skip_verify",
        "startup_timeout",
        "templates",
        "token",
        "unseal_jwt_file",
    )  # fmt: skip

    def __init__(self) -> None:
        self.endpoint: Endpoint | None = None
        self.log_level = "info"
        self.method = "kubernetes"
        self.mount = ""
        self.role = ""
        self.namespace = ""
        self.jwt_file = DEFAULT_JWT_FILE
        self.token: Span | None = None
        self.agent = "off"
        self.agent_places: tuple[str, ...] = AGENT_PLACES
        self.pod_uid = ""
        self.container = ""
        self.fingerprint = ""
        self.listen = ("", DEFAULT_LISTEN_PORT)
        self.operator: Endpoint | None = None
        self.unseal_jwt_file = DEFAULT_UNSEAL_JWT_FILE
        self.allow_plain_unseal = False
        self.ca_pem = ""
        self.ca_file = ""
        self.client_cert = ""
        self.client_key = ""
        self.skip_verify = False
        self.paths: tuple[SecretPath, ...] = ()
        self.groups: Groups = ()
        self.delivery = "env"
        self.templates: tuple[Template, ...] = ()
        self.references: tuple[Template, ...] = ()
        self.allow_loader_env = False
        self.override = True
        self.startup_timeout = 0.0
        self.request_timeout = 10.0
        self.require_memfd_secret = False
        self.death_signal = 0
        self.rotation = "restart"
        self.rotation_interval = 30.0
        self.rotation_debounce = 2.0
        self.rotation_grace = 25.0
        self.rotation_probation = 10.0
        self.revoke_on_exit = True

    @property
    def is_sealed(self) -> bool:
        """Whether the token is to come from outside, while the wrapper waits."""
        return self.method == "token" and not self.token


class _Settings:
    """Typed access to the environment; every complaint names the variable."""

    __slots__ = ("environ",)

    def __init__(self, environ: dict[bytes, bytes]) -> None:
        self.environ = environ

    def raw(self, name: str) -> bytes:
        return self.environ.get(name.encode(), b"").strip()

    def text(self, name: str, default: str = "") -> str:
        try:
            value = self.raw(name).decode()
        except UnicodeDecodeError:
            raise ConfigError("the value is not UTF-8 text", on=name) from None
        return value or default

    def word(self, name: str, default: str) -> str:
        value = self.text(name, default)
        if any(letter <= " " or letter == "\x7f" for letter in value):
            raise ConfigError("the value holds a blank or a control character", on=name)
        return value

    def boolean(self, name: str, default: bool) -> bool:
        value = self.text(name, str(default)).lower()
        if value not in _TRUE and value not in _FALSE:
            raise ConfigError(f"{value!r} is neither true nor false", on=name, fix="set true or false")
        return value in _TRUE

    def choice(self, name: str, default: str, here: tuple[str, ...]) -> str:
        value = self.text(name, default).lower()
        if value not in here:
            raise ConfigError(f"{value!r} is not one of {', '.join(here)}", on=name)
        return value

    def seconds(self, name: str, default: float, low: float, high: float) -> float:
        value = self.text(name)
        if not value:
            return default
        unit = _UNITS.get(value[-1])
        number = value[:-1] if unit else value
        whole, point, fraction = number.partition(".")
        if not (whole.isascii() and whole.isdigit()) or (
            point and not (fraction.isascii() and fraction.isdigit())
        ):
            raise ConfigError(
                f"{value!r} is no duration", on=name, fix="write seconds, or a number with s, m or h"
            )
        seconds = float(number) * (unit or 1.0)
        if (seconds and not low <= seconds <= high) or (not seconds and low > 0):
            raise ConfigError(f"{value!r} is not between {low:g} and {high:g} seconds", on=name)
        return seconds

    def signal(self, name: str) -> int:
        value = self.text(name)
        number = number_of(value)
        if number is None:
            raise ConfigError(f"{value!r} is no signal", on=name, fix="set TERM, KILL or another one")
        return number

    def names(self) -> list[str]:
        return [name.decode("ascii", "replace") for name in self.environ]

    def passed_on(self) -> list[tuple[str, bytes]]:
        """The variables that the application gets; a name that is no text is passed on as it is."""
        return [(name.decode(), value) for name, value in strip(self.environ).items() if name.isascii()]


def load(environ: dict[bytes, bytes]) -> Config:
    """Read and check the settings. Raises ConfigError at the first that cannot be used.

    A token among them is taken out of `environ` where it is the process's own (`memory.taken`).
    """
    settings = _Settings(environ)
    config = Config()
    config.log_level = settings.choice("CLOUDTASER_LOG_LEVEL", "info", tuple(LEVELS))
    config.delivery = settings.choice("CLOUDTASER_DELIVERY", "env", DELIVERIES)
    _rotation(config, settings)
    _secrets(config, settings)
    if not config.paths:
        return config
    config.endpoint = parse_address(
        settings.text("VAULT_ADDR"), settings.boolean("CLOUDTASER_ALLOW_HTTP", False)
    )
    _trust(config, settings, config.endpoint)
    _authentication(config, settings, config.endpoint)
    config.startup_timeout = settings.seconds("CLOUDTASER_STARTUP_TIMEOUT", 0.0, 0.0, 86400.0)
    config.require_memfd_secret = settings.boolean("CLOUDTASER_REQUIRE_MEMFD_SECRET", False)
    config.request_timeout = settings.seconds("CLOUDTASER_REQUEST_TIMEOUT", 10.0, 0.1, 300.0)
    config.revoke_on_exit = settings.boolean("CLOUDTASER_REVOKE_ON_EXIT", True)
    _agent(config, settings)
    if config.is_sealed:
        _sealed(config, settings)
    return config


def _rotation(config: Config, settings: _Settings) -> None:
    config.rotation = settings.choice("CLOUDTASER_ROTATION", "restart", ("restart", "sighup", "none"))
    if config.rotation == "sighup" and config.delivery == "env":
        raise ConfigError(
            "'sighup' cannot bring new values: the environment of a running program does not change",
            on="CLOUDTASER_ROTATION",
            fix="set restart or none, or CLOUDTASER_DELIVERY to memory or file",
        )
    config.death_signal = settings.signal("CLOUDTASER_PARENT_DEATH_SIGNAL")
    config.rotation_interval = settings.seconds("CLOUDTASER_ROTATION_INTERVAL", 30.0, 0.1, 86400.0)
    config.rotation_debounce = settings.seconds("CLOUDTASER_ROTATION_DEBOUNCE", 2.0, 0.0, 600.0)
    config.rotation_grace = settings.seconds("CLOUDTASER_ROTATION_GRACE", 25.0, 0.0, 3600.0)
    config.rotation_probation = settings.seconds("CLOUDTASER_ROTATION_PROBATION", 10.0, 0.0, 3600.0)


def _secrets(config: Config, settings: _Settings) -> None:
    """What is wanted of OpenBao; no paths where nothing is."""
    config.allow_loader_env = settings.boolean("CLOUDTASER_ALLOW_LOADER_ENV", False)
    config.override = settings.boolean("CLOUDTASER_OVERRIDE", True)
    wanted = Selection(override=config.override, loader_names=config.allow_loader_env)
    wanted.list_paths(settings.text("CLOUDTASER_SECRET_PATHS"))
    wanted.map_fields(settings.text("CLOUDTASER_ENV_MAP"))
    for origin in settings.names():
        if origin.startswith(TEMPLATE_PREFIX):
            wanted.add_template(origin.removeprefix(TEMPLATE_PREFIX), settings.raw(origin), origin)
    if settings.raw("VAULT_ADDR"):  # without it nobody is asked, and the values are the application's own
        for name, value in settings.passed_on():
            wanted.add_reference(name, value)
    config.paths, config.groups = wanted.paths, wanted.groups
    config.templates, config.references = tuple(wanted.templates), tuple(wanted.references)


def _trust(config: Config, settings: _Settings, endpoint: Endpoint) -> None:
    config.ca_pem = settings.text("CLOUDTASER_CA")
    config.ca_file = settings.text("VAULT_CACERT")
    config.client_cert = settings.text("VAULT_CLIENT_CERT")
    config.client_key = settings.text("VAULT_CLIENT_KEY")
    config.skip_verify = settings.boolean("VAULT_SKIP_VERIFY", False)
    if config.ca_pem:
        try:
            first_certificate(config.ca_pem)
        except ValueError as error:
            raise ConfigError(str(error), on="CLOUDTASER_CA", fix="set the pod CA, PEM") from None
    if endpoint.broker:
        if not config.ca_pem:
            raise ConfigError("not set", on="CLOUDTASER_CA", fix="a broker:// address needs the pod CA, PEM")
        if config.skip_verify:
            raise ConfigError(
                "behind a broker the pinned CA is all there is", on="VAULT_SKIP_VERIFY", fix="unset it"
            )
    if bool(config.client_cert) != bool(config.client_key):
        missing = "VAULT_CLIENT_KEY" if config.client_cert else "VAULT_CLIENT_CERT"
        raise ConfigError("not set", on=missing, fix="certificate and key go together")


def _authentication(config: Config, settings: _Settings, endpoint: Endpoint) -> None:
    config.method = settings.choice("VAULT_AUTH_METHOD", "kubernetes", ("kubernetes", "token"))
    config.namespace = settings.word("VAULT_NAMESPACE", "").strip("/")
    config.role = settings.text("VAULT_AUTH_ROLE", "default")
    if len(config.role) > _MAX_ROLE:
        raise ConfigError(f"longer than {_MAX_ROLE} letters", on="VAULT_AUTH_ROLE")
    config.jwt_file = settings.text("VAULT_JWT_FILE", DEFAULT_JWT_FILE)
    mount = settings.word(
        "VAULT_AUTH_MOUNT_PATH", "auth/jwt" if endpoint.broker else "auth/kubernetes"
    ).strip("/")
    config.mount = mount if mount.startswith("auth/") else f"auth/{mount}"
    segments = mount.removeprefix("auth/").split("/")
    if mount == "auth" or not all(map(_is_segment, segments)):
        raise ConfigError(f"{mount!r} is no mount path", on="VAULT_AUTH_MOUNT_PATH")
    token = memory.taken(settings.environ, b"VAULT_TOKEN")
    if config.method == "token":
        config.token = token
        if token is not None and not all(33 <= byte <= 126 for byte in token.view()):
            raise ConfigError("the value holds a blank or a control character", on="VAULT_TOKEN")


def _agent(config: Config, settings: _Settings) -> None:
    choice = settings.choice("CLOUDTASER_EBPF", "auto", ("auto", "true", "required", "off", "false"))
    config.agent = "off" if choice == "false" else choice
    config.container = settings.word("CLOUDTASER_CONTAINER", "")
    if config.container and not _is_name(config.container):
        raise ConfigError(f"{config.container!r} is no container name", on="CLOUDTASER_CONTAINER")
    place = settings.text("CLOUDTASER_AGENT_SOCKET")
    if place:
        if place[:1] not in ("/", "@") or "\0" in place or len(place.encode()) > _MAX_SOCKET_PATH:
            raise ConfigError(
                f"{place!r} is no Unix socket", on="CLOUDTASER_AGENT_SOCKET", fix="set /a/path or @name"
            )
        config.agent_places = (place,)


def _sealed(config: Config, settings: _Settings) -> None:
    """What a wrapper needs that waits for its token: who it is, whom to believe, where to listen."""
    config.allow_plain_unseal = settings.boolean("CLOUDTASER_ALLOW_PLAIN_UNSEAL", False)
    config.listen = listen_address(settings.text("CLOUDTASER_LISTEN_ADDR", f":{DEFAULT_LISTEN_PORT}"))
    config.pod_uid = settings.word("CLOUDTASER_POD_UID", "")
    config.fingerprint = settings.word("CLOUDTASER_FINGERPRINT", "")
    config.unseal_jwt_file = settings.text("CLOUDTASER_UNSEAL_JWT_FILE", DEFAULT_UNSEAL_JWT_FILE)
    operator = settings.text("CLOUDTASER_OPERATOR_ADDR")
    for name, value, is_good in (
        ("CLOUDTASER_POD_UID", config.pod_uid, _is_name(config.pod_uid)),
        ("CLOUDTASER_CONTAINER", config.container, _is_name(config.container)),
        ("CLOUDTASER_FINGERPRINT", config.fingerprint, _is_fingerprint(config.fingerprint)),
        ("CLOUDTASER_CA", config.ca_pem, True),
    ):
        if value and not is_good:
            raise ConfigError(f"{value[:80]!r} cannot be used", on=name)
        if not value and (operator or not config.allow_plain_unseal):
            fix = "the webhook sets it; or set VAULT_TOKEN"
            raise ConfigError("not set, and a token that comes sealed needs it", on=name, fix=fix)
    if operator:
        host, port = host_and_port(operator, 0, "CLOUDTASER_OPERATOR_ADDR")
        config.operator = Endpoint(host, port, tls=True, broker=True)


def _is_name(text: str) -> bool:
    """A pod's UID or a container's name, as Kubernetes makes them."""
    return (
        0 < len(text) <= _MAX_NAME
        and text.isascii()
        and text[0].isalnum()
        and all(letter.isalnum() or letter in "-_." for letter in text)
    )


def _is_fingerprint(text: str) -> bool:
    """A UUID in lower case: the UID of the cluster's kube-system namespace."""
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(
        letter in "0123456789abcdef" for letter in "".join(parts)
    )


def _is_segment(text: str) -> bool:
    return text not in ("", ".", "..") and all(letter.isalnum() or letter in "-_." for letter in text)


def first_certificate(pem: str) -> bytes:
    """The DER of the first certificate in `pem`. Raises ValueError where there is none."""
    _, begin, rest = pem.partition("-----BEGIN CERTIFICATE-----")
    body, end, _ = rest.partition("-----END CERTIFICATE-----")
    if not begin or not end:
        raise ValueError("holds no PEM certificate")
    try:
        der = binascii.a2b_base64("".join(body.split()), strict_mode=True)
    except binascii.Error:
        raise ValueError("holds a certificate that is not base64") from None
    if der[:1] != b"\x30":
        raise ValueError("holds a certificate that is not DER")
    return der


def bridge_server_name(pem: str) -> str:
    """The SNI that names the pinned CA: 8 hex digits of its SHA-256 before the bridge's name
    (spec/wire.md).
    """
    return f"{sha256(first_certificate(pem))[:4].hex()}.{BRIDGE_NAME}"


def sha256(data: bytes) -> bytes:
    """SHA-256 from the interpreter's own C module, whose name changed with Python 3.12."""
    try:
        from _sha256 import sha256 as digest  # type: ignore[import-not-found]  # no stub: private to CPython
    except ImportError:
        from _sha2 import sha256 as digest  # type: ignore[import-not-found]  # no stub: private to CPython
    result: bytes = digest(data).digest()
    return result


def strip(environ: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The environment without what was meant for the wrapper."""
    ours = frozenset(name.encode() for name in OURS)
    prefix = OUR_PREFIX.encode()
    return {
        name: value for name, value in environ.items() if name not in ours and not name.startswith(prefix)
    }
