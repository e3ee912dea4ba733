"""References: values of the environment that say where their value is, as Bank-Vaults' users write them.

`config` looks at every variable that the wrapper was started with. Pure; makes templates (`templates`).

    vault:secret/data/db#password          the whole value; `#3` behind it pins a version
    db:${vault:secret/data/db#user}@host   inside a value, as often as needed

Not taken over: `>>vault:` (writes, to make something), `vault:v1:…` (transit ciphertext), `${.field}` (Go
templates for a key). The first two are passed on as they are, with a warning; the last is an error.
"""

from cloudtaser.wrapper.envmap import EnvMapError
from cloudtaser.wrapper.templates import MAX_PARTS, Field, Part, Template, parse_path

_WHOLE, _INLINE = b"vault:", b"${vault:"
_NOT_TAKEN_OVER = (
    (b">>vault:", "a >>vault: reference, which would write"),
    (b"${>>vault:", "a >>vault: reference, which would write"),
    (b"vault:v1:", "transit ciphertext, which is not decrypted"),
    (b"${vault:v1:", "transit ciphertext, which is not decrypted"),
)


def parse_reference(name: str, value: bytes) -> Template | None:
    """The template that the value of the variable `name` is, or None for an ordinary value. Raises
    EnvMapError.
    """
    if not is_reference(value):
        return None
    if value.startswith(_WHOLE):
        return Template(name, (_field(value[len(_WHOLE) :], name),), name)
    parts: list[Part] = []
    at = 0
    while (mark := value.find(_INLINE, at)) >= 0:
        end = value.find(b"}", mark)
        if end < 0:
            raise EnvMapError(f"{_shown(value[mark:])!r} has no }}")
        if mark > at:
            parts.append(value[at:mark])
        parts.append(_field(value[mark + len(_INLINE) : end], name))
        at = end + 1
        if len(parts) > MAX_PARTS:
            raise EnvMapError(f"more than {MAX_PARTS} parts")
    if at < len(value):
        parts.append(value[at:])
    return Template(name, tuple(parts), name)


def is_reference(value: bytes) -> bool:
    """Whether the value is, or holds, what `parse_reference` takes for a reference."""
    return not warning_about(value) and ((value.startswith(_WHOLE) and b"#" in value) or _INLINE in value)


def warning_about(value: bytes) -> str:
    """What a value that is passed on as it is probably was meant to be, or ""."""
    for mark, meaning in _NOT_TAKEN_OVER:
        if value.startswith(mark) or (mark[:1] == b"$" and mark in value):
            return meaning
    if value.startswith(_WHOLE) and b"#" not in value and b"/" in value and not value[6:7].isdigit():
        return "a reference without #FIELD"
    return ""


def _field(text: bytes, name: str) -> Field:
    shown = f"vault:{_shown(text)}"
    try:
        path, mark, rest = text.decode().partition("#")
    except UnicodeDecodeError:
        raise EnvMapError(f"{shown} is not UTF-8 text") from None
    field, *versions = rest.split("#")
    if field.startswith("${"):
        raise EnvMapError(f"{shown} has a Go template for a key: write a CLOUDTASER_TEMPLATE_{name}")
    if not mark or not field:
        raise EnvMapError(f"{shown} names no field: write vault:PATH#FIELD")
    return Field(field, parse_path(path, versions, name))


def _shown(text: bytes) -> str:
    return text[:80].decode("utf-8", "replace")
