"""Names that a stranger could give a class, a split, a backbone or a file, and a page read back to see what became of
them."""

from html.parser import HTMLParser

from markdown_it import MarkdownIt

MARKUP = [
    "<script>hit=1</script>",
    "<img src=x onerror=hit=1>",
    "</td></tr></table><h1>gone</h1>",
    "[click](javascript:hit=1)",
    "![see](http://127.0.0.1/spy.png)",
    "<javascript:hit=1>",
    "<https://evil.example>",
    "[ref]: javascript:hit=1",
    "*bold* __strong__ ~~struck~~",
    "road | 99.99 | 99.99",
    "a \\| b",
    "`code`",
    "``` fence",
    "# heading",
    "1. item",
    "- item",
    "> quote",
    "---",
    "===",
    "&lt;b&gt; &#x3c;script&#x3e;",
    "<!-- comment",
    "--> end",
    "\\",
    '\'" onmouseover=hit=1 x="',
    "$x^2$ \\(y\\)",
]
"""What Markdown and HTML would read as markup."""

TEMPLATES = [
    "{{ 7*7 }}",
    "{% for i in range(9) %}x{% endfor %}",
    "{num_images}",
    "{0.__class__}",
    "%(name)s",
    "${HOME}",
]
"""What a template engine or a format would replace."""

LINES = [
    "road\n\n# heading",
    "road\r\n---\r\nlicense: mit",
    "road\rover",
    "a\u2028# b\u2029c\x85d\x0be\x0cf",
    "\tcode",
    "tags:\n- forged",
]
"""What would end a line."""

INVISIBLE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\u202egnp.exe",
    "a\u2066b",
    "a\u200bb",
    "\x00",
    "\x9b2J",
    "\ud800",
]
"""What moves a cursor, turns the direction of writing, or cannot be written at all."""

NAMES = [*MARKUP, *TEMPLATES, *LINES, *INVISIBLE, "שלום", "طريق 12", "x" * 5000, "道路"]


class Page(HTMLParser):
    """Reads HTML: its tags with their attributes in order, and the texts of its cells and headings."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.cells, self.text, self._open = [], [], "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(name for name, _ in attributes)))
        if tag in ("td", "th"):
            self.cells.append("")
        self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self._open):
            self.cells[-1] += data


def render(markdown):
    """Read a card as CommonMark with tables, HTML allowed, as the Hub does."""
    body = markdown.split("\n---\n", 1)[1]
    return Page(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(body))
