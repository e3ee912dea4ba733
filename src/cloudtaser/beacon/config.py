"""The beacon's settings: each has a flag, an environment variable and a default; all are checked once at
start.

Used by `app` (`parse`) and by whoever runs a `Beacon` inside a test or the demo (`BeaconConfig(...)`). A flag
wins over its variable, a variable over the default. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, NoReturn, cast

from cloudtaser.beacon.log import LEVELS
from cloudtaser.beacon.values import (
    Endpoint,
    Network,
    between,
    duration,
    endpoint_or_off,
    endpoints,
    networks,
    one_of,
    rate,
    size,
    yes,
)
from cloudtaser.errors import ConfigError, UsageError
from cloudtaser.version import VERSION

PROGRAM: Final = "cloudtaser-beacon"
ENVIRONMENT: Final = "CLOUDTASER_BEACON_"

_DESCRIPTION: Final = """\
Pairs two outbound TLS connections that name the same room, and relays their
bytes, which it cannot read. It keeps no state: start it again at any time.
"""
_EPILOG: Final = f"""\
example:
  cloudtaser-beacon --addr :443 --tls-cert /etc/cloudtaser/beacon/cert.pem \\
    --tls-key /etc/cloudtaser/beacon/key.pem

values:
  Times: 250ms, 5s, 10m, 24h. Sizes: 65536, 256KiB.

environment:
  Each setting has a twin, --max-pairs 5000 is {ENVIRONMENT}MAX_PAIRS=5000,
  several addresses are {ENVIRONMENT}ADDR=a:443,b:443; a flag wins.

signals:
  SIGTERM and SIGINT drain and end with 0, a second one does not wait; SIGHUP
  reads the certificate again.

exit codes:
  0  drained
  1  failed: the line says what, on what, and what to do
  2  a setting is missing or cannot be used
