"""The handover: how values reach the application, as `CLOUDTASER_DELIVERY` says.

`supervisor` asks for what to start the application with, and to bring newer values to one that runs.

    env      in its environment
    memory   in a segment that the interposer maps; the environment that the kernel shows has only the names
    file     each variable holds a path, /proc/self/fd/N, of a descriptor from which the value is read
    auto     memory where the program can take it, else env

A descriptor that the application has is closed here, unless newer values are to be written through it.
"""

import posix
import sys

from cloudtaser.wrapper import extension, target
from cloudtaser.wrapper.buffers import Span
from cloudtaser.wrapper.config import Config
from cloudtaser.wrapper.delivery import MAX_FILES, Environment, Values
from cloudtaser.wrapper.errors import ConfigError, DeliveryError
from cloudtaser.wrapper.log import Log
from cloudtaser.wrapper.segment import GENERATION_AT, VARIABLE, Segment

LIBRARY = "libcloudtaser.so"
_FIRST_FILE = 100  # scripts take single digits, shells a few above ten
_PRELOAD = b"LD_PRELOAD"
_LOADER = ("LD_", "CLOUDTASER_")


class Handover:
    """One run's way. Raises ConfigError where it is impossible for the command."""

    __slots__ = (
        "_files", "_has_warned", "_inherited", "_library", "_log", "_override", "_required", "_rotates",
        "_segment", "_strict", "kind",
    )  # fmt: skip

    def __init__(
        self, config: Config, inherited: dict[bytes, bytes], argv: list[bytes], path: bytes | None, log: Log
    ) -> None:
        self._inherited = inherited
        self._log = log
        self._has_warned = False
        self._override = config.override
        self._rotates = config.rotation == "sighup"
        self._strict = config.delivery == "memory"
        self._required = config.require_memfd_secret
        self._library = b""
        self._segment: tuple[Segment, int] | None = None
        self._files: dict[bytes, int] = {}
        self.kind = config.delivery
        if self.kind in ("memory", "auto"):
            self._choose_memory(config, argv[0], path)

    def _choose_memory(self, config: Config, name: bytes, path: bytes | None) -> None:
        self._library = library()
        if not self._library:
            reason = f"{LIBRARY} is not beside the wrapper, as it is in the payload"
        elif any(byte in self._library for byte in b": ") or len(self._library) > 500:
            reason = f"{LIBRARY} lies in a directory that LD_PRELOAD cannot name"
        else:
            reason = target.refusal(name, path, self._library) or _loader_names(config)
        if not reason:
            self.kind = "memory"
            return
        if self._strict:
            raise ConfigError(
                f"'memory' is impossible: {reason}", on="CLOUDTASER_DELIVERY", fix="set auto or env"
            )
        if self._rotates:
            raise ConfigError(
                f"'sighup' needs memory delivery, which is impossible: {reason}",
                on="CLOUDTASER_ROTATION",
                fix="set restart or none",
            )
        self.kind = "env"
        self._log.info("secrets are delivered in the environment, not in memory", reason=reason)

    def environment(self, values: Values) -> Environment:
        """What to start the application with. Raises DeliveryError where there is no memory for it."""
        self._close()
        environment = values.environment(self._inherited, override=self._override)
        try:
            self._put_files(environment, values)
            if self.kind == "memory" and environment.secrets:
                self._put_segment(environment)
        except (OSError, MemoryError, OverflowError) as error:
            self._close()
            raise DeliveryError(f"no memory to deliver secrets in: {_said(error)}") from None
        descriptors = list(self._files.values())
        if self._segment is not None:
            descriptors.append(self._segment[1])
        environment.descriptors += tuple(descriptors)
        if not self._rotates:
            environment.passing = tuple(descriptors)
            self._segment, self._files = None, {}
        return environment

    def _put_files(self, environment: Environment, values: Values) -> None:
        names = [name for name in environment.secrets if name.decode() in values.files]
        if len(names) > MAX_FILES:
            raise DeliveryError(
                f"{len(names)} values as files, of at most {MAX_FILES}", fix="map those that are needed"
            )
        for name in names:
            span = environment.secrets.pop(name)
            self._files[name] = file = _file(span, sealed=not self._rotates)
            environment.inherited[name] = b"/proc/self/fd/%d" % file

    def _put_segment(self, environment: Environment) -> None:
        secrets, plain = environment.secrets, environment.inherited
        segment = Segment(secrets, rotates=self._rotates, strict=self._strict)
        descriptor, is_secret = extension.native.descriptor(segment.pieces(secrets), True, not self._rotates)
        self._segment = (segment, descriptor)
        if not is_secret and self._required:
            self._close()
            raise DeliveryError("no memfd_secret for the application", fix="raise RLIMIT_MEMLOCK")
        if not is_secret and not self._has_warned:
            self._log.warning("no memfd_secret for the application: its secrets lie in ordinary memory")
            self._has_warned = True
        for name in secrets:
            plain[name] = b""
        theirs = plain.get(_PRELOAD, b"")
        plain[_PRELOAD] = self._library + (b":" + theirs if theirs else b"")
        plain[VARIABLE] = b"%d:%d" % (descriptor, segment.size)
        environment.secrets = {}

    def renew(self, values: Values) -> None:
        """Bring newer values to the application that runs. Raises DeliveryError where it must be started
        anew to get them.
        """
        environment = values.environment(self._inherited, override=self._override)
        files = {name: span for name, span in environment.secrets.items() if name.decode() in values.files}
        rest = {name: span for name, span in environment.secrets.items() if name not in files}
        if list(files) != list(self._files):
            raise DeliveryError("there are other variables than before")
        if rest:
            self._renew_segment(rest)
        for name, span in files.items():
            try:
                _write(self._files[name], span)
            except OSError as error:
                raise DeliveryError(f"{name.decode()} cannot be written anew: {_said(error)}") from None

    def _renew_segment(self, secrets: dict[bytes, Span]) -> None:
        if self._segment is None:
            raise DeliveryError("this delivery cannot change the environment of a running program")
        segment, descriptor = self._segment
        block = segment.next_block(secrets)
        if block is None:
            raise DeliveryError("there are other variables than before, or larger values than fit")
        offset, pieces, generation = block
        try:
            extension.native.rewrite(descriptor, offset, pieces, GENERATION_AT, generation)
        except (OSError, OverflowError) as error:
            raise DeliveryError(f"the segment cannot be written: {_said(error)}") from None

    def _close(self) -> None:
        """Let go of what an application that has ended had."""
        for descriptor in self._files.values():
            posix.close(descriptor)
        if self._segment is not None:
            posix.close(self._segment[1])
        self._segment, self._files = None, {}


