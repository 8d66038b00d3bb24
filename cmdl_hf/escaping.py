"""Escape strings from outside, such as names of classes and files, for the place where they are shown.

A string of a `config.json`, a recipe, a file of scores or labels, a data set or a file name is text, never markup. One
of these functions formats it for a terminal, a figure, a page or a card in Markdown. In pages, Jinja escapes HTML.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence

MAX_NAME = 100
"""Maximum length of a name in a card or a figure. Longer names are cut and end with an ellipsis."""

_INVISIBLE = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0e\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff"
)
_UNSAFE = re.compile(f"[\\x00-\\x1f\\x7f-\\x9f\u2028\u2029\ud800-\udfff{_INVISIBLE}]")
"""Characters that move the cursor, end a line, change the direction of writing or are invisible; lone surrogates."""

_MARKS = re.compile(r"[\\`*{}\[\]<>|~$&@]|(?<![^\W_])_|_(?![^\W_])|:(?=[^\s:])|(?<=[Ww]{3})\.")
"""Markup of CommonMark, GitHub or the Hub within a line. A `_` inside a word is not markup."""

_LINE_STARTS = re.compile(r"^(|\d{1,9})((?<!\d)[#=]|(?<!\d)[+-](?=[\s+-]|$)|(?<=\d)[.)](?=\s|$))")
"""Markup at the start of a line: headings, lists and rules."""


class Markdown(str):
    """Text that is already Markdown. `for_markdown` does not change it."""

    __slots__ = ()


def one_line(text: object, length: int | None = None) -> str:
    r"""Format a string from outside as one visible line.

    White space becomes single spaces. Other control characters, invisible characters and changes of the direction of
    writing are written as escape sequences, such as `\x1b`.

    Args:
        text (`object`): The string. Other objects are converted with `str`.
        length (`int`, *optional*): Maximum length. Longer strings are cut and end with an ellipsis.
    """
    words = text if isinstance(text, str) else str(text)
    if length is not None:
        words = words[: 4 * length + 100]  # the rest is never shown
    line = _write_out(" ".join(words.split()))
    return line if length is None or len(line) <= length else line[: length - 1].rstrip() + "…"


def lines(text: object) -> str:
    """Format a message of several lines for a terminal.

    All lines but the first are indented, so that a line break in a name cannot forge a message.
    """
    first, *others = str(text).splitlines() or [""]
    shown = [f"  {_write_out(line.rstrip())}" for line in others if line.strip()]
    return "\n".join([_write_out(first), *shown])


def for_markdown(text: object, length: int | None = None) -> Markdown:
    """Escape a string from outside for a line or a table cell of Markdown, where it stays plain text.

    It cannot become HTML, a heading, a link, code, a formula or another column. Text from right to left is isolated
    from its surroundings.

    Args:
        text (`object`): The string. `Markdown` is returned unchanged.
        length (`int`, *optional*): Maximum length, as in `one_line`.
    """
    if isinstance(text, Markdown):
        return text
    line = _MARKS.sub(lambda mark: f"\\{mark[0]}", one_line(text, length))
    line = _LINE_STARTS.sub(r"\1\\\2", line)
    return Markdown(isolate(line))


def code_span(text: object, length: int | None = None) -> Markdown:
    """Format a string from outside as inline code of Markdown. In a table, it must not contain a `|`."""
    line = one_line(text, length)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return Markdown(f"{fence}{pad}{line}{pad}{fence}")


def code_string(text: object) -> str:
    """Format a string from outside as a Python literal with its quotes, for a code example."""
    return json.dumps(one_line(text), ensure_ascii=False)


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]], length: int | None = MAX_NAME) -> str:
    """Format a table in Markdown. All cells are escaped unless they are `Markdown`."""
    lines_ = [header, [Markdown("---")] * len(header), *rows]
    return "\n".join("| " + " | ".join(for_markdown(cell, length) for cell in line) + " |" for line in lines_)


def isolate(text: str) -> str:
    """Isolate text from right to left, so that its surroundings keep their order."""
    is_reversed = any(unicodedata.bidirectional(letter) in ("R", "AL", "AN") for letter in text)
    return f"\u2068{text}\u2069" if is_reversed else text


def _write_out(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda letter: letter[0].encode("unicode_escape", "surrogatepass").decode(), text)
