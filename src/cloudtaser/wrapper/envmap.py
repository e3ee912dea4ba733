"""The grammar of secret paths and of the environment map, and which variable each field becomes.

Used by `config` at start, and by `kube.annotations` at admission, so that both read one grammar
(spec/wrapper.md "Configuration"). Pure, and imports nothing.

    paths   secret/data/app,secret/data/db#3        path#version pins a version
            pki/issue/web?common_name=app&ttl=24h   with parameters the path is written, and its answer is the
                                                    secret; %XX in a parameter stands for a byte
    map     password=DB_PASSWORD,user=DB_USER;key?=API_KEY,cert=@TLS_CERT
            groups in the order of the paths; `\\,` `\\;` `\\=` stand for themselves; `?` before `=`: may be
            missing; `@` behind it: the variable gets a path under which a program reads the value
"""

MAX_PATHS = 100
_MAX_PARAMETER = 4096
_HEX = frozenset("0123456789abcdefABCDEF")
_NOT_IN_PATHS = frozenset((*map(chr, range(33)), *"%?\\\x7f"))
_FIRST = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_REST = _FIRST | frozenset("0123456789")
_LOADER_PREFIXES = (
    "LD_", "BASH_", "PYTHON", "PERL", "RUBY", "NODE_", "JAVA_", "JDK_", "GIT_", "SSL_CERT_", "KUBERNETES_",
    "VAULT_", "BAO_", "CLOUDTASER_",
)  # fmt: skip
_LOADER_NAMES = frozenset(("GCONV_PATH", "PATH", "IFS", "ENV"))


class EnvMapError(ValueError):
    """The text cannot be used as it is; the message says where and why, in one line."""


class SecretPath:
    """One path to read, and the version it is pinned to (None: the latest), or the parameters to write it
    with. `origin` is the setting that names it.
    """

    __slots__ = ("origin", "parameters", "path", "version")

    def __init__(
        self,
        path: str,
        version: int | None = None,
        parameters: tuple[tuple[str, str], ...] = (),
        origin: str = "CLOUDTASER_SECRET_PATHS",
    ) -> None:
        self.path = path
        self.version = version
        self.parameters = parameters
        self.origin = origin

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretPath):
            return NotImplemented
        return self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._all())

    def _all(self) -> tuple[object, ...]:
        return self.path, self.version, self.parameters

    def __str__(self) -> str:
        if self.parameters:
            return f"{self.path}?{'&'.join(f'{name}={value}' for name, value in self.parameters)}"
        return self.path if self.version is None else f"{self.path}#{self.version}"

    def __repr__(self) -> str:
        return f"SecretPath({self})"


class Mapping:
    """One field and the variable it becomes; `is_file`: the variable holds a path to read it from."""

    __slots__ = ("field", "is_file", "name", "optional")

    def __init__(self, field: str, name: str, optional: bool = False, is_file: bool = False) -> None:
        self.field = field
        self.name = name
        self.optional = optional
        self.is_file = is_file

    def _key(self) -> tuple[str, str, bool, bool]:
        return (self.field, self.name, self.optional, self.is_file)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Mapping) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Mapping({self.field}{'?' * self.optional}={'@' * self.is_file}{self.name})"


class Source:
    """Where a variable comes from: which path (by position), which of its fields, and whether as a file."""

    __slots__ = ("field", "is_file", "path")

    def __init__(self, path: int, field: str, is_file: bool = False) -> None:
        self.path = path
        self.field = field
        self.is_file = is_file

    def __repr__(self) -> str:
        return f"Source({self.path}, {self.field})"


Groups = tuple[tuple[Mapping, ...] | None, ...]


def parse_paths(text: str) -> tuple[SecretPath, ...]:
    """The comma-separated list of paths. Raises EnvMapError."""
    paths: dict[SecretPath, None] = {}
    for part in text.split(","):
        path = _parse_path(part.strip())
        if path in paths:
            raise EnvMapError(f"{path} is listed twice")
        paths[path] = None
    if len(paths) > MAX_PATHS:
        raise EnvMapError(f"more than {MAX_PATHS} paths")
    return tuple(paths)


def _parse_path(text: str) -> SecretPath:
    path, mark, pinned = text.partition("#")
    path, asked, query = path.partition("?")
    path = path.removeprefix("/").removeprefix("v1/")
    if not path:
        raise EnvMapError("an empty path")
    if any(segment in ("", ".", "..") for segment in path.split("/")):
        raise EnvMapError(f"{path!r} has an empty, '.' or '..' segment")
    if not _NOT_IN_PATHS.isdisjoint(path):
        raise EnvMapError(f"{path!r} holds a blank, '%', '?', a backslash or a control character")
    if asked and mark:
        raise EnvMapError(f"{text!r} has parameters and a version, and what is written has none")
    if asked:
        return SecretPath(path, None, _parse_parameters(text, query))
    if not mark:
        return SecretPath(path)
    if not (pinned.isascii() and pinned.isdigit()) or len(pinned) > 9 or int(pinned) == 0:
        raise EnvMapError(f"the version behind '#' in {text!r} is no number from 1")
    return SecretPath(path, int(pinned))


def _parse_parameters(text: str, query: str) -> tuple[tuple[str, str], ...]:
    parameters: dict[str, str] = {}
    for part in query.split("&"):
        name, mark, value = part.partition("=")
        if not mark or not is_name(name):
            raise EnvMapError(f"{part!r} in {text!r} is not name=value")
        if name in parameters:
            raise EnvMapError(f"the parameter {name} is in {text!r} twice")
        parameters[name] = _percent_decoded(value, text)
    return tuple(parameters.items())


