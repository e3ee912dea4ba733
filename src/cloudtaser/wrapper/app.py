"""cloudtaser-wrapper: wires the parts (spec/wrapper.md).

    cloudtaser-wrapper [--] CMD [ARG...]
    cloudtaser-wrapper score [--pid PID]

Started by the webhook as PID 1 of a container, or by hand. `main` is the entry point.
"""

import posix
import sys

from cloudtaser.wrapper import config as configuration
from cloudtaser.wrapper import extension, memory
from cloudtaser.wrapper.buffers import Buffer
from cloudtaser.wrapper.child import Application
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.delivery import NOTHING, Environment, Values
from cloudtaser.wrapper.errors import EX_SOFTWARE, ConfigError, WrapperError, fault
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.loop import Loop
from cloudtaser.wrapper.oversights import oversights
from cloudtaser.wrapper.signals import Signals
from cloudtaser.wrapper.supervision import Supervision
from cloudtaser.wrapper.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloudtaser.wrapper.supervisor import EnvironmentOf

EX_USAGE = 64
_MAX_ENVIRONMENT = 8 << 20  # more than Linux lets a program start with
HELP = """\
usage: cloudtaser-wrapper [--] CMD [ARG...]
       cloudtaser-wrapper score [--pid PID]

Fetches secrets from OpenBao, starts CMD with them in its environment and stays
as its init: passes on signals, reaps, renews, restarts CMD when a secret
changes, exits as CMD does.
Settings are environment variables; without paths it is a plain init. A value
vault:PATH#FIELD, or ${vault:PATH#FIELD} inside one, stands for that field.

score prints as JSON what keeps others from the secrets of a running wrapper, in
points of 135; without --pid what this machine would offer one. (A CMD of that
name needs -- before it.)

  --install DIR
              copy this program's own payload into DIR, for other containers
  --help      this text
  --version   the version

environment, the settings most used:
  VAULT_ADDR               https://host:port, or broker://host:port
  CLOUDTASER_CA            PEM of the authority to trust; needed with broker://
  VAULT_AUTH_METHOD        kubernetes (default), or token with VAULT_TOKEN;
                           without one: sealed until the operator brings it
  VAULT_AUTH_ROLE          role of the login (default)
  CLOUDTASER_SECRET_PATHS  secret/data/app,secret/data/db#3
  CLOUDTASER_ENV_MAP       password=DB_PASSWORD,user=DB_USER;key?=API_KEY,
                           cert=@CERT (a path to read it from)
  CLOUDTASER_TEMPLATE_<NAME>
                           NAME as postgres://{{user}}:{{password|urlencode}}@db
  CLOUDTASER_DELIVERY      env (default), memory (for getenv, not in
                           /proc/PID/environ), auto (memory where CMD can),
                           file (variables hold paths)
  CLOUDTASER_ROTATION      when a secret changes: restart CMD (default), sighup
                           (with memory or file), none
  CLOUDTASER_STARTUP_TIMEOUT
                           how long to try before exit 75; 0 is for ever
  CLOUDTASER_REQUIRE_MEMFD_SECRET
                           true: exit 69 rather than keep a secret in memory
                           that is merely locked
  CLOUDTASER_EBPF          the node's agent: auto (default), true, required, off
  CLOUDTASER_LOG_LEVEL     debug, info, warning, error; never a value

example:
  export VAULT_ADDR=https://vault.example.com VAULT_AUTH_METHOD=token
  export CLOUDTASER_SECRET_PATHS=secret/data/shop/db VAULT_TOKEN
  export CLOUDTASER_ENV_MAP='password=PGPASSWORD,user=PGUSER'
  cloudtaser-wrapper -- psql -h db

exit codes:
  CMD's own, 128 + signal where a signal ended it; before CMD runs:
  64  no command, or an unknown option
  69  no memfd_secret, or no agent, and it is required
  70  a fault of the wrapper itself
  73  --install cannot write
  75  secrets unreachable past CLOUDTASER_STARTUP_TIMEOUT
  77  the login, or reading a path, was refused
  78  a setting cannot be used; the line names the variable
  126, 127  CMD cannot be executed; is not there
"""


def main() -> None:
    """The program. Leaves by `_exit`, all secret memory wiped: there is nothing else to finalise, and a
    look-up may still hang in its thread.
    """
    code = EX_SOFTWARE
    try:
        code = run(sys.argv[1:])
    finally:
        memory.wipe()
        posix._exit(code)


def run(arguments: list[str]) -> int:
    """The program with its arguments; the exit code."""
    if arguments[:1] == ["--version"]:
        from cloudtaser.version import VERSION

        _print(1, f"cloudtaser-wrapper {VERSION}\n")
        return 0
    if arguments[:1] in (["--help"], ["-h"]):
        _print(1, HELP)
        return 0
    if arguments[:1] == ["score"]:
        from cloudtaser.wrapper.scoring import score

        code, document, complaint = score(arguments[1:])
        _print(*((2, f"cloudtaser-wrapper: {complaint}\n") if complaint else (1, document.decode() + "\n")))
        return code
    if arguments[:1] == ["--install"]:
        return _install(arguments[1:])
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command or (command is arguments and command[0].startswith("-")):
        what = f"unknown option {command[0]!r}" if command else "no command to start"
        _print(2, f"cloudtaser-wrapper: {what}; usage: cloudtaser-wrapper [--] CMD [ARG...]\n")
        return EX_USAGE
    _hold_standard_descriptors()
    signals = Signals()
    environ = _environment_at_start()
    log = Log()
    try:
        settings = configuration.load(environ)
        log = Log(settings.log_level)
        argv = [argument.encode(sys.getfilesystemencoding(), "surrogateescape") for argument in command]
        return _supervise(settings, argv, environ, signals, log)
    except WrapperError as error:
        log.error(error.diagnostic(), code=error.code)
        return error.code
    except Exception as error:  # noqa: BLE001  # the last line before the user
        log.error(f"cloudtaser-wrapper failed: {fault(error)}", code=EX_SOFTWARE)
        return EX_SOFTWARE


