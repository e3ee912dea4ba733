"""JSON by offsets: strict RFC 8259 over a buffer, without making a string of any value.

`client` parses OpenBao's answers with it. `parse` checks the whole document and keeps where things are;
`decode` unescapes one string in place, which never makes it longer. Duplicate names, lone surrogates,
invalid UTF-8, control characters and anything behind the document are refused: a Go server sends none of
them, and a secret that could be read two ways must not be delivered in one of them. All of it is read in C
(native/json.c, native/text.c) where the extension is there; tests hold the same in Python against it.
"""

from cloudtaser.wrapper import extension
from cloudtaser.wrapper.buffers import Buffer, Span
from cloudtaser.wrapper.errors import ProtocolError

STRING, NUMBER, TRUE, FALSE, NULL, OBJECT, ARRAY = range(7)
MAX_NESTING = 64
MAX_VALUES = 100_000  # in a document: PID 1 hears no signal while it reads one
_MAX_ITEMS = 64  # of an array that are kept: only lists of messages are looked into

_SIMPLE = {34: 34, 92: 92, 47: 47, 98: 8, 102: 12, 110: 10, 114: 13, 116: 9}
_WRONG = {  # what native/native.h numbers
    -1: "ends too early",
    -2: "a control character in a string",
    -3: "a string is not UTF-8",
    -4: "an unknown escape",
    -5: "half a surrogate pair",
    -6: "an escape without four hex digits",
    -7: f"more than {MAX_VALUES} values",
    -8: "no value",
    -9: "nested too deeply",
    -10: "no comma",
    -11: "no member name",
    -12: "a name occurs twice",
    -13: "no colon",
    -14: "no digit",
    -15: "text behind the document",
}
_WORDS = ((b"true", TRUE), (b"false", FALSE), (b"null", NULL))


class JsonError(ProtocolError):
    """Not JSON as this reader wants it; the message has an offset and no content."""


class Node:
    """One value: its kind and where its text is (a string's offsets leave out the quotes)."""

    __slots__ = ("decoded", "end", "items", "kind", "members", "start")

    def __init__(self, kind: int, start: int, end: int) -> None:
        self.kind = kind
        self.start = start
        self.end = end
        self.members = _NO_MEMBERS
        self.items = _NO_ITEMS
        self.decoded = False

    def get(self, *names: str) -> "Node | None":
        """The member at the end of the given names, or None where one is missing."""
        node = self
        for name in names:
            found = node.members.get(name)
            if found is None:
                return None
            node = found
        return node


# Shared, because most values have neither: never added to.
_NO_MEMBERS: dict[str, Node] = {}
_NO_ITEMS: list[Node] = []


def parse(data: Buffer, start: int = 0, end: int | None = None, *, depth: int = 4) -> Node:
    """Check the document in [start, end) and return its tree, members kept `depth` levels deep. Raises
    JsonError.
    """
    end = len(data) if end is None else end
    if extension.PRESENT:
        with data.view(0, end) as view:
            found = extension.native.parse_json(view, start, end, depth, MAX_VALUES, Node)
        if not isinstance(found, Node):
            raise _error(_WRONG[found[0]], found[1])
        return found
    return parse_in_python(data, start, end, depth)


def parse_in_python(data: Buffer, start: int, end: int, depth: int) -> Node:
    """The same where there is no C extension."""
    reader = _Reader(data, end)
    node, position = reader.value(reader.blank(start), depth, 0)
    position = reader.blank(position)
    if position != end:
        raise _error("text behind the document", position)
    return node


def decode(data: Buffer, node: Node) -> Span:
    """What a value is delivered as: a string unescaped in place, anything else as its JSON text."""
    if node.kind == STRING and not node.decoded:
        node.end = _unescape(data, node.start, node.end)
        node.decoded = True
    return Span(data, node.start, node.end)


def text(data: Buffer, node: Node | None) -> str:
    """A string that is no secret (a lease id, an error line) as text; "" where there is none."""
    if node is None or node.kind != STRING:
        return ""
    return str(decode(data, node).view(), "utf-8")


def integer(data: Buffer, node: Node | None) -> int:
    """A whole number, or 0 where there is none (also 0 for fractions and beyond 18 digits)."""
    if node is None or node.kind != NUMBER or node.end - node.start > 18:
        return 0
    digits = str(data.view(node.start, node.end), "ascii")
    return int(digits) if digits.lstrip("-").isdigit() else 0


