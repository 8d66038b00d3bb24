"""Tiny data sets in the owners' layouts, written to a temporary folder."""

import datasets
import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _no_progress_bars():
    datasets.disable_progress_bars()


@pytest.fixture
def cache_dir(tmp_path):
    """An Arrow cache of the test's own."""
    return tmp_path / "cache"


@pytest.fixture
def write_image():
    """Write an image of random colours; `mode` and the keywords of PIL's `save` may vary it."""

    def write(path, size=(8, 6), mode="RGB", **save_options):
        path.parent.mkdir(parents=True, exist_ok=True)
        channels = {"L": (), "RGB": (3,), "CMYK": (4,), "RGBA": (4,)}[mode]
        pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
        Image.fromarray(pixels, mode=None if mode != "CMYK" else "CMYK").save(path, **save_options)
        return path

    return write


@pytest.fixture
def write_mask():
    """Write a mask whose pixels run through `ids` again and again."""

    def write(path, ids, size=(8, 6)):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.resize(np.asarray(ids, dtype=np.uint8), (size[1], size[0]))
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def make_camvid(tmp_path, write_image, write_mask):
    """Write a SegNet tree of two images a split; keywords override the list form and the image suffix."""

    def make(lists="paths", suffix=".png", frames=("0016E5_00001", "0016E5_00002"), ids=range(12)):
        root = tmp_path / "CamVid"
        for folder in ("train", "val", "test"):
            for frame in frames:
                write_image(root / folder / f"{frame}{suffix}")
                write_mask(root / f"{folder}annot" / f"{frame}.png", ids)
            lines = {
                "paths": [f"/SegNet/{folder}/{frame}.png /SegNet/{folder}annot/{frame}.png" for frame in frames],
                "stems": list(frames),
            }
            if lists:
                (root / f"{folder}.txt").write_text("\n".join(lines[lists]) + "\n", encoding="utf-8")
        return root

    return make


@pytest.fixture
def label_array():
    """The label of a sample as an array."""
    return lambda sample: np.asarray(sample["label"])


@pytest.fixture
def photos(tmp_path, write_image, write_mask):
    """A folder of own data: two pairs."""
    for stem in ("a", "b"):
        write_image(tmp_path / "photos/images" / f"{stem}.jpg")
        write_mask(tmp_path / "photos/masks" / f"{stem}.png", [0, 1])
    return tmp_path / "photos"
