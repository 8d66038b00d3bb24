"""Scores in words and as a table for a terminal."""

import math

import numpy as np

from cmdl_hf.evaluation import describe_confused, describe_worst, find_confused, format_classes

NAMES = {0: "road", 1: "pole", 2: "building", 3: "unseen", 4: "sky"}
SCORES = {
    "per_class_iou": [0.9, 0.1, 0.5, math.nan, 0.7],
    "per_class_accuracy": [0.95, 0.2, 0.6, None, 0.8],
    "mean_iou": 0.55,
    "mean_accuracy": 0.6,
    "frequency_weighted_iou": 0.8,
    "overall_accuracy": 0.85,
}
CONFUSION = np.array([[97, 1, 2, 0, 0], [20, 39, 41, 0, 0], [0, 0, 199, 0, 1], [0, 0, 0, 0, 0], [0, 0, 30, 0, 970]])


def test_the_table_goes_from_the_best_class_to_the_worst_within_80_columns():
    lines = format_classes(NAMES | {2: "x" * 500}, SCORES, [0.5, 0.1, 0.2, 0, 0.2]).splitlines()
    assert [line.split()[0][:4] for line in lines] == [
        "clas",
        "road",
        "sky",
        "xxxx",
        "pole",
        "unse",
        "mean",
        "freq",
        "all",
    ]
    assert lines[1].split() == ["road", "90.00", "95.00", "50.00"]
    assert lines[5].split() == ["unseen", "–", "–", "0.00"]
    assert max(map(len, lines)) <= 80


def test_a_long_table_leaves_out_the_middle():
    scores = SCORES | {"per_class_iou": [1 - i / 300 for i in range(300)], "per_class_accuracy": [0.5] * 300}
    lines = format_classes({i: f"class{i}" for i in range(300)}, scores, most_rows=40).splitlines()
    assert len(lines) == 1 + 40 + 1 + 3
    assert lines[14] == "... 260 classes between"
    assert lines[41].split()[0] == "class299"
    assert lines[13].split()[0] == "class12"


def test_the_worst_and_the_confused_are_named_in_words():
    assert describe_worst(NAMES, SCORES) == "worst: `pole` (10.0 %), `building` (50.0 %), `sky` (70.0 %)"
    assert describe_worst({0: "a", 1: "b"}, SCORES) is None
    assert describe_confused(NAMES, CONFUSION) == [
        "of the pixels of `pole`, 41 % are predicted as `building`",
        "of the pixels of `pole`, 20 % are predicted as `road`",
        "of the pixels of `sky`, 3 % are predicted as `building`",
        "of the pixels of `road`, 2 % are predicted as `building`",
    ]
    assert find_confused(np.eye(4, dtype=int)) == []


def test_names_cannot_leave_their_line():
    names = NAMES | {1: "po\x1b[2Jle\nroad 100"}
    for line in [*describe_confused(names, CONFUSION), *format_classes(names, SCORES).splitlines()]:
        assert line.isprintable()
