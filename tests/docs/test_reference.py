"""The reference of the site: every public name is on a page, with what its docstring says."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))

import pages  # noqa: E402
from docstrings import read_constants, to_markdown  # noqa: E402


def test_every_room_with_public_names_has_a_page(monkeypatch):
    pages.check_rooms()
    assert len(pages.list_rooms()) > 10
    monkeypatch.setattr(pages, "list_rooms", lambda: ["cmdl_hf", "cmdl_hf.data"])
    with pytest.raises(ValueError, match=r"cmdl_hf.comparison.*% room"):
        pages.check_rooms()


@pytest.mark.parametrize("room", pages.list_rooms())
def test_every_public_name_is_described(room):
    text = pages.fill(f"% room: {room}", "api/x")
    names = pages.public_names(room)
    assert names
    for name, value in names.items():
        home = pages.find_homes().get(id(value)) if pages.is_described(value) else f"{room}.{name}"
        assert name == "__version__" or home in text


def test_a_public_name_without_docstring_is_an_error(monkeypatch):
    def bare():
        pass

    monkeypatch.setattr(pages, "public_names", lambda room: {"bare": bare})
    with pytest.raises(ValueError, match=r"cmdl_hf.explore.bare has no docstring"):
        pages.fill("% room: cmdl_hf.explore", "api/explore")
    monkeypatch.setattr(pages, "public_names", lambda room: {"SIZE": 3})
    with pytest.raises(ValueError, match=r"cmdl_hf.explore.SIZE has no docstring; that of a constant"):
        pages.fill("% room: cmdl_hf.explore", "api/explore")


def test_every_command_is_described():
    from cmdl_hf.cli import app

    text = pages.fill("% commands", "commands")
    assert "\ncmdl train [OPTIONS] [ARGS]\n" in text  # not the name of the program that makes the page
    names = [name for name in app if not name.startswith("-")]
    assert len(names) > 8
    assert [name for name in names if f"\n## cmdl {name}\n" not in f"\n{text}"] == []


def test_links_of_an_included_file_lead_where_they_led():
    text = pages.fill("% include: examples/camvid_study/README.md", "studies/camvid")
    assert "](../../examples/camvid_study/arms.png)" in text
    text = pages.fill("% include: benchmarks/README.md", "speed")
    assert "](studies/camvid.md)" in text  # a page of the site, in place of the folder
    assert not text.lstrip().startswith("# ")


DOCSTRING = """Does a thing, see [`train`] and [`inner`].

    Args:
        first (`int`, *optional*): One
            on two lines.
        a, b (`str`):
            Two.
        **options: Three.

    Returns:
        `float`.

    Raises:
        ValueError: if not.

    Example:
        >>> 1
        1
    """


def test_docstrings_become_markdown():
    text = to_markdown(DOCSTRING, {"train": "cmdl_hf.training.train"}.get)
    assert text == (
        "Does a thing, see {py:obj}`train <cmdl_hf.training.train>` and `inner`.\n\n"
        "**Arguments**\n\n- `first` (`int`, *optional*): One\n    on two lines.\n- `a`, `b` (`str`):\n    Two.\n"
        "- `**options`: Three.\n\n"
        "**Returns**\n\n`float`.\n\n**Raises**\n\n- `ValueError`: if not.\n\n"
        "**Example**\n\n```pycon\n>>> 1\n1\n```"
    )


def test_constants_are_described_by_the_string_below():
    code = 'A = 1\n"""One."""\nB: int = 2\n"""Two\n    lines."""\nC = 3\nD = 4\n'
    assert read_constants(code) == {"A": "One.", "B": "Two\nlines."}
