import logging

import numpy as np
import pytest

from cmdl_hf.cli import main
from cmdl_hf.data import LabelTable, check_classes, load_benchmark, load_folder, merge_classes
from cmdl_hf.data.merging import format_merge, read_merge

NAMES = ["road", "car", "bus", "tree", "sky"]
TABLE = LabelTable.from_names(NAMES)


@pytest.fixture
def write(tmp_path):
    def write(*lines, header="from,to", name="merge.csv"):
        (tmp_path / name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def dataset(tmp_path, write_image, write_mask, cache_dir):
    write_image(tmp_path / "own/images/a.jpg")
    write_mask(tmp_path / "own/masks/a.png", [0, 1, 2, 3, 4, 255])
    return load_folder(tmp_path / "own", NAMES, cache_dir=cache_dir)


def _ids(dataset, split="train"):
    return np.asarray(dataset[split][0]["label"]).ravel()[:6].tolist()


def test_classes_are_merged_and_dropped(dataset, write, caplog):
    with caplog.at_level(logging.INFO, logger="cmdl_hf"):
        merged = merge_classes(dataset, write("bus,vehicle", "car,vehicle", "sky,"))
    assert merged.id2label == {0: "road", 1: "vehicle", 2: "tree"}
    assert _ids(merged) == [0, 1, 1, 2, 255, 255]
    assert merged.palette == [dataset.palette[id_] for id_ in (0, 1, 3)]  # the first's colour by id, not by line
    assert merged.merged_classes == {"bus": "vehicle", "car": "vehicle", "sky": ""}
    assert merged["train"].column_names == dataset["train"].column_names
    assert merged["train"][0]["image"].size == dataset["train"][0]["image"].size
    assert "3 classes after merging: vehicle (bus, car); ignored (sky)" in caplog.text


def test_a_class_that_takes_in_others_keeps_its_colour_and_the_unmerged_stay(dataset, write):
    merged = merge_classes(dataset, write("car,bus", "road,road"))
    assert merged.id2label == {0: "road", 1: "bus", 2: "tree", 3: "sky"}
    assert merged.palette[1] == dataset.palette[2]
    assert _ids(merged) == [0, 1, 1, 2, 3, 255]
    assert _ids(dataset) == [0, 1, 2, 3, 4, 255]


def test_another_file_is_not_served_from_the_cache(dataset, write):
    first = merge_classes(dataset, write("sky,"))
    second = merge_classes(dataset, write("tree,"))
    again = merge_classes(dataset, write("sky,", name="same.csv"))
    assert (_ids(first)[4], _ids(second)[4]) == (255, 3)
    assert first["train"]._fingerprint == again["train"]._fingerprint != second["train"]._fingerprint


def test_a_benchmark_is_merged_too(make_camvid, cache_dir, write):
    whole = load_benchmark("camvid", make_camvid(), cache_dir=cache_dir)
    camvid = merge_classes(whole, write("Car,Bicyclist", "Sky,"))
    assert (camvid.num_labels, camvid.id2label[0]) == (9, "Building")
    assert {split: np.unique(rows[0]["label"]).tolist() for split, rows in camvid.items()}["test"] == [*range(9), 255]
    assert camvid.owner_table.num_labels == 9


def test_what_is_written_is_read_again(write, tmp_path):
    merge = read_merge(write('"bus",big', "sky,", "car, a quoted one"), TABLE)
    (tmp_path / "again.csv").write_text(format_merge(merge.merged))
    assert read_merge(tmp_path / "again.csv", TABLE) == merge


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["caar,bus"], "line 2: the data set has no class 'caar'; did you mean 'car'?"),
        (["xyz,bus"], "line 2: the data set has no class 'xyz'; the classes are road, car, bus, tree, sky"),
        (["car,bus", "car,tree"], "line 3: class 'car' is in line 2 already; remove one"),
        (["car,bus", "bus,tree"], "line 2: 'car' becomes 'bus', which itself becomes tree in line 3; write the last"),
        (["car,bus", "bus,"], "line 2: 'car' becomes 'bus', which itself becomes nothing, to ignore it in line 3"),
        ([f"{name}," for name in NAMES], "of 5 classes none is left, and two at least are needed"),
        ([f"{name},thing" for name in NAMES], "of 5 classes only 'thing' is left"),
        (["car"], "line 2: expected two columns"),
        ([",bus"], "line 2: expected two columns"),
        (["car,bus,tree"], "line 2: expected two columns.*put names with commas in double quotes"),
        ([], "merges nothing; write a line from,to and then one for each class"),
    ],
)
def test_bad_files_are_refused_with_line_and_cure(write, lines, message):
    path = write(*lines)
    with pytest.raises(ValueError, match=message.replace("?", r"\?")) as caught:
        read_merge(path, TABLE)
    assert str(path) in str(caught.value)


def test_a_header_is_needed_and_a_missing_file_named(write, tmp_path):
    with pytest.raises(ValueError, match="line 1: the first line must be from,to, found 'car,bus'"):
        read_merge(write("sky,", header="car,bus"), TABLE)
    with pytest.raises(FileNotFoundError, match=r"no file of merged classes .*none\.csv; correct .*--merge-classes"):
        read_merge(tmp_path / "none.csv", TABLE)


def test_a_model_of_merged_classes_says_where_the_file_is(dataset, write, tmp_path, make_config):
    write("sky,", name="merged_classes.csv")
    with pytest.raises(ValueError, match=r"Its training merged classes: give --merge-classes .*merged_classes\.csv"):
        check_classes(make_config(num_labels=4), dataset, "own", tmp_path)


def test_check_data_shows_the_classes_after_merging(dataset, write, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    flags = ["--id2label", tmp_path / "classes.txt", "--contact-sheet", tmp_path / "sheet.png"]
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "check-data",
                *map(str, [tmp_path / "own", *flags, "--merge-classes", write("car,vehicle", "bus,vehicle", "sky,")]),
            ]
        )
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert f"{tmp_path / 'own'}: 3 classes" in printed
    assert ["2", "bus", "1", "16.67", "8", "1"] in lines
    assert ["1", "vehicle", "33.33", "16", "1"] in lines
