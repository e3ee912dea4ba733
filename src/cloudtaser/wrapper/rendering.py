"""Rendering: a template's parts and fields become one value, in secret memory.

`secrets.compose` calls it. Values go from span to buffer, byte by byte where a filter changes them; no
string is made of any.
"""

from cloudtaser.wrapper.buffers import Buffer, Span
from cloudtaser.wrapper.templates import Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudtaser.wrapper.templates import Field

MAX_VALUE = 1 << 20
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SHORT = {34: b'\\"', 92: b"\\\\", 8: b"\\b", 9: b"\\t", 10: b"\\n", 12: b"\\f", 13: b"\\r"}
# What each byte becomes, made once: nothing is made of a value but what stands in the buffer.
_BYTE = tuple(bytes((byte,)) for byte in range(256))
_PERCENT = tuple(_BYTE[byte] if byte in _PLAIN else b"%%%02X" % byte for byte in range(256))
_JSON = tuple(_SHORT.get(byte) or (_BYTE[byte] if byte >= 32 else b"\\u%04x" % byte) for byte in range(256))


def render(template: Template, value_of: "Callable[[Field], Span | None]") -> Span:
    """The value of the variable; `value_of` finds a field's, None for an optional one that is missing.

    Raises OverflowError past MAX_VALUE bytes.
    """
    buffer = Buffer(256, MAX_VALUE)
    for part in template.parts:
        if isinstance(part, bytes):
            buffer.append(part)
            continue
        span = value_of(part)
        if span is None:
            continue
        for name in part.filters:
            span = _FILTERS[name](span)
        buffer.append(span.view())
    return Span(buffer)


def _urlencoded(span: Span) -> Span:
    """Percent-encoded but for RFC 3986's unreserved letters: safe as user, password, path or query value."""
    encoded = Buffer(len(span) + 64, MAX_VALUE)
    for byte in span.view():
        encoded.append(_PERCENT[byte])
    return Span(encoded)


def _json(span: Span) -> Span:
    """As the inside of a JSON string, without the quotes."""
    encoded = Buffer(len(span) + 64, MAX_VALUE)
    for byte in span.view():
        encoded.append(_JSON[byte])
    return Span(encoded)


def _base64(span: Span) -> Span:
    """RFC 4648 §4, padded."""
    encoded = Buffer(len(span) * 4 // 3 + 4, MAX_VALUE)
    view = span.view()
    for at in range(0, len(view), 3):
        count = min(3, len(view) - at)
        bits = 0
        for index in range(3):
            bits = bits << 8 | (view[at + index] if index < count else 0)
        for index in range(4):
            letter = bits >> 18 - 6 * index & 63
            encoded.append(_BASE64[letter : letter + 1] if index <= count else b"=")
    return Span(encoded)


_FILTERS = {"base64": _base64, "json": _json, "urlencode": _urlencoded}
