"""Story: what the demo prints. A spinner on a terminal, plain lines elsewhere; no secret in either.

Used by `app` only. Data and talk both go to standard output: the demo is read by a person.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Story:
    """Numbered chapters, each with steps that take time and lines that say what came of them."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._chapter = 0
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._started

    def chapter(self, title: str) -> None:
        """A heading."""
        self._chapter += 1
        self._console.print(f"\n[bold]{self._chapter}. {escape(title)}[/bold]")

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
        self._console.print(f"  [green]✓[/green] {escape(title)} [dim]({seconds:.1f} s)[/dim]")

    def say(self, text: str) -> None:
        """One line of talk."""
        self._console.print(f"  {escape(text)}")

    def command(self, text: str) -> None:
        """A command line that the demo runs, or that the reader can."""
        self._console.print(f"  [cyan]$ {escape(text)}[/cyan]")

    def quote(self, lines: Sequence[str]) -> None:
        """Output of somebody else, set off."""
        for line in lines:
            self._console.print(f"  [dim]│[/dim] {escape(line)}")

    def table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Rows of what, figure, remark."""
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
        for what, figure, remark in rows:
            table.add_row(escape(what), f"[bold]{escape(figure)}[/bold]", f"[dim]{escape(remark)}[/dim]")
        self._console.print(table)

    def problem(self, text: str) -> None:
        """One line that says what went wrong."""
        self._console.print(f"  [red]✗[/red] {escape(text)}")
