"""A value that an option has gained, but that the code does not know yet, ends in an error, not in another value."""

import pytest
import torch

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.models import CMDLDistributionLearning, CMDLMemoryBank


@pytest.mark.parametrize("name", ["voting", "memory_init", "context_module"])
def test_of_the_configuration(make_config, name):
    config = make_config()
    object.__setattr__(config, name, "new")  # past the check of the configuration
    with pytest.raises((AssertionError, ValueError), match="'new'"):
        CMDLForSemanticSegmentation(config)


def test_of_the_contrast():
    learning = CMDLDistributionLearning(5, 8, contrast_target="new")
    with pytest.raises(AssertionError, match="'new'"):
        learning(torch.randn(1, 8, 2, 2), torch.zeros(1, 8, 8, dtype=torch.int64), CMDLMemoryBank(5, 2, 8))


def test_of_the_assignment():
    bank = CMDLMemoryBank(5, 2, 8)
    bank.assignment = "new"
    pixels, labels = torch.nn.functional.normalize(torch.randn(6, 8), dim=1), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(AssertionError, match="'new'"):
        bank(pixels, bank.similarity(pixels), labels, labels == 0)
