"""Output: what a command answers, as a table for people or as JSON or YAML for programs.

Used by every command. The answer goes to standard output; notes for people go to standard error, so that a
pipe carries nothing but the answer.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from cloudtaser.openbao.steps import Action


class Format(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


_TERMINAL: Final = 80
_READABLE_WIDTH: Final = 96
_YAML_WIDTH: Final = 1_000_000  # a long value stays on its line, where grep and people find it


@dataclass(frozen=True, slots=True)
class Printer:
    """Writes one command's answer. `quiet` leaves only the value that a script wants."""

    format: Format = Format.TABLE
    quiet: bool = False
    color: bool = True

    def answer(self, data: Any, *, text: Iterable[str], value: Iterable[str] = ()) -> None:
        """`data` for programs, else the lines `text` for people, else (quiet) the lines `value`."""
        if self.format is Format.JSON:
            _write(sys.stdout, [json.dumps(data, indent=2, ensure_ascii=False)])
        elif self.format is Format.YAML:
            _write_yaml(data)
        else:
            _write(sys.stdout, value if self.quiet else text)

    def note(self, line: str) -> None:
        """Something a person should know that is not the answer."""
        if not self.quiet:
            _write(sys.stderr, wrapped(line))

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
        """Left-aligned columns under their heads."""
        rows = list(rows)
        widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
        return [self.strong(_columns(heads, widths)), *(_columns(row, widths) for row in rows)]

    def strong(self, text: str) -> str:
        """`text` in bold where the terminal can and may show it."""
        shown = self.color and sys.stdout.isatty() and "NO_COLOR" not in os.environ
        return f"\x1b[1m{text}\x1b[0m" if shown else text


def wrapped(line: str) -> list[str]:
    """Sentences for people in lines that a terminal shows whole; indented lines, to be copied, stay whole."""
    return [row for part in line.split("\n") for row in ([part] if part.startswith(" ") else _wrap(part))]


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        _TERMINAL,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def pairs(rows: Mapping[str, str]) -> list[str]:
    """Names and values, aligned; rows without a value are left out."""
    shown = {name: value for name, value in rows.items() if value}
    width = max((len(name) for name in shown), default=0)
    return [f"{name:<{width}}  {value}" for name, value in shown.items()]


def actions_text(actions: Iterable[Action], *, dry_run: bool) -> list[str]:
    """What was done and by which requests; in a dry run what would be, with what each would carry."""
    lines: list[str] = []
    for action in actions:
        if not action.changed:
            continue
        where = f"{action.namespace}/{action.path}" if action.namespace else action.path
        lines += [*_wrap(action.why, "  "), f"    {action.method} {where}"]
        if dry_run and action.body:
            lines += [f"      {line}" for line in _readable(action.body).splitlines()]
    return lines


def actions_data(actions: Iterable[Action]) -> list[dict[str, Any]]:
    """The same for programs, with what was found to be right already."""
    return [
        {
            "method": action.method,
            "namespace": action.namespace,
            "path": action.path,
            "why": action.why,
            "changed": action.changed,
            "body": dict(action.body) if action.body else None,
        }
        for action in actions
    ]


def _readable(body: Mapping[str, Any]) -> str:
    policy = body.get("policy")
    return _laid_out(json.loads(policy) if set(body) == {"policy"} and isinstance(policy, str) else body)


def _laid_out(value: Any, indent: str = "") -> str:
    """JSON as people write it: on one line what fits there, else a member a line."""
    short = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(short) <= _READABLE_WIDTH or not isinstance(value, Mapping):
        return short
    deeper = indent + "  "
    members = (f"{deeper}{json.dumps(name)}: {_laid_out(one, deeper)}" for name, one in value.items())
    return "{\n" + ",\n".join(members) + f"\n{indent}}}"


def _columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _write(stream: TextIO, lines: Iterable[str]) -> None:
    for line in lines:
        stream.write(f"{line}\n")
    stream.flush()


def _write_yaml(data: Any) -> None:
    from ruamel.yaml import YAML

    writer = YAML(typ="safe")
    writer.default_flow_style = False
    writer.width = _YAML_WIDTH
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared None, read as a flag
    writer.dump(data, sys.stdout)
    sys.stdout.flush()