class _Reader:
    __slots__ = ("data", "end", "left", "view")

    def __init__(self, data: Buffer, end: int) -> None:
        self.data = data
        self.end = end
        self.view = data.view(0, end)
        self.left = MAX_VALUES

    def blank(self, at: int) -> int:
        """The first offset from `at` on that is no white space."""
        data, end = self.data, self.end
        while at < end and data[at] in (32, 10, 13, 9):
            at += 1
        return at

    def peek(self, at: int) -> int:
        if at >= self.end:
            raise _error("ends too early", at)
        return self.data[at]

    def value(self, at: int, depth: int, nesting: int) -> tuple[Node, int]:
        byte = self.peek(at)
        self.left -= 1
        if self.left < 0:
            raise _error(f"more than {MAX_VALUES} values", at)
        if byte == 34:
            close = self.string(at + 1)
            return Node(STRING, at + 1, close), close + 1
        if byte == 123:
            return self.object(at, depth, nesting)
        if byte == 91:
            return self.array(at, depth, nesting)
        if byte == 45 or 48 <= byte <= 57:
            end = self.number(at)
            return Node(NUMBER, at, end), end
        for word, kind in _WORDS:
            if byte == word[0] and self.view[at : at + len(word)] == word:
                return Node(kind, at, at + len(word)), at + len(word)
        raise _error("no value", at)

    def object(self, at: int, depth: int, nesting: int) -> tuple[Node, int]:
        if nesting >= MAX_NESTING:
            raise _error("nested too deeply", at)
        node = Node(OBJECT, at, at)
        node.members = {}
        seen: set[str] = set()
        at = self.blank(at + 1)
        while self.peek(at) != 125:
            if seen:
                if self.peek(at) != 44:
                    raise _error("no comma", at)
                at = self.blank(at + 1)
            if self.peek(at) != 34:
                raise _error("no member name", at)
            close = self.string(at + 1)
            name = self.name(at + 1, close)
            if name in seen:
                raise _error("a name occurs twice", at)
            seen.add(name)
            at = self.blank(close + 1)
            if self.peek(at) != 58:
                raise _error("no colon", at)
            member, at = self.value(self.blank(at + 1), depth - 1, nesting + 1)
            if depth > 0:
                node.members[name] = member
            at = self.blank(at)
        node.end = at + 1
        return node, at + 1

    def array(self, at: int, depth: int, nesting: int) -> tuple[Node, int]:
        if nesting >= MAX_NESTING:
            raise _error("nested too deeply", at)
        node = Node(ARRAY, at, at)
        node.items = []
        at = self.blank(at + 1)
        first = True
        while self.peek(at) != 93:
            if not first:
                if self.peek(at) != 44:
                    raise _error("no comma", at)
                at = self.blank(at + 1)
            first = False
            item, at = self.value(at, depth - 1, nesting + 1)
            if depth > 0 and len(node.items) < _MAX_ITEMS:
                node.items.append(item)
            at = self.blank(at)
        node.end = at + 1
        return node, at + 1

    def number(self, at: int) -> int:
        if self.peek(at) == 45:
            at += 1
        if self.peek(at) == 48:
            at += 1
        else:
            at = self.digits(at)
        if at < self.end and self.data[at] == 46:
            at = self.digits(at + 1)
        if at < self.end and self.data[at] in (69, 101):
            at += 1
            if self.peek(at) in (43, 45):
                at += 1
            at = self.digits(at)
        return at

    def digits(self, at: int) -> int:
        first = at
        while at < self.end and 48 <= self.data[at] <= 57:
            at += 1
        if at == first:
            raise _error("no digit", at)
        return at

    def string(self, at: int) -> int:
        """The offset of the closing quote of the string whose content begins at `at`, everything in it
        checked.
        """
        data, end = self.data, self.end
        close = data.find(b'"', at, end)
        position = at
        while close >= 0:
            escape = data.find(b"\\", position, close)
            if escape < 0:
                self.plain(at, close)
                return close
            position = self.escape(escape)
            if position > close:
                close = data.find(b'"', position, end)
        raise _error("a string has no end", at)

    def plain(self, start: int, end: int) -> None:
        """No control character, and valid UTF-8. `min` and `max` run over the bytes without a copy."""
        content = self.view[start:end]
        if start == end:
            return
        if min(content) < 0x20:
            raise _error("a control character in a string", start)
        if max(content) >= 0x80 and not _is_utf8(content):
            raise _error("a string is not UTF-8", start)

    def escape(self, at: int) -> int:
        """Check the escape at `at`; the offset behind it (behind both halves of a surrogate pair)."""
        letter = self.peek(at + 1)
        if letter in _SIMPLE:
            return at + 2
        if letter != 117:
            raise _error("an unknown escape", at)
        unit = self.unit(at)
        if 0xDC00 <= unit < 0xE000:
            raise _error("half a surrogate pair", at)
        if 0xD800 <= unit < 0xDC00:
            if (
                self.peek(at + 6) != 92
                or self.peek(at + 7) != 117
                or not 0xDC00 <= self.unit(at + 6) < 0xE000
            ):
                raise _error("half a surrogate pair", at)
            return at + 12
        return at + 6

    def unit(self, at: int) -> int:
        self.peek(at + 5)
        return _hex4(self.data, at + 2)

    def name(self, start: int, end: int) -> str:
        """A member's name as text: names are no secrets, and are not changed in place."""
        name = bytearray(self.view[start:end])
        if 92 in name:
            copy = Buffer(len(name), len(name))
            copy.append(name)
            return str(copy.view(0, _unescape(copy, 0, len(copy))), "utf-8")
        return name.decode()


