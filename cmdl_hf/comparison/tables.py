"""Tables of a comparison, as Markdown and for the terminal."""

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..escaping import MAX_NAME, Markdown, for_markdown, markdown_table, one_line

if TYPE_CHECKING:
    from rich.console import Group

_LONGEST_NAME = 3 * MAX_NAME  # a group can be named after several settings


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        title (`str`): Its title.
        header (`Sequence` of strings): Names of the columns.
        rows (`Sequence`): Rows of strings.
        note (`str`): A sentence below it.
        strong (`Collection` of integers): Rows in bold.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    strong: Collection[int] = ()

    def to_markdown(self) -> str:
        """Return the table with its title and note."""
        note = [for_markdown(self.note, None)] if self.note else []
        return "\n\n".join([f"## {for_markdown(self.title, _LONGEST_NAME)}", self.format_rows(), *note])

    def format_rows(self) -> str:
        """Return the table in Markdown, without title and note."""
        rows = [
            [Markdown(f"**{for_markdown(cell)}**") if index in self.strong and cell else cell for cell in row]
            for index, row in enumerate(self.rows)
        ]
        return markdown_table(self.header, rows, _LONGEST_NAME)

    def to_rich(self) -> "Group":
        """Return the table and its note for rich's console."""
        from rich import box
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, title=Text(self.title), title_justify="left", title_style="bold")
        for index, name in enumerate(self.header):
            head = one_line(name, _LONGEST_NAME)
            head = head.replace(", ", ",\n") if "=" in head else head  # a setting a line
            table.add_column(Text(head), justify="right" if index else "left", overflow="fold")
        for index, row in enumerate(self.rows):
            style = "bold" if index in self.strong else ""
            table.add_row(*(Text(one_line(cell, _LONGEST_NAME), style) for cell in row))
        return Group(table, Text(f"{self.note}\n", style="dim"))


def describe_spread(values: Sequence[float], factor: float = 100, digits: int = 1) -> str:
    """Format mean and standard deviation, of scores in percent."""
    if any(value != value for value in values):
        return "–"
    spread = f" ± {factor * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{factor * statistics.mean(values):.{digits}f}{spread}"
