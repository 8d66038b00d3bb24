"""Checks the links of the built site: `python docs/check_links.py build/docs`.

Every link to a page, a file or a place on a page must lead somewhere. Links to other sites are not followed, but must
be well formed; `--list` prints them.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page, and the places on it that a link can name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what an element links to and what names it."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


@cache
def read_page(path: Path) -> Page:
    """Read a page once."""
    return Page(path.read_text(encoding="utf-8"))


def list_pages(site: Path) -> list[Path]:
    """The pages of a site, without the templates that a theme leaves among its files."""
    return [path for path in sorted(site.rglob("*.html")) if "_static" not in path.relative_to(site).parts]


def find_faults(site: Path) -> Iterator[str]:
    """Find the links of a site that lead nowhere; each with its page and the reason."""
    site = site.resolve()
    for path in list_pages(site):
        for link in read_page(path).links:
            if reason := check_link(link, path, site):
                yield f"{path.relative_to(site)}: {link}: {reason}"


def check_link(link: str, path: Path, site: Path) -> str | None:
    """Check one link of a page, and say what is wrong with it."""
    parts = urlsplit(link)
    if parts.scheme in ("http", "https"):
        is_host = re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc) is not None
        return None if is_host and not re.search(r"[\s<>]", link) else "no address"
    if parts.scheme:
        return None if parts.scheme in ("data", "mailto") else f"unknown scheme {parts.scheme}"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file() or not target.is_relative_to(site):
        return "no such file"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in read_page(target).places:
        return "no such place on the page"
    return None


def main() -> None:
    """Print the faults; the exit status is 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("--list", action="store_true", help="print the links to other sites")
    args = parser.parse_args()
    pages = list_pages(args.site)
    if not pages:
        sys.exit(f"no pages in {args.site}")
    links = {path: read_page(path).links for path in pages}
    others = sorted({link for found in links.values() for link in found if link.startswith("http")})
    if args.list:
        print("\n".join(others))
    faults = list(find_faults(args.site))
    print(f"{len(pages)} pages, {sum(map(len, links.values()))} links, {len(others)} to other sites")
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