def library() -> bytes:
    """Where the interposer is: beside the C extension or the program that runs this; b"" for nowhere."""
    if not extension.PRESENT:
        return b""
    places = [getattr(extension.native, "__file__", None) or "", sys.executable or "", _program()]
    for place in places:
        directory, slash, _ = place.rpartition("/")
        file = f"{directory}/{LIBRARY}".encode("utf-8", "surrogateescape")
        if slash and posix.access(file, posix.R_OK):
            return file
    return b""


def _program() -> str:
    try:
        return posix.readlink("/proc/self/exe")
    except OSError:
        return ""


def _loader_names(config: Config) -> str:
    """The dynamic loader reads some variables before a secret can stand there."""
    mapped = [mapping.name for group in config.groups for mapping in group or () if not mapping.is_file]
    for name in mapped + [template.name for template in (*config.templates, *config.references)]:
        if name.startswith(_LOADER):
            return f"{name} would be set too late for the dynamic loader"
    return ""


def _file(span: Span, *, sealed: bool) -> int:
    """A descriptor of our own numbering with the value in it, closed on exec."""
    if sealed and extension.PRESENT:
        made, _ = extension.native.descriptor([span.view()], False)
    else:
        made = posix.memfd_create("cloudtaser", posix.MFD_CLOEXEC)
        _write(made, span)
    number = _FIRST_FILE
    while _is_open(number):
        number += 1
    try:
        posix.dup2(made, number, inheritable=False)
    except OSError:
        raise DeliveryError(
            f"no value as a file: descriptor {number} is not allowed", fix="raise RLIMIT_NOFILE (ulimit -n)"
        ) from None
    finally:
        posix.close(made)
    return number


def _is_open(descriptor: int) -> bool:
    try:
        posix.fstat(descriptor)
    except OSError:
        return False
    return True


def _write(descriptor: int, span: Span) -> None:
    """The value, and no more than it. A reader in between may see parts of both."""
    view = span.view()
    at = 0
    while at < len(view):
        at += posix.pwrite(descriptor, view[at:], at)
    posix.ftruncate(descriptor, len(view))


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
