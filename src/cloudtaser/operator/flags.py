"""The operator's command line: its flags in groups, and what `--help` says about them.

Used by `config` and `manager_config`, which read and check the values. Nothing here has a default: a default
must not hide an environment twin.
"""

from __future__ import annotations

import argparse
from typing import Final, NoReturn

from cloudtaser.errors import UsageError
from cloudtaser.version import VERSION
from cloudtaser.wire.names import SYSTEM_NAMESPACE

PREFIX: Final = "CLOUDTASER_OPERATOR_"

_MANAGER: Final = "Holds the cluster's identity: webhook and controllers."
_BROKER: Final = """\
Carries the pods' encrypted bytes to the bridge. It has no token: what it
needs to get in it asks the manager, which is in the other container."""
_EXITS: Final = f"""
environment:
  Each flag has a twin, --log-level is {PREFIX}LOG_LEVEL;
  a flag wins.

exit codes:
  0  ended by SIGTERM or SIGINT
  1  failed: the line says what, on what, and what to do
  2  a setting is missing or cannot be used
"""

_EPILOG: Final = f"""\
in a cluster:
  The chart runs `manager` and `broker`, each in a container of its own;
  each has its own --help.

example:
  cloudtaser-operator --standalone \\
    --fingerprint 0ad50c05-1153-4508-9237-4cb2912e2c23 \\
    --apiserver https://10.0.0.1:6443 --apiserver-ca /run/ca.crt \\
    --apiserver-token-file /run/token --beacon-address beacon.example.com:443

environment:
  Each flag has a twin, --beacon-address is {PREFIX}BEACON_ADDRESS;
  a flag wins. HTTPS_PROXY and NO_PROXY count where --proxy is not given.

exit codes:
  0  ended by SIGTERM or SIGINT, running streams got 20 s
  1  failed: the line says what, on what, and what to do
  2  a setting is missing or cannot be used
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, fix=f"see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(
        prog="cloudtaser-operator",
        usage="%(prog)s --standalone --beacon-address LIST [...]\n"
        "       %(prog)s --standalone --reverse-listen ADDR [...]\n"
        "       %(prog)s manager [...]\n"
        "       %(prog)s broker --beacon-address LIST [...]",
        description="Enrols this cluster and carries its pods' encrypted bytes to the bridge.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cloudtaser-operator {VERSION}")
    for add_group in (_cluster, _ways, _reverse, _trust, _pods, _operations):
        add_group(parser)
    return parser


def manager_parser() -> argparse.ArgumentParser:
    """The command line of `cloudtaser-operator manager`."""
    parser = _Parser(
        prog="cloudtaser-operator manager",
        usage="%(prog)s [...]",
        description=_MANAGER,
        epilog="example:\n  cloudtaser-operator manager --log-level debug\n" + _EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument_group(
        "the cluster", "What the kubelet mounts is used without a flag."
    ).add_argument
    add("--apiserver", metavar="URL", help="the API server, https://HOST:PORT (default: as the kubelet says)")
    add("--apiserver-ca", metavar="FILE", help="PEM file of the API server's CA (default: as mounted)")
    add("--apiserver-token-file", metavar="FILE", help="our ServiceAccount token (default: as mounted)")
    add("--namespace", metavar="NAME", help="our namespace (default: as mounted)")
    add("--lease-seconds", metavar="N", help="how long a silent leader stays leader (default 15)")
    _container(
        parser, "--broker-uid", "uid of the broker's container; nobody else is answered (default 65533)"
    )
    _trust(parser)
    add = parser.add_argument_group("webhook").add_argument
    add("--settings", metavar="FILE", help="what holds for every pod (default /etc/cloudtaser/settings.json)")
    add(
        "--registries",
        metavar="FILE",
        help="what is said of images' registries (default /etc/cloudtaser/registries.json)",
    )
    add("--webhook-listen", metavar="ADDR", help="where the API server calls (default :9443)")
    add(
        "--webhook-service",
        metavar="NAME",
        help="the Service that leads there (default cloudtaser-operator-webhook)",
    )
    add("--webhook-lifetime", metavar="N", help="seconds that its certificate is good for (default a week)")
    add("--webhook-config", metavar="NAME", help="webhook configuration (default: the same name)")
    add = parser.add_argument_group("the token method").add_argument
    add(
        "--unseal-listen",
        metavar="ADDR",
        help="where sealed wrappers announce themselves (default :8446, `off` for nowhere)",
    )
    add("--unseal-rate", metavar="RATE", help="announcements from one address (default 10/100)")
    _operations(parser, ":8081", ":8080")
    return parser


def broker_parser() -> argparse.ArgumentParser:
    """The command line of `cloudtaser-operator broker`."""
    parser = _Parser(
        prog="cloudtaser-operator broker",
        usage="%(prog)s --beacon-address LIST [...]\n       %(prog)s --reverse-listen ADDR [...]",
        description=_BROKER,
        epilog="example:\n  cloudtaser-operator broker --beacon-address beacon.example.com:443\n" + _EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _container(
        parser, "--manager-uid", "uid of the manager's container; nobody else is believed (default 65532)"
    )
    for add_group in (_ways, _reverse, _pods):
        add_group(parser)
    _operations(parser, ":8082", ":8082")
    return parser


def _container(parser: argparse.ArgumentParser, uid_flag: str, uid_help: str) -> None:
    add = parser.add_argument_group("the other container").add_argument
    add(
        "--sockets",
        metavar="DIR",
        help="where manager/ and broker/ are mounted (default /run/cloudtaser); the manager alone: off",
    )
    add(uid_flag, metavar="UID", help=uid_help)


def _cluster(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the cluster").add_argument
    add("--standalone", action="store_true", default=None, help="run outside a cluster, as one process")
    add("--fingerprint", metavar="UID", help="the cluster's fingerprint: UID of namespace kube-system")
    add("--apiserver", metavar="URL", help="the API server, https://HOST:PORT")
    add("--apiserver-ca", metavar="FILE", help="PEM file of the API server's CA")
    add("--apiserver-token-file", metavar="FILE", help="our ServiceAccount token; read again when it changes")
    add("--namespace", metavar="NAME", help=f"our namespace (default {SYSTEM_NAMESPACE})")


def _ways(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("beacons").add_argument
    add(
        "--beacon-address",
        metavar="LIST",
        help="host:port, comma separated: parked at all of them; *.host:port is a fleet",
    )
    add("--beacon-ca", metavar="FILE", help="PEM file of the beacons' CA (default: the system's)")
    add(
        "--beacon-insecure",
        action="store_true",
        default=None,
        help="do not check the beacons' certificates: shows the room's hash only",
    )
    add("--proxy", metavar="URL", help="HTTP proxy for outbound connections, or off (default: HTTPS_PROXY)")
    add("--proxy-ca", metavar="FILE", help="PEM file of an https:// proxy's CA (default: the system's)")


def _reverse(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("reverse mode").add_argument
    add("--reverse-listen", metavar="ADDR", help="where bridges connect that dial us, as :8444 (default off)")
    add(
        "--reverse-tls-cert",
        metavar="FILE",
        help="PEM certificate of --reverse-listen, read again when it changes (without: behind an Ingress)",
    )
    add("--reverse-tls-key", metavar="FILE", help="its key")


def _trust(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "which bridge is believed", "As `cloudtaser-cli source register` prints them."
    ).add_argument
    add("--bridge-pin", metavar="PIN", help="spki-sha256:HEX of the tunnel CA; any other bridge is refused")
    add("--beacon-info-hash", metavar="HEX", help="SHA-256 of the tunnel CA; any other is refused")
    add("--join-code-file", metavar="FILE", help="file with the join code of a strict registration")


def _pods(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("pods and administrators").add_argument
    add("--listen", metavar="ADDR", help="where pods connect (default :8443)")
    add(
        "--admin-listen", metavar="ADDR", help="where administrators connect, as 127.0.0.1:8445 (default off)"
    )
    add(
        "--admin-listen-anywhere",
        action="store_true",
        default=None,
        help="let --admin-listen be an address that others can reach",
    )


def _operations(
    parser: argparse.ArgumentParser, probes: str = "127.0.0.1:8081", metrics: str = "127.0.0.1:8080"
) -> None:
    add = parser.add_argument_group("operations").add_argument
    add("--probe-addr", metavar="ADDR", help=f"/healthz and /readyz (default {probes}, `off` for none)")
    add("--metrics-addr", metavar="ADDR", help=f"/metrics (default {metrics}, `off` for none)")
    add("--id", metavar="NAME", help="name of this replica in logs (default: the host name)")
    add("--log-level", metavar="LEVEL", help="debug, info, warning or error (default info)")
