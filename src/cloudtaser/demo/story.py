"""Story: what the demo prints. A spinner on a terminal, plain lines elsewhere; no secret in either.

Used by `app` only. Data and talk both go to standard output: the demo is read by a person. On a terminal long
lines are broken between words and stay under their beginning; in a pipe each is one line.
"""

from __future__ import annotations

import contextlib
import textwrap
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Story:
    """Numbered chapters, each with steps that take time and lines that say what came of them."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._chapter = 0
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._started

    def chapter(self, title: str) -> None:
        """A heading."""
        self._chapter += 1
        self._console.print()
        self._print(f"{self._chapter}. ", f"[bold]{escape(title)}[/bold]", style="bold")

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Something that takes time: a spinner on a terminal, then a line with its seconds."""
        began = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(escape(title)):
                yield
        else:
            yield
        seconds = time.monotonic() - began
        self._print("  ✓ ", f"{escape(title)} [dim]({seconds:.1f} s)[/dim]", style="green")

    def say(self, text: str) -> None:
        """One line of talk."""
        self._print("  ", escape(text))

    def command(self, text: str) -> None:
        """A command line that the demo runs, or that the reader can: broken, it can still be copied."""
        lines = [text]
        if self._console.is_terminal:
            width = max(self._console.width - 6, 20)
            lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        shown = escape(" \\\n    ".join(lines))
        self._console.print(f"  [cyan]$ {shown}[/cyan]", soft_wrap=True)

    def quote(self, lines: Sequence[str]) -> None:
        """Output of somebody else, set off."""
        for line in lines:
            self._print("  │ ", escape(line), style="dim")

    def table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Rows of what, figure, remark."""
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for what, figure, remark in rows:
            first = f"  {escape(what):<{widths[0]}}  [bold]{escape(figure):>{widths[1]}}[/bold]  "
            self._console.print(f"{first}[dim]{escape(remark)}[/dim]", soft_wrap=True)

    def end(self, text: str) -> None:
        """The last word, apart from the chapters."""
        self._console.print(f"\n{escape(text)}")

    def problem(self, text: str) -> None:
        """What went wrong."""
        self._print("  ✗ ", escape(text), style="red")

    def _print(self, mark: str, markup: str, *, style: str = "") -> None:
        if not self._console.is_terminal:
            self._console.print(f"{mark}{markup}", soft_wrap=True)
            return
        line = Table.grid()
        line.add_column(no_wrap=True, style=style)
        line.add_column(overflow="fold")
        line.add_row(mark, markup)
        self._console.print(line)
