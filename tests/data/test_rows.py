from contextlib import suppress

import datasets
import numpy as np
import pytest
import torch
from damaged_images import make_tiff
from PIL import Image
from torch.utils.data import DataLoader

from cmdl_hf.data import BadFileError, TrainingStream, read_row
from cmdl_hf.data.reading import image_value, open_mask
from cmdl_hf.processes import ReportingDataset, collate_reported, raise_reported

FEATURES = datasets.Features({"image": datasets.Image(mode="RGB"), "id": datasets.Value("string")})


@pytest.fixture
def damaged(tmp_path):
    """Rows of a whole image and of one whose bytes are wrong between a right header and a right end."""
    paths = [tmp_path / "whole.png", tmp_path / "damaged.png"]
    for path in paths:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    content = bytearray(paths[1].read_bytes())
    content[300:340] = bytes(40)
    paths[1].write_bytes(content)
    values = {"image": [str(path) for path in paths], "id": ["a", "b"]}
    return datasets.Dataset.from_dict(values, FEATURES), paths[1]


def test_loading_does_not_see_it_and_reading_names_the_file(damaged):
    rows, path = damaged
    assert image_value(path, None, None) == str(path)
    assert read_row(rows, 0)["image"].size == (32, 32)
    with pytest.raises(BadFileError, match=r"damaged.png: cannot be decoded \(.*\); fetch it again"):
        read_row(rows, 1)


def test_an_image_without_a_file_is_named_by_its_id(damaged):
    _, path = damaged
    stored = datasets.Dataset.from_dict({"image": [{"bytes": path.read_bytes(), "path": None}], "id": ["b"]}, FEATURES)
    with pytest.raises(BadFileError, match=r"^b: cannot be decoded"):
        read_row(stored, 0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_worker_names_it_too_and_hands_no_traceback_on(damaged, num_workers):
    rows = damaged[0].with_transform(lambda samples: {"pixels": [torch.zeros(1) for _ in samples["image"]]})
    stream = ReportingDataset(TrainingStream(rows))
    loader = DataLoader(stream, batch_sampler=[[0, 1]], num_workers=num_workers, collate_fn=collate_reported)
    with pytest.raises(BadFileError, match=r"damaged\.png: cannot be decoded") as raised:
        raise_reported(next(iter(loader)))
    assert "\n" not in str(raised.value)


def test_a_mask_whose_check_sum_is_wrong_is_refused(tmp_path):
    """Pillow passes over the check sums of pixels: another class would have been read."""
    ids = np.arange(64 * 64).reshape(64, 64) // 100 % 3
    path = tmp_path / "mask.png"
    Image.fromarray(ids.astype(np.uint8)).save(path)
    content, is_other = path.read_bytes(), False
    for place in range(45, len(content) - 20):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with suppress(OSError, SyntaxError):
            is_other |= not np.array_equal(np.asarray(Image.open(path)), ids)
        with pytest.raises(BadFileError, match="cannot be decoded"):
            open_mask(path)
    assert is_other


def test_a_mask_of_several_bands_is_refused(tmp_path):
    """Pillow reads the first of two bands, if the second is said to be something else."""
    path = tmp_path / "mask.tif"
    path.write_bytes(make_tiff(np.zeros((8, 6, 2), np.uint8), extra=0))
    assert Image.open(path).mode == "L"
    with pytest.raises(BadFileError, match="one class id per pixel, found 2 bands; save the class ids as one band"):
        open_mask(path)