def _unescape(data: Buffer, start: int, end: int) -> int:
    """Decode the checked string in [start, end) in place; its new end."""
    if extension.PRESENT:
        with data.view(0, end) as view:
            return extension.native.unescape(view, start, end)
    return _unescape_in_python(data, start, end)


def _unescape_in_python(data: Buffer, start: int, end: int) -> int:
    read = data.find(b"\\", start, end)
    if read < 0:
        return end
    view = data.view(0, end)
    write = read
    while read < end:
        letter = view[read + 1]
        if letter != 117:
            view[write] = _SIMPLE[letter]
            write += 1
            read += 2
        else:
            point = _hex4(data, read + 2)
            read += 6
            if 0xD800 <= point < 0xDC00:
                point = 0x10000 + ((point - 0xD800) << 10) + (_hex4(data, read + 2) - 0xDC00)
                read += 6
            write = _put(view, write, point)
        following = data.find(b"\\", read, end)
        following = end if following < 0 else following
        length = following - read
        view[write : write + length] = view[read:following]
        write += length
        read = following
    return write


def _put(view: memoryview, at: int, point: int) -> int:
    """Write one code point as UTF-8."""
    if point < 0x80:
        view[at] = point
        return at + 1
    if point < 0x800:
        view[at] = 0xC0 | point >> 6
        view[at + 1] = 0x80 | point & 0x3F
        return at + 2
    if point < 0x10000:
        view[at] = 0xE0 | point >> 12
        view[at + 1] = 0x80 | point >> 6 & 0x3F
        view[at + 2] = 0x80 | point & 0x3F
        return at + 3
    view[at] = 0xF0 | point >> 18
    view[at + 1] = 0x80 | point >> 12 & 0x3F
    view[at + 2] = 0x80 | point >> 6 & 0x3F
    view[at + 3] = 0x80 | point & 0x3F
    return at + 4


def _hex4(data: Buffer, at: int) -> int:
    unit = 0
    for offset in range(at, at + 4):
        byte = data[offset]
        if 48 <= byte <= 57:
            digit = byte - 48
        elif 97 <= byte | 32 <= 102:
            digit = (byte | 32) - 87
        else:
            raise _error("an escape without four hex digits", at)
        unit = unit << 4 | digit
    return unit


def _is_utf8(content: memoryview) -> bool:
    """RFC 3629, byte by byte: no overlong form, no surrogate, nothing above U+10FFFF; makes no string."""
    more, low, high = 0, 0x80, 0xBF
    for byte in content:
        if more:
            if not low <= byte <= high:
                return False
            more, low, high = more - 1, 0x80, 0xBF
        elif byte < 0x80:
            continue
        elif 0xC2 <= byte <= 0xDF:
            more = 1
        elif 0xE0 <= byte <= 0xEF:
            more, low, high = 2, (0xA0 if byte == 0xE0 else 0x80), (0x9F if byte == 0xED else 0xBF)
        elif 0xF0 <= byte <= 0xF4:
            more, low, high = 3, (0x90 if byte == 0xF0 else 0x80), (0x8F if byte == 0xF4 else 0xBF)
        else:
            return False
    return not more


def _error(what: str, at: int) -> JsonError:
    return JsonError(f"the answer is not valid JSON: {what}", on=f"byte {at}")
