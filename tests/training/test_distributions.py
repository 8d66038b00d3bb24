import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.testing import CompileCounter

from cmdl_hf.data import EvalTransform, load_synthetic
from cmdl_hf.diagnostics import of_own_class, posterior_entropy
from cmdl_hf.explore import labels_on
from cmdl_hf.training import CMDLTrainingArguments
from cmdl_hf.training.distributions import compare_validation

ARGS = CMDLTrainingArguments()


@pytest.fixture(scope="module")
def scenes():
    return load_synthetic(num_train=4, num_validation=3, num_test=1, size=(64, 64), num_labels=5)


def test_the_figures_are_of_all_labelled_pixels_of_the_validation_images(make_model, scenes):
    model = make_model().train()
    figures = compare_validation(model, scenes, ARGS)
    assert model.training
    assert 0 < figures["agreement"] <= 1
    assert 0 < figures["chance_agreement"] <= 1
    own = []
    for row in scenes["validation"]:
        pixel_values = EvalTransform()({"image": [row["image"]], "label": [None]})["pixel_values"][0]
        with torch.no_grad():
            output = model.eval()(pixel_values[None], output_distributions=True)
        labels = labels_on(np.array(row["label"]), output.distribution_ids.shape[1:])
        is_labelled = labels < 5
        own.append(of_own_class(output.similarity[is_labelled], labels[is_labelled]))
    expected = posterior_entropy(torch.cat(own), model.config.voting_temperature)
    assert figures["posterior_entropy"] == pytest.approx(expected.item(), abs=1e-5)


def test_a_compiled_model_is_not_translated_for_it(make_model, scenes):
    model, counter = make_model(), CompileCounter()
    model.compile(backend=counter)
    assert compare_validation(model, scenes, ARGS)
    assert counter.frame_count == 0


def test_an_image_that_equals_its_copy_agrees_with_it(make_model):
    rows = [{"id": "black", "image": Image.new("RGB", (64, 64)), "label": Image.new("L", (64, 64))}]
    assert compare_validation(make_model(), {"validation": rows}, ARGS)["agreement"] == 1


def test_nothing_is_measured_where_there_is_nothing(make_model, scenes):
    assert compare_validation(make_model(num_distributions=1), scenes, ARGS) == {}
    void = [{"id": "void", "image": Image.new("RGB", (64, 64)), "label": Image.new("L", (64, 64), 255)}]
    assert compare_validation(make_model(), {"validation": void}, ARGS) == {}