def _install(arguments: list[str]) -> int:
    if len(arguments) != 1:
        _print(2, "cloudtaser-wrapper: --install takes one directory\n")
        return EX_USAGE
    from cloudtaser.wrapper.install import InstallError, install

    try:
        install(arguments[0])
    except InstallError as error:
        _print(2, f"cloudtaser-wrapper: {error.diagnostic()}\n")
        return error.code
    return 0


def _supervise(
    settings: Config, argv: list[bytes], environ: dict[bytes, bytes], signals: Signals, log: Log
) -> int:
    for variable, phrase in oversights(environ, settings):
        log.warning(f"{variable} {phrase}")
    application = Application(argv, environ.get(b"PATH"), signals, log)
    application.check()
    if settings.endpoint is not None:
        memory.close(required=settings.require_memfd_secret)
    _take_place(settings)
    loop = Loop()
    decisions = Supervision(
        grace=settings.rotation_grace,
        probation=settings.rotation_probation,
        terminal=application.terminal is not None,
        shell=posix.getpid() != 1 and posix.getsid(0) != posix.getpid(),
        sighup=settings.rotation == "sighup",
    )
    if settings.endpoint is None:
        supervisor = Supervisor(loop, signals, application, decisions, _plain(environ), log)
        supervisor.task = loop.spawn(supervisor.run())
        supervisor.deliver(NOTHING)
        return _code(loop.run(supervisor.task))
    from cloudtaser.wrapper.fetching import supervise_with_secrets
    from cloudtaser.wrapper.handover import Handover

    handover = Handover(settings, environ, argv, environ.get(b"PATH"), log)
    supervisor = Supervisor(loop, signals, application, decisions, handover.environment, log)
    supervisor.renew = handover.renew
    supervisor.task = supervising = loop.spawn(supervisor.run())
    return _code(supervise_with_secrets(settings, settings.endpoint, loop, supervisor, supervising, log))


def _take_place(settings: Config) -> None:
    """In the process tree: orphans are ours to reap, and the application may not outlive us where that is
    wanted. PID 1 needs neither.
    """
    if posix.getpid() == 1:
        return
    if extension.PRESENT:
        try:
            extension.native.reap_orphans()
            extension.native.end_with_parent(settings.death_signal)
        except OSError:
            return  # a kernel without it: orphans are reaped by init, as ever
    elif settings.death_signal:
        raise ConfigError(
            "this installation of the wrapper lacks its C extension", on="CLOUDTASER_PARENT_DEATH_SIGNAL"
        )


def _plain(environ: dict[bytes, bytes]) -> "EnvironmentOf":
    """A plain init hands on what it has, but for what is meant for it."""

    def environment(values: Values) -> Environment:
        return Environment(_without_our_prefix(environ))

    return environment


def _code(result: object) -> int:
    return result if isinstance(result, int) else 1


def _without_our_prefix(environ: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """A plain init leaves VAULT_* alone: they are the application's own."""
    prefix = configuration.OUR_PREFIX.encode()
    return {name: value for name, value in environ.items() if not name.startswith(prefix)}


def _environment_at_start() -> dict[bytes, bytes]:
    """What the wrapper was started with. The interpreter may have added LC_CTYPE (PEP 538), which is taken
    out.
    """
    environ = dict(posix.environ)
    environ.pop(b"", None)  # "=x" among the variables, which Python's execve takes from nobody
    if environ.get(b"LC_CTYPE") not in (b"C.UTF-8", b"C.utf8", b"UTF-8"):
        return environ
    try:
        descriptor = posix.open("/proc/self/environ", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return environ
    original = Buffer(16384, _MAX_ENVIRONMENT)  # a token may be in it
    original.append(b"\0")
    try:
        while True:
            with original.space(8192) as space:
                count = posix.readv(descriptor, [space])
            if not count:
                break
            original.advance(count)
    finally:
        posix.close(descriptor)
    if original.find(b"\0LC_CTYPE=", 0, len(original)) < 0:
        del environ[b"LC_CTYPE"]
    return environ


def _hold_standard_descriptors() -> None:
    """Where 0, 1 or 2 were closed, keep the numbers taken, so that no socket of ours ever is standard error.

    Closed on exec: the application finds them closed, as it would have without us.
    """
    try:
        descriptor = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
        while descriptor <= 2:
            descriptor = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
        posix.close(descriptor)
    except OSError:
        return


def _print(descriptor: int, text: str) -> None:
    try:
        posix.write(descriptor, text.encode())
    except OSError:
        return
