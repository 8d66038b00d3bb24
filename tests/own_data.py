"""Data of one's own, in a folder."""

import numpy as np
from PIL import Image

from cmdl_hf.data import load_synthetic


def write_own_data(folder):
    """Write images, masks and the names of three classes; returns the names by id."""
    scenes = load_synthetic(num_train=6, num_validation=2, num_test=0, size=(64, 64), num_labels=3)
    for split, name in (("train", "train"), ("validation", "val")):
        for kind, column in (("images", "image"), ("masks", "label")):
            (folder / kind / name).mkdir(parents=True)
            for sample in scenes[split]:
                sample[column].save(folder / kind / name / f"{sample['id']}.png")
    (folder / "classes.txt").write_text("\n".join(scenes.id2label.values()))
    return scenes.id2label


def write_flat_data(folder):
    """Write ten small images whose colour tells the class, flat in `own`, and `classes.txt` with three classes."""
    for kind in ("images", "masks"):
        (folder / "own" / kind).mkdir(parents=True)
    for index in range(10):
        ids = np.random.default_rng(index).integers(0, 3, (32, 32), dtype=np.uint8)
        Image.fromarray(ids).save(folder / f"own/masks/{index}.png")
        Image.fromarray(np.stack([80 * ids] * 3, axis=-1)).save(folder / f"own/images/{index}.png")
    (folder / "classes.txt").write_text("ground\nleaf\nroot\n")
