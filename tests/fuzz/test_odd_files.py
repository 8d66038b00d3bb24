"""A hundred odd recipes, files of classes, lists of pairs and files of merged classes, through the command line: each
is refused in a message that names the file, or read right; nothing is changed, and nothing half-written is left.
Files of classes that the masks contradict are refused by the name of the mask.

The files are drawn by a seed, so that every run has the same.
"""

import re
from collections import Counter

import pytest
import yaml
from damaged_images import draw_ids, draw_picture, encode
from folder_snapshots import read_folder
from odd_files import CLASSES, PAIRS, odd_classes, odd_merge, odd_pairs, odd_recipe

from cmdl_hf.cli import main
from cmdl_hf.cli.train import parse_recipe

NUM_FAST = 3  # of each kind
NUM_RECIPES, NUM_CLASSES, NUM_PAIRS, NUM_MERGES = 34, 30, 20, 16


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Three own images with masks, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    for kind, content in (("images", encode(draw_picture(), "png")), ("masks", encode(draw_ids(), "png"))):
        (folder / kind).mkdir(parents=True)
        for row in PAIRS:
            (folder / row[kind.removesuffix("s")]).write_bytes(content)
    (folder / "right.txt").write_text("\n".join(CLASSES))
    return folder


def _run(capsys, *arguments):
    """Run a command; returns its exit status and all that it says."""
    status = None
    try:
        main([*map(str, arguments)])
    except SystemExit as stopped:
        status = stopped.code
    said = capsys.readouterr()
    is_text = isinstance(status, str)
    return (1 if is_text else status or 0), said.out + said.err + (status if is_text else "")


def _try(capsys, data, file, arguments):
    """Run a command that reads `file` and may write into out; returns what it says if it accepts the file, or None.

    A refusal names the file, or a mask that contradicts it, and says what to do.
    """
    before = read_folder(data)
    status, said = _run(capsys, *arguments)
    content = file.read_bytes()
    assert read_folder(data) == before, content
    assert all(not name.startswith(".") for name in read_folder(data.parent / "out")), content
    assert status in (0, 1, 2), content
    if status == 0:
        return said
    assert re.search(rf"{re.escape(str(file))}|error: .*{re.escape(str(data / 'masks'))}", said), (
        f"{content!r}\n{said}"
    )
    assert re.search("; |did you mean|must lie in|must be at least", said), f"{content!r}\n{said}"
    return None


def _check_data(capsys, data, file, *arguments):
    return _try(capsys, data, file, ["check-data", *arguments, "--contact-sheet", data.parent / "out" / "sheet.png"])


def _write(data, name, content):
    file = data / name
    file.write_bytes(content)
    return file


def _plain(value):
    return str(value).replace("'", "")  # values of free-form keys stay texts


def _try_recipe(capsys, data, seed):
    name, content, _ = odd_recipe(seed)
    file = _write(data, name, content)
    out = data.parent / "out"
    if _try(capsys, data, file, ["sweep", file, "--dry-run", "--output-dir", out]) is None:
        return "refused"
    args = parse_recipe([str(file)]).to_recipe()
    for key, value in (yaml.safe_load(content) or {}).items():
        taken = args[key.replace("-", "_")]
        assert _plain(taken) == _plain(value) or taken == yaml.safe_load(str(value)), (
            f"{key}: {value!r} became {taken!r}"
        )
    data_flags = ("--data-dir", data, "--id2label", data / "right.txt") if args["benchmark"] == "own" else ()
    draw = ["check-data", "--augmented", file, *data_flags, "--contact-sheet", out / "sheet.png"]
    sheet = _try(capsys, data, file, draw)
    return "read" if sheet is not None else "refused beside its data"


def _try_classes(capsys, data, seed):
    name, content, count = odd_classes(seed)
    file = _write(data, name, content)
    said = _check_data(capsys, data, file, data, "--id2label", file)
    if said is None:
        return "refused"
    assert count is None or f": {count} classes" in said, content
    return "read"


def _try_pairs(capsys, data, seed):
    name, content, count = odd_pairs(seed)
    file = _write(data, name, content)
    said = _check_data(capsys, data, file, file, "--id2label", data / "right.txt")
    if said is None:
        return "refused"
    assert count is None or f"images checked: {count}" in said, content
    return "read"


def _try_merge(capsys, data, seed):
    file = _write(data, *odd_merge(seed))
    said = _check_data(capsys, data, file, data, "--id2label", data / "right.txt", "--merge-classes", file)
    return "refused" if said is None else "read"


OUTCOMES = {
    ("_try_recipe", "refused"): 27,
    ("_try_recipe", "refused beside its data"): 3,
    ("_try_recipe", "read"): 4,
    ("_try_classes", "refused"): 23,
    ("_try_classes", "read"): 7,
    ("_try_pairs", "refused"): 19,
    ("_try_pairs", "read"): 1,
    ("_try_merge", "refused"): 14,
    ("_try_merge", "read"): 2,
}

CASES = [
    (attempt, seed)
    for attempt, number in (
        (_try_recipe, NUM_RECIPES),
        (_try_classes, NUM_CLASSES),
        (_try_pairs, NUM_PAIRS),
        (_try_merge, NUM_MERGES),
    )
    for seed in range(number)
]


@pytest.fixture(scope="module")
def outcomes():
    return Counter()


@pytest.mark.parametrize(("attempt", "seed"), [case for case in CASES if case[1] < NUM_FAST])
def test_an_odd_file_is_refused_or_read(capsys, data, outcomes, attempt, seed):
    outcomes[attempt.__name__, attempt(capsys, data, seed)] += 1


@pytest.mark.slow
@pytest.mark.parametrize(("attempt", "seed"), [case for case in CASES if case[1] >= NUM_FAST])
def test_another_odd_file_is_refused_or_read(capsys, data, outcomes, attempt, seed):
    outcomes[attempt.__name__, attempt(capsys, data, seed)] += 1


@pytest.mark.slow
def test_so_many_are_refused_and_so_many_read(outcomes):
    """The numbers that CONTRIBUTING gives; another number means that a rule has changed."""
    if outcomes.total() < len(CASES):
        pytest.skip(f"needs the outcomes of all {len(CASES)} files in this process")
    assert outcomes == OUTCOMES
