"""The check of the links of the built site finds what leads nowhere."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))

from check_links import find_faults, main  # noqa: E402


@pytest.fixture
def site(tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "template.html").write_text('<a href="{{ nowhere }}">')
    (tmp_path / "index.html").write_text('<h1 id="top">A</h1><img src="a.png">')
    (tmp_path / "a.png").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("../index.html", None),
        ("../index.html#top", None),
        ("../", None),
        ("#here", None),
        ("https://arxiv.org/abs/2303.08029", None),
        ("data:image/png;base64,", None),
        ("../gone.html", "no such file"),
        ("../../outside.html", "no such file"),
        ("../index.html#gone", "no such place on the page"),
        ("#gone", "no such place on the page"),
        ("https://arxiv/abs", "no address"),
        ("https://arxiv.org/a b", "no address"),
        ("ftp://arxiv.org", "unknown scheme ftp"),
    ],
)
def test_links_are_checked(site, link, fault):
    (site.parent / "outside.html").write_text("")
    (site / "api" / "x.html").write_text(f'<p id="here"><a href="{link}">')
    assert list(find_faults(site)) == ([] if fault is None else [f"api/x.html: {link}: {fault}"])


def test_a_fault_is_an_error_and_so_is_an_empty_site(site, tmp_path_factory, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check_links.py", str(site)])
    main()
    assert "1 pages, 1 links, 0 to other sites" in capsys.readouterr().out
    (site / "a.png").unlink()
    with pytest.raises(SystemExit, match=r"index.html: a.png: no such file"):
        main()
    monkeypatch.setattr(sys, "argv", ["check_links.py", str(tmp_path_factory.mktemp("empty"))])
    with pytest.raises(SystemExit, match="no pages in"):
        main()
