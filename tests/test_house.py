"""The house itself: how long files and functions are, and what a room takes from another.

A room is a folder of `cmdl_hf`; the files beside the folders are rooms of one file.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cmdl_hf"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}

MAX_FILE, MAX_FUNCTION = 350, 60
# What is longer, each with the reason; a cure belongs here only until there is a better one.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def find_functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every function with its length in lines, signature and docstring counted; names as Python qualifies them."""
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{child.name}."
            if not isinstance(child, ast.ClassDef):
                yield name[:-1], child.end_lineno - child.lineno + 1
        yield from find_functions(child, name)


def find_imports(path: Path, tree: ast.Module) -> Iterator[tuple[tuple[str, ...], str]]:
    """The modules of `cmdl_hf` that a file imports from, by their parts, with the name taken, or "" for the module."""
    here = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports = [(tuple(alias.name.split(".")), "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            imports = [(module, alias.name) for alias in node.names]
        else:
            continue
        yield from ((module, name) for module, name in imports if module[0] == PACKAGE.name)


def is_module(parts: tuple[str, ...]) -> bool:
    path = ROOT.joinpath(*parts)
    return path.with_suffix(".py").is_file() or path.is_dir()


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def find_inner_imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """The files inside another room that a file imports, which must import from the room's `__init__`."""
    own = path.relative_to(ROOT).parts[1]
    for module, name in find_imports(path, tree):
        target = (*module, name) if name and is_module((*module, name)) else module
        if len(target) > 2 and target[1] in ROOMS and target[1] != own:
            yield f"{name_of(path)}: {'.'.join(target)}"


def find_private_imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """The `_private` names of another room that a file imports, and for a file outside of `cmdl_hf`, of any."""
    own = path.relative_to(ROOT).parts
    for module, name in find_imports(path, tree):
        is_own = own[0] == PACKAGE.name and module[1:2] in ((), (own[1],), (Path(own[1]).stem,))
        parts = (name,) if own[0] == PACKAGE.name else (*module, name)
        if not is_own and any(map(is_private, parts)):
            yield f"{name_of(path)}: {name} of {'.'.join(module)}"


def test_files_are_short():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    long = {name for name, length in lengths.items() if length > MAX_FILE}
    assert sorted(long - LONG_FILES.keys()) == [], f"split along an idea what has more than {MAX_FILE} lines"
    assert sorted(LONG_FILES.keys() - long) == [], "these are short enough now: take them off the list"


def test_functions_are_short():
    lengths = {f"{name_of(path)}: {name}": length for path in FILES for name, length in find_functions(parse(path))}
    long = {name for name, length in lengths.items() if length > MAX_FUNCTION}
    assert sorted(long - LONG_FUNCTIONS.keys()) == [], f"name the steps of what has more than {MAX_FUNCTION} lines"
    assert sorted(LONG_FUNCTIONS.keys() - long) == [], "these are short enough now: take them off the list"


def test_rooms_take_what_another_hands_on():
    found = [line for path in FILES for line in find_inner_imports(path, parse(path))]
    assert found == [], "import from the room itself; what it lacks its __init__ has to hand on"


def test_rooms_take_no_private_name_of_another():
    found = [line for path in FILES for line in find_private_imports(path, parse(path))]
    assert found == [], "give the name no underscore, and hand it on"


def test_tests_leave_the_names_of_plugins_alone():
    """Where pytest-benchmark is installed, a parameter called `benchmark` ends the run."""
    parameters = [
        f"{name_of(path)}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if {"benchmark", "mocker", "event_loop"} & {argument.arg for argument in node.args.args}
    ]
    assert parameters == [], "another name: the fixtures of plugins are called so"


def test_examples_take_no_private_name():
    examples = sorted((ROOT / "examples").rglob("*.py"))
    assert examples
    found = [line for path in examples for line in find_private_imports(path, parse(path))]
    assert found == [], "examples show what users may import"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from ..data import load_split", []),
        ("from ..data.loading import load_split", ["cmdl_hf.data.loading"]),
        ("from ..data import loading", ["cmdl_hf.data.loading"]),
        ("from cmdl_hf.data.sets import base", ["cmdl_hf.data.sets.base"]),
        ("import cmdl_hf.data.loading", ["cmdl_hf.data.loading"]),
        ("def f():\n    from ..data.loading import load_split", ["cmdl_hf.data.loading"]),
        ("from .scoring import evaluate\nfrom ..files import write_text\nfrom torch.nn import functional", []),
    ],
)
def test_imports_past_the_door_are_found(code, found):
    path = PACKAGE / "evaluation" / "scoring.py"
    lines = list(find_inner_imports(path, ast.parse(code)))
    assert lines == [f"cmdl_hf/evaluation/scoring.py: {module}" for module in found]


@pytest.mark.parametrize(
    ("place", "code", "is_found"),
    [
        ("cmdl_hf/hub/cards.py", "from ..data import _read", True),
        ("cmdl_hf/hub/cards.py", "from .uploading import _Result", False),
        ("cmdl_hf/hub/cards.py", "from .. import __version__", False),
        ("cmdl_hf/hub/cards.py", "from .._lazy import lazy_names", False),
        ("cmdl_hf/demo.py", "from .files import _probe", True),
        ("cmdl_hf/metrics.py", "from .metrics import _sums", False),
        ("examples/new.py", "from cmdl_hf.data import _read", True),
        ("examples/new.py", "from cmdl_hf._lazy import lazy_names", True),
        ("examples/new.py", "import cmdl_hf._lazy", True),
        ("examples/new.py", "from cmdl_hf.data import load_split\nfrom torch import _C", False),
    ],
)
def test_private_names_are_found(place, code, is_found):
    assert bool(list(find_private_imports(ROOT / place, ast.parse(code)))) is is_found


def test_lengths_count_signature_docstring_and_what_is_inside():
    code = "class A:\n  @property\n  def b(\n    self\n  ):\n    'C.'\n    def d():\n      return 1\n"
    assert list(find_functions(ast.parse(code))) == [("A.b", 6), ("A.b.d", 2)]
