"""The grammar of templates: several fields and text in one variable, as connection strings want it.

`config` reads `CLOUDTASER_TEMPLATE_<ENV>` with it, `references` makes the same parts of what Bank-Vaults'
users write, `rendering` fills in the values. Pure.

    postgres://{{username}}:{{password|urlencode}}@db/app     a field that one of the paths has
    {{1.password}} {{secret/data/db#password}}                of the first path; of that path, which need not
                                                              be listed
    {{note?}}                                                 empty where it is missing
    \\{{                                                       `{{` itself; a backslash elsewhere is one
    {{a\\|b}}                                                  inside, `\\` stands before | ? . # } and itself
"""

from cloudtaser.wrapper.envmap import EnvMapError, SecretPath, is_loader_name, is_name, parse_paths

FILTERS = ("base64", "json", "urlencode")
MAX_PARTS = 1000
_ESCAPED = "|?.#}\\"


class Field:
    """One field to put in. `path`: a position in the list of paths (from 0), a path, or None for whichever
    path has it.
    """

    __slots__ = ("filters", "name", "optional", "path")

    def __init__(
        self,
        name: str,
        path: SecretPath | int | None = None,
        *,
        optional: bool = False,
        filters: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.path = path
        self.optional = optional
        self.filters = filters

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Field):
            return NotImplemented
        mine = (self.name, self.path, self.optional, self.filters)
        return mine == (other.name, other.path, other.optional, other.filters)

    def __hash__(self) -> int:
        return hash((self.name, self.path, self.optional, self.filters))

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.path}, optional={self.optional}, filters={self.filters})"


Part = bytes | Field


class Template:
    """What one variable is made of. `origin` is the setting that says so."""

    __slots__ = ("name", "origin", "parts")

    def __init__(self, name: str, parts: tuple[Part, ...], origin: str) -> None:
        self.name = name
        self.parts = parts
        self.origin = origin

    def fields(self) -> list[Field]:
        """The fields in it, in order."""
        return [part for part in self.parts if isinstance(part, Field)]

    def paths(self) -> list[SecretPath]:
        """The paths it names itself."""
        return [field.path for field in self.fields() if isinstance(field.path, SecretPath)]

    def __repr__(self) -> str:
        return f"Template({self.name}, {self.parts})"


def parse_template(name: str, text: bytes, origin: str, *, loader_names: bool = False) -> Template:
    """The template for the variable `name`. Raises EnvMapError."""
    if not is_name(name):
        raise EnvMapError(f"{name!r} is not a variable name ([A-Za-z_][A-Za-z0-9_]*)")
    if not loader_names and is_loader_name(name):
        raise EnvMapError(f"{name} changes how programs load; cloudtaser.io/allow-loader-env permits it")
    parts: list[Part] = []
    literal = bytearray()
    at = 0
    while (mark := text.find(b"{{", at)) >= 0:
        before = len(text[at:mark]) - len(text[at:mark].rstrip(b"\\"))
        literal += text[at : mark - before] + b"\\" * (before // 2)
        if before % 2:
            literal += b"{{"
            at = mark + 2
            continue
        end = _end(text, mark + 2)
        if literal:
            parts.append(bytes(literal))
            literal = bytearray()
        parts.append(_parse_field(text[mark + 2 : end], origin))
        at = end + 2
        if len(parts) > MAX_PARTS:
            raise EnvMapError(f"more than {MAX_PARTS} parts")
    literal += text[at:]
    if literal:
        parts.append(bytes(literal))
    template = Template(name, tuple(parts), origin)
    if not template.fields():
        raise EnvMapError("no {{field}} in it")
    return template


def _end(text: bytes, at: int) -> int:
    """Where the `}}` is that closes what begins at `at`."""
    start = at
    while at < len(text):
        if text[at] == 92:
            at += 2
            continue
        if text[at : at + 2] == b"}}":
            return at
        at += 1
    raise EnvMapError(f"{_shown(text[start - 2 : start + 30])} has no }}}}; \\{{{{ stands for {{{{ itself")


def _parse_field(text: bytes, origin: str) -> Field:
    shown = "{{" + _shown(text) + "}}"
    try:
        tokens = _tokens(text.decode().strip())
    except UnicodeDecodeError:
        raise EnvMapError(f"{shown} is not UTF-8 text") from None
    pieces = _split(tokens, "|")
    filters = tuple("".join(letter for letter, _ in piece).strip() for piece in pieces[1:])
    for name in filters:
        if name not in FILTERS:
            raise EnvMapError(f"{name!r} in {shown} is none of {', '.join(FILTERS)}")
    where = _stripped(pieces[0])
    optional = where[-1:] == [("?", True)]
    where = _stripped(where[:-1]) if optional else where
    hashes = _split(where, "#")
    path: SecretPath | int | None = None
    if len(hashes) > 1:
        path = parse_path(_text(hashes[0]), [_text(piece) for piece in hashes[2:]], origin)
        name = _text(hashes[1])
    else:
        dots = _split(where, ".")
        position = _text(dots[0])
        if len(dots) > 1 and position.isascii() and position.isdigit():
            if len(position) > 4 or int(position) == 0:
                raise EnvMapError(f"{shown}: paths are counted from 1")
            path = int(position) - 1
            where = where[len(dots[0]) + 1 :]
        name = _text(where)
    if not name:
        raise EnvMapError(f"{shown} names no field")
    return Field(name, path, optional=optional, filters=filters)


def parse_path(path: str, versions: list[str], origin: str) -> SecretPath:
    """PATH, and what stands behind `#FIELD#`. Raises EnvMapError."""
    if "," in path or len(versions) > 1:
        raise EnvMapError(f"{path!r} is not PATH#FIELD or PATH#FIELD#VERSION")
    found = parse_paths("#".join([path, *versions]))[0]
    return SecretPath(found.path, found.version, found.parameters, origin)


_Token = tuple[str, bool]  # a letter, and whether it may mean something


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    escaped = False
    for letter in text:
        if not escaped and letter == "\\":
            escaped = True
            continue
        if escaped and letter not in _ESCAPED:
            raise EnvMapError(f"'\\{letter}' in {{{{{text}}}}} is no escape")
        tokens.append((letter, not escaped))
        escaped = False
    if escaped:
        raise EnvMapError(f"{{{{{text}}}}} ends in a backslash")
    return tokens


def _split(tokens: list[_Token], separator: str) -> list[list[_Token]]:
    pieces: list[list[_Token]] = [[]]
    for token in tokens:
        if token == (separator, True):
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def _stripped(tokens: list[_Token]) -> list[_Token]:
    start, end = 0, len(tokens)
    while start < end and tokens[start][0].isspace():
        start += 1
    while end > start and tokens[end - 1][0].isspace():
        end -= 1
    return tokens[start:end]


def _text(tokens: list[_Token]) -> str:
    return "".join(letter for letter, _ in _stripped(tokens))


def _shown(text: bytes) -> str:
    return text[:80].decode("utf-8", "replace")
