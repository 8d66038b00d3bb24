"""Class maps with confidence, in pieces and as a whole."""

import pytest
import torch
import torch.nn.functional as F

from cmdl_hf.inference import class_map, class_map_with_confidence, class_maps


@pytest.mark.parametrize("piece", [2**20, 2000], ids=["whole", "in pieces"])
@pytest.mark.parametrize("size", [(60, 70), (5, 6), (16, 20)])
def test_ids_are_those_of_class_map_and_confidence_is_the_softmax(monkeypatch, piece, size):
    monkeypatch.setitem(class_maps._PIECE, "cpu", piece)
    logits = 4 * torch.randn(2, 6, 16, 20)
    ids, confidence = class_map_with_confidence(logits, size)
    assert torch.equal(ids, class_map(logits, size))
    enlarged = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(confidence, enlarged.softmax(dim=1).amax(dim=1))


def test_probabilities_are_taken_as_they_are():
    probabilities = torch.rand(1, 3, 8, 8).softmax(dim=1)
    _, confidence = class_map_with_confidence(probabilities, (8, 8), is_probability=True)
    assert torch.equal(confidence, probabilities.amax(dim=1))