def _percent_decoded(value: str, text: str) -> str:
    first, *rest = value.split("%")
    decoded = first.encode()
    for part in rest:
        if len(part) < 2 or not _HEX.issuperset(part[:2]):
            raise EnvMapError(f"a '%' in {text!r} is not followed by two hexadecimal digits")
        decoded += bytes((int(part[:2], 16),)) + part[2:].encode()
    try:
        found = decoded.decode()
    except UnicodeDecodeError:
        raise EnvMapError(f"a parameter in {text!r} is not UTF-8") from None
    if any(letter < " " or letter == "\x7f" for letter in found) or len(found) > _MAX_PARAMETER:
        raise EnvMapError(f"a parameter in {text!r} holds a control character, or is too long")
    return found


def parse_map(text: str, paths: int, *, loader_names: bool = False) -> Groups:
    """One group of mappings for each of `paths` paths; None for a path exported whole. Raises EnvMapError.

    `loader_names` allows names that change how programs load (`cloudtaser.io/allow-loader-env`).
    """
    groups: list[tuple[Mapping, ...] | None] = []
    taken: dict[str, str] = {}
    parts = _split(text.strip(), ";")
    if not parts[-1].strip():
        parts.pop()  # a final separator, or nothing at all
    for part in parts:
        groups.append(_parse_group(part, taken, loader_names) if part.strip() else None)
    if len(groups) > paths:
        raise EnvMapError(f"{len(groups)} groups for {paths} path{'' if paths == 1 else 's'}")
    return tuple(groups) + (None,) * (paths - len(groups))


def _parse_group(text: str, taken: dict[str, str], loader_names: bool) -> tuple[Mapping, ...]:
    mappings: list[Mapping] = []
    for part in _split(text, ","):
        entry = part.strip()
        halves = _split(entry, "=")
        if len(halves) != 2:
            raise EnvMapError(f"{entry!r} is not field=NAME")
        field, name = halves[0].rstrip(), halves[1].strip()
        is_file = name.startswith("@")
        name = name.removeprefix("@")
        optional = len(_split(field, "?")) > 1 and not _split(field, "?")[-1]
        field = _unescape(field[:-1] if optional else field)
        if not field:
            raise EnvMapError(f"{entry!r} names no field")
        if not is_name(name):
            raise EnvMapError(f"{name!r} is not a variable name ([A-Za-z_][A-Za-z0-9_]*)")
        if not loader_names and is_loader_name(name):
            raise EnvMapError(f"{name} changes how programs load; cloudtaser.io/allow-loader-env permits it")
        if name in taken:
            raise EnvMapError(f"{name} is set twice, by {taken[name]!r} and {field!r}")
        taken[name] = field
        mappings.append(Mapping(field, name, optional, is_file))
    return tuple(mappings)


def _split(text: str, separator: str) -> list[str]:
    """Split at separators that no backslash precedes; escapes stay in the parts."""
    if "\\" not in text:
        return text.split(separator)
    parts: list[str] = []
    start = at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == separator:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    parts.append(text[start:])
    return parts


def _unescape(field: str) -> str:
    if "\\" not in field:
        return field
    letters: list[str] = []
    escaped = False
    for letter in field:
        if not escaped and letter == "\\":
            escaped = True
            continue
        if escaped and letter not in ",;=\\?":
            raise EnvMapError(f"'\\{letter}' in {field!r} is no escape (\\, \\; \\= \\? \\\\ are)")
        letters.append(letter)
        escaped = False
    if escaped:
        raise EnvMapError(f"{field!r} ends in a backslash")
    return "".join(letters)


def is_name(name: str) -> bool:
    """Whether a shell could set it: [A-Za-z_][A-Za-z0-9_]*."""
    return bool(name) and name[0] in _FIRST and _REST.issuperset(name)


def is_loader_name(name: str) -> bool:
    """Whether the variable changes how programs load, or belongs to us or to Kubernetes."""
    return name in _LOADER_NAMES or name.startswith(_LOADER_PREFIXES) or name.upper().endswith("_PROXY")


def exported_name(field: str) -> str | None:
    """The name under which an unmapped field is exported, or None where it is skipped with a warning."""
    name = field.upper() if field.isascii() else field
    return name if is_name(name) and not is_loader_name(name) else None


def assign(
    paths: tuple[SecretPath, ...], groups: Groups, fields: list[list[str]]
) -> tuple[dict[str, Source], list[str]]:
    """Which variable comes from which field, given the fields that each path has; and warnings.

    Raises EnvMapError where a mapped field is missing or two fields meet in one name.
    """
    assigned: dict[str, Source] = {}
    warnings: list[str] = []

    def put(name: str, source: Source) -> None:
        if name in assigned:
            other = assigned[name]
            first = f"{other.field!r} of {paths[other.path]}"
            second = f"{source.field!r} of {paths[source.path]}"
            raise EnvMapError(f"{name} is set twice, by {first} and {second}")
        assigned[name] = source

    for index, group in enumerate(groups):
        present = fields[index]
        if group is None:
            for field in present:
                name = exported_name(field)
                if name is None:
                    where = f"field {field!r} of {paths[index]}"
                    warnings.append(f"{where} is not exported: its name is unsafe or no variable")
                else:
                    put(name, Source(index, field))
            continue
        for mapping in group:
            if mapping.field in present:
                put(mapping.name, Source(index, mapping.field, mapping.is_file))
            elif not mapping.optional:
                raise EnvMapError(f"{paths[index]} has no field {mapping.field!r}")
    return assigned, warnings
