"""Plug-ins: what is imported, once, and what is refused."""

import sys

import pytest

from cmdl_hf import plugins
from cmdl_hf.cli import main
from cmdl_hf.plugins import import_plugins, imported_plugins


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Leave no module, no path and no plug-in behind."""
    monkeypatch.setattr(plugins, "_imported", [])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_file_finds_files_beside_it_and_is_imported_once(write, tmp_path, monkeypatch):
    write("beside_it.py", "VALUE = 3")
    path = write("my_plugin.py", "import beside_it\nCOUNT = beside_it.VALUE\n")
    import_plugins([path])
    module = sys.modules["my_plugin"]
    assert module.COUNT == 3
    monkeypatch.chdir(tmp_path)
    import_plugins(["my_plugin.py", str(path)])
    assert sys.modules["my_plugin"] is module
    assert imported_plugins() == (str(path),)


def test_a_module_is_imported_by_name(write, tmp_path, monkeypatch):
    write("my_module.py", "")
    monkeypatch.syspath_prepend(tmp_path)
    import_plugins(["my_module"])
    assert "my_module" in sys.modules
    assert imported_plugins() == ("my_module",)


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("broken.py", "1 / 0", ImportError, "broken.py cannot be imported: ZeroDivisionError: division by zero"),
        ("half.py", "def (", ImportError, "half.py cannot be imported: SyntaxError"),
        ("json.py", "", ValueError, "json.py has the same name as another module, .*rename it"),
        ("my-plugin.py", "", ValueError, "'my-plugin' is no valid module name; rename the file"),
        (
            "own.py",
            "from cmdl_hf import register_transform\nregister_transform('papers', print)",
            ImportError,
            "already a transform 'papers'",
        ),
    ],
)
def test_what_cannot_be_imported_is_told_with_the_reason(write, name, text, error, message):
    with pytest.raises(error, match=message):
        import_plugins([write(name, text)])
    assert imported_plugins() == ()


def test_a_missing_plugin_is_one_line_of_the_command(tmp_path, capsys):
    for plugin, message in (
        (tmp_path / "none.py", "there is no plug-in"),
        ("no_such_module_at_all", "no_such_module_at_all cannot be imported: ModuleNotFoundError"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["predict", "model", "photo.jpg", "--out", str(tmp_path), "--plugin", str(plugin)])
