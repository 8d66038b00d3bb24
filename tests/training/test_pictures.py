"""The small pictures of validation images."""

import numpy as np
import pytest

from cmdl_hf.data import SegmentationDataset, load_synthetic
from cmdl_hf.training import CMDLTrainingArguments
from cmdl_hf.training.pictures import paint_validation


@pytest.mark.parametrize(("count", "pictures"), [(3, 2), (1, 1)])
def test_first_and_middle_image_stand_beside_labels_and_prediction(make_model, count, pictures):
    scenes = load_synthetic(1, count, 0, size=(64, 96), num_labels=5)
    dataset = SegmentationDataset({"validation": scenes["validation"]}, scenes.label_table)
    model = make_model().train()
    found = paint_validation(model, dataset, CMDLTrainingArguments(num_workers=0))
    assert model.training
    assert len(found) == pictures
    for picture, index in zip(found, (0, count // 2), strict=False):
        assert (picture.dtype, picture.shape) == (np.uint8, (64 + 18, 3 * 96 + 2 * 6, 3))
        image, labels, prediction = (picture[18:, left : left + 96] for left in (0, 102, 204))
        assert np.array_equal(image, np.asarray(scenes["validation"][index]["image"]))
        assert not np.array_equal(labels, image)
        assert not np.array_equal(labels, prediction)


def test_large_images_are_made_small(make_model):
    scenes = load_synthetic(1, 1, 0, size=(720, 960), num_labels=5)
    (picture,) = paint_validation(make_model(), scenes, CMDLTrainingArguments(num_workers=0))
    assert picture.shape == (360 + 18, 3 * 480 + 2 * 6, 3)