"""


@dataclass(frozen=True, slots=True)
class BeaconConfig:
    """Everything a beacon is told."""

    addr: tuple[Endpoint, ...] = (("", 443),)
    tls_cert: str = ""
    tls_key: str = ""
    dev: bool = False
    dev_cert_out: str = ""
    metrics_addr: Endpoint | None = ("127.0.0.1", 9090)
    proxy_protocol_from: tuple[Network, ...] = ()
    pairing: str = "longest"
    log_level: str = "info"
    handshake_timeout: float = 5.0
    hello_timeout: float = 5.0
    max_parked_per_room: int = 64
    max_parked: int = 20_000
    max_parked_age: float = 24 * 3600.0
    max_pairs: int = 0  # 0: half the descriptor limit less 100
    source_rate: float = 50.0
    source_burst: int = 2_000
    max_per_source: int = 5_000
    early_bytes: int = 4_096
    buffer: int = 262_144
    pair_idle: float = 3600.0
    half_closed_idle: float = 300.0
    remind_every: float = 20.0
    parked_dead_after: float = 30.0
    pair_dead_after: float = 120.0
    linger: float = 2.0
    drain_grace: float = 30.0
    drain_spread: float = 5.0
    cert_poll: float = 10.0

    @property
    def sweep_interval(self) -> float:
        """Seconds between two looks at what is overdue: well below the shortest time that is kept."""
        shortest = min(
            self.handshake_timeout,
            self.hello_timeout,
            self.linger,
            self.remind_every,
            self.max_parked_age,
            self.pair_idle,
            self.half_closed_idle,
            self.cert_poll,
        )
        return min(max(shortest / 4, 0.02), 1.0)


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str
    placeholder: str
    parse: Callable[[str], object]
    default: str
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT + self.name.upper()


_COUNT: Final = between(1, 10_000_000)
_COUNT_0: Final = between(0, 10_000_000)
_EARLY: Final = between(0, 65_536, size)
_BUFFER: Final = between(16_384, 16 * 1024**2, size)
_PAIRINGS: Final = one_of("longest", "random")
_GROUPS: Final[tuple[tuple[str, tuple[_Setting, ...]], ...]] = (
    (
        "where and as whom",
        (
            _Setting(
                "addr",
                "HOST:PORT",
                endpoints,
                ":443",
                "listen here; may repeat; without a host on every address",
            ),
            _Setting(
                "tls_cert", "FILE", str, "", "certificate and its chain, PEM; read again when it changes"
            ),
            _Setting("tls_key", "FILE", str, "", "its key, PEM; P-256 is the fastest"),
            _Setting(
                "dev", "", yes, "", "make a self-signed certificate instead (needs the package cryptography)"
            ),
            _Setting(
                "dev_cert_out",
                "FILE",
                str,
                "",
                "where --dev writes its certificate, for the clients' --beacon-ca",
            ),
            _Setting(
                "metrics_addr",
                "HOST:PORT",
                endpoint_or_off,
                "127.0.0.1:9090",
                "/metrics, /healthz and /readyz; or off",
            ),
            _Setting(
                "proxy_protocol_from",
                "NETWORKS",
                networks,
                "",
                "balancers that begin every connection with a PROXY header, version 2: 10.0.0.7,10.1.0.0/24",
            ),
            _Setting(
                "pairing",
                "HOW",
                _PAIRINGS,
                "longest",
                "whom a newcomer meets: longest (who waits longest) or random",
            ),
            _Setting("log_level", "LEVEL", one_of(*LEVELS), "info", "debug, info, warning or error"),
        ),
    ),
    (
        "limits",
        (
            _Setting("handshake_timeout", "TIME", duration, "5s", "for the TLS handshake"),
            _Setting("hello_timeout", "TIME", duration, "5s", "from the handshake to the whole hello"),
            _Setting("max_parked_per_room", "N", _COUNT, "64", "parked in one room under one role"),
            _Setting("max_parked", "N", _COUNT, "20000", "parked in all"),
            _Setting(
                "max_parked_age", "TIME", duration, "24h", "parked that long, a party is told to come again"
            ),
            _Setting(
                "max_pairs", "N", _COUNT_0, "0", "pairs in all; 0 is half the descriptor limit less 100"
            ),
            _Setting(
                "source_rate", "N", rate, "50", "new connections a second from one source; an IPv6 /64 is one"
            ),
            _Setting("source_burst", "N", _COUNT, "2000", "new connections from one source at once"),
            _Setting("max_per_source", "N", _COUNT, "5000", "connections of one source at a time"),
            _Setting("early_bytes", "SIZE", _EARLY, "4KiB", "said behind the hello before the match"),
            _Setting("buffer", "SIZE", _BUFFER, "256KiB", "held for a direction, then it waits"),
            _Setting("pair_idle", "TIME", duration, "1h", "a pair without a byte is ended"),
            _Setting("half_closed_idle", "TIME", duration, "5m", "the same when one side has finished"),
        ),
    ),
    (
        "timing",
        (
            _Setting("remind_every", "TIME", duration, "20s", "tell the parked that they are still parked"),
            _Setting(
                "parked_dead_after",
                "TIME",
                duration,
                "30s",
                "a parked party that acknowledges nothing that long is gone",
            ),
            _Setting(
                "pair_dead_after",
                "TIME",
                duration,
                "2m",
                "the same for a matched party, also when it stops reading",
            ),
            _Setting("linger", "TIME", duration, "2s", "for a party that was turned away to close"),
            _Setting("drain_grace", "TIME", duration, "30s", "for pairs to finish after SIGTERM"),
            _Setting("drain_spread", "TIME", duration, "5s", "over which the parked are told to come back"),
            _Setting("cert_poll", "TIME", duration, "10s", "how often to look for a new certificate"),
        ),
    ),
)
_SETTINGS: Final = {setting.name: setting for _, group in _GROUPS for setting in group}
assert set(_SETTINGS) == {field.name for field in fields(BeaconConfig)}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, fix=f"see {PROGRAM} --help")


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> BeaconConfig:
    """The settings from a command line and an environment. UsageError or ConfigError names the bad one."""
    given = vars(_parser().parse_args(arguments))
    values: dict[str, object] = {}
    for name, setting in _SETTINGS.items():
        raw: object = given[name]
        source = setting.flag
        if raw is None and environment.get(setting.variable):
            raw, source = environment[setting.variable], setting.variable
        if raw is None:
            raw = setting.default
        values[name] = _value(setting, raw, source)
    return _checked(BeaconConfig(**cast("Any", values)))


def _value(setting: _Setting, raw: object, source: str) -> object:
    try:
        if isinstance(raw, list):
            return tuple(each for text in raw for each in endpoints(text))
        return setting.parse(str(raw))
    except ValueError as error:
        raise ConfigError(str(error), on=source) from None


def _checked(config: BeaconConfig) -> BeaconConfig:
    if not config.addr:
        raise ConfigError("no address to listen on", on="--addr")
    if config.dev and (config.tls_cert or config.tls_key):
        raise ConfigError(
            "--dev makes its own certificate", on="--dev", fix="leave out --tls-cert and --tls-key"
        )
    if not config.dev and not (config.tls_cert and config.tls_key):
        missing = "--tls-key" if config.tls_cert else "--tls-cert"
        raise ConfigError("a certificate and its key are needed", on=missing, fix="or try --dev")
    if config.dev_cert_out and not config.dev:
        raise ConfigError("only --dev writes a certificate", on="--dev-cert-out", fix="leave it out")
    return config


def _parser() -> _Parser:
    parser = _Parser(
        prog=PROGRAM,
        allow_abbrev=False,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"{PROGRAM} --tls-cert FILE --tls-key FILE [setting]...\n       {PROGRAM} --dev [setting]...",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    for title, settings in _GROUPS:
        group = parser.add_argument_group(title)
        for setting in settings:
            text = setting.help.replace("%", "%%")
            if setting.default:
                text += f" [{setting.default}]"
            if setting.name == "dev":
                group.add_argument(
                    setting.flag, dest=setting.name, action="store_const", const="1", help=text
                )
            else:
                group.add_argument(
                    setting.flag,
                    dest=setting.name,
                    metavar=setting.placeholder,
                    action="append" if setting.name == "addr" else "store",
                    help=text,
                )
    other = parser.add_argument_group("other")
    other.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    other.add_argument("-h", "--help", action="help", help="this text")
    return parser
