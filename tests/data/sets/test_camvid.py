import json

import numpy as np
import pytest
from PIL import Image

from cmdl_hf.data import BENCHMARKS, BadDataError, LabelTable, load_benchmark
from cmdl_hf.data.sets.camvid import ORIGINAL_LABELS, segnet_split


@pytest.mark.parametrize("lists", ["paths", "stems", None])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_segnet_layout_gives_train_ids_with_void_ignored(make_camvid, cache_dir, label_array, lists, suffix):
    root = make_camvid(lists, suffix)
    dataset = load_benchmark("camvid", root, cache_dir=cache_dir)
    assert list(dataset) == ["train", "validation", "test"]
    assert dataset["train"]["id"][:] == ["0016E5_00001", "0016E5_00002"]
    sample = dataset["validation"][0]
    assert sample["label"].mode == "L"
    assert sample["image"].mode == "RGB"
    raw = np.resize(np.arange(12), (6, 8))
    np.testing.assert_array_equal(label_array(sample), np.where(raw == 11, 255, raw))


def test_lists_choose_and_order_the_frames(make_camvid, cache_dir):
    root = make_camvid()
    (root / "train.txt").write_text("0016E5_00002\n\n")
    dataset = load_benchmark("camvid", root, cache_dir=cache_dir)
    assert dataset["train"]["id"][:] == ["0016E5_00002"]


def test_classes_are_reachable_from_the_data_set_and_from_benchmarks(make_camvid, cache_dir):
    dataset = load_benchmark("camvid", make_camvid(), cache_dir=cache_dir)
    spec = BENCHMARKS["camvid"]
    assert dataset.id2label == spec.id2label
    assert dataset.palette == spec.palette
    assert (spec.num_labels, spec.ignore_index, spec.id2label[8], spec.palette[8]) == (11, 255, "Car", [64, 0, 128])


def test_raw_ids_are_mapped_once_whatever_is_done_later(make_camvid, cache_dir, label_array):
    train = load_benchmark("camvid", make_camvid(), cache_dir=cache_dir)["train"]
    again = load_benchmark("camvid", make_camvid(), cache_dir=cache_dir)["train"].map(lambda sample: sample)
    np.testing.assert_array_equal(label_array(train[0]), label_array(again[0]))


def _write_colours(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(rows, dtype=np.uint8)).save(path)


def test_original_layout_maps_all_32_colours(tmp_path, cache_dir, write_image, label_array):
    colours = [row.colour for row in ORIGINAL_LABELS.rows]
    for frame in ("0001TP_006690", "0016E5_07959", "Seq05VD_f00000"):
        write_image(tmp_path / "701_StillsRaw_full" / f"{frame}.png", size=(8, 4))
        _write_colours(tmp_path / "LabeledApproved_full" / f"{frame}_L.png", np.reshape(colours, (4, 8, 3)))
    dataset = load_benchmark("camvid", tmp_path, cache_dir=cache_dir)
    assert {split: dataset[split]["id"][:] for split in dataset} == {
        "train": ["0001TP_006690"],
        "validation": ["0016E5_07959"],
        "test": ["Seq05VD_f00000"],
    }
    assert label_array(dataset["test"][0]).ravel().tolist() == [row.train_id for row in ORIGINAL_LABELS.rows]


def test_original_layout_refuses_an_unknown_colour(tmp_path, cache_dir, write_image):
    write_image(tmp_path / "701_StillsRaw_full" / "0016E5_07959.png", size=(2, 1))
    _write_colours(tmp_path / "LabeledApproved_full" / "0016E5_07959_L.png", [[[1, 2, 3], [128, 64, 128]]])
    with pytest.raises(BadDataError, match=r"0016E5_07959_L.png.*#010203 \(1 px\)"):
        load_benchmark("camvid", tmp_path, splits=["validation"], cache_dir=cache_dir)


@pytest.mark.parametrize("frame", ["img_001", "0016E5_7", "0001TP_008550_L"])
def test_segnet_split_refuses_other_names(frame):
    with pytest.raises(ValueError, match="not a frame of CamVid"):
        segnet_split(frame)


def test_segnet_split_equals_segnets_lists(shared_dir):
    for folder, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        frames = [line.split()[0] for line in (shared_dir / "data/CamVid" / f"{folder}.txt").read_text().splitlines()]
        assert {segnet_split(frame.rsplit("/", 1)[1].split(".")[0]) for frame in frames} == {split}


def test_tables_equal_the_sources_row_by_row(shared_dir):
    source = json.loads((shared_dir / "data/tables/camvid_32to11.json").read_text())
    names = source["ids11"]
    assert [row.name for row in LabelTable.of("camvid").rows] == names
    assert [row.train_id for row in LabelTable.of("camvid").rows] == [*range(11), 255]
    lines = (shared_dir / "data/camvid_original/label_colors.txt").read_text().splitlines()
    assert len(ORIGINAL_LABELS.rows) == len(lines) == 32
    for row, line in zip(ORIGINAL_LABELS.rows, lines, strict=True):
        *colour, name = line.split()
        assert (row.name, list(row.colour)) == (name, list(map(int, colour)))
        assert source["colors_rgb"][name] == list(row.colour)
        grouped = names.index(source["segnet_empirical"][name])
        assert row.train_id == (255 if grouped == 11 else grouped)


def test_class_colours_are_those_of_their_namesakes():
    originals = {row.name: row.colour for row in ORIGINAL_LABELS.rows}
    renamed = {"Pole": "Column_Pole", "Pavement": "Sidewalk"}
    for row in LabelTable.of("camvid").rows:
        assert row.colour == originals[renamed.get(row.name, row.name)]


def test_real_mini_set(shared_dir, cache_dir, label_array):
    dataset = load_benchmark("camvid", shared_dir / "data/CamVid-mini", cache_dir=cache_dir)
    assert {split: len(dataset[split]) for split in dataset} == {"train": 24, "validation": 8, "test": 8}
    for split in dataset.values():
        found = set(np.unique([label_array(sample) for sample in split]).tolist())
        assert found == {*range(11), 255}


def test_real_original_frame_agrees_with_its_11_class_mask(shared_dir, cache_dir, label_array):
    original = load_benchmark(
        "camvid", shared_dir / "data/camvid_original", splits=["validation"], cache_dir=cache_dir
    )
    label = label_array(original["validation"][0])
    assert label.shape == (720, 960)
    mask = np.asarray(Image.open(shared_dir / "data/CamVid/valannot/0016E5_07999.png"))
    reduced = np.where(mask == 11, 255, mask)
    # SegNet's masks are reduced by an unknown nearest-neighbour rule: compare where its choice cannot matter
    blocks = label.reshape(360, 2, 480, 2).transpose(0, 2, 1, 3).reshape(360, 480, 4)
    is_uniform = (blocks == blocks[..., :1]).all(axis=-1)
    assert (blocks[..., 0] == reduced)[is_uniform].mean() > 0.999
