"""Digests of splits: they follow what the files hold, not their places and times."""

import os
import shutil

import pytest

from cmdl_hf.data import content_digest, ids_digest, load_folder, load_synthetic

NAMES = ["leaf", "root"]


def _digests(folder, cache_dir):
    rows = load_folder(folder, NAMES, cache_dir=cache_dir)["train"]
    return ids_digest(rows), content_digest(rows)


def test_place_and_time_of_the_files_do_not_matter(photos, cache_dir, tmp_path):
    first = _digests(photos, cache_dir)
    shutil.copytree(photos, tmp_path / "elsewhere")
    os.utime(tmp_path / "elsewhere/masks/a.png", (1, 1))
    assert _digests(tmp_path / "elsewhere", cache_dir) == first


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_another_file_under_the_same_name_is_seen(photos, cache_dir, write_image, write_mask, kind):
    ids, content = _digests(photos, cache_dir)
    if kind == "mask":
        write_mask(photos / "masks/b.png", [1, 0])
    else:
        write_image(photos / "images/b.jpg", quality=50)
    found = _digests(photos, cache_dir)
    assert found[0] == ids
    assert found[1] != content


@pytest.mark.parametrize("place", [0, 15_000, 29_999])
def test_an_image_of_the_same_size_is_seen_by_its_blocks(photos, cache_dir, tmp_path, write_image, write_mask, place):
    for stem in ("a", "b"):
        (photos / "images" / f"{stem}.jpg").unlink()
        write_image(photos / "images" / f"{stem}.bmp", size=(100, 100))
        write_mask(photos / "masks" / f"{stem}.png", [0], size=(100, 100))
    rows = load_folder(photos, NAMES, cache_dir=cache_dir)["train"]
    before = content_digest(rows)
    path = photos / "images/a.bmp"
    content = bytearray(path.read_bytes())
    content[54 + place] ^= 255
    path.write_bytes(content)
    assert content_digest(rows) != before


def test_images_in_memory_and_transforms(cache_dir):
    scenes = [load_synthetic(2, 1, 1, size=(32, 32), num_labels=3, seed=seed)["train"] for seed in (0, 0, 1)]
    first, same, other = map(content_digest, scenes)
    assert first == same != other
    assert content_digest(scenes[0].with_transform(lambda _: {})) == first
