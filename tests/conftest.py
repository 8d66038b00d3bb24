"""Shared fixtures: small models, a CUDA device, and the data beside the checkout where there is some.

The tests mean the CPU: they compare bits with figures and with one another. A CUDA device is hidden from them and from
the processes that they start. With `CMDL_TEST_CUDA=1` it is not, and only the tests with the fixture `cuda` run.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
# Read when torch is imported, in processes that tests start, too: for models this small one thread is the fastest.
os.environ["OMP_NUM_THREADS"] = "1"
if os.environ.get("CMDL_TEST_CUDA") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported: its kernels then run on the CPU

from tiny_models import LIVE_AGGREGATION, TINY_BACKBONE

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation

TESTS_CUDA = os.environ.get("CMDL_TEST_CUDA") == "1"
SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_collection_modifyitems(config, items):
    """Leave the tests that mean the CPU to a run in which CUDA devices are hidden."""
    if TESTS_CUDA:
        config.hook.pytest_deselected(items=[item for item in items if "cuda" not in item.fixturenames])
        items[:] = [item for item in items if "cuda" in item.fixturenames]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def cuda():
    """A CUDA device; a test without one is skipped."""
    if not TESTS_CUDA:
        pytest.skip("needs a CUDA device: set CMDL_TEST_CUDA=1, or run make test-cuda")
    if not torch.cuda.is_available():
        pytest.skip("CMDL_TEST_CUDA=1, but torch finds no CUDA device")
    return torch.device("cuda")


@pytest.fixture
def make_config():
    """Build a tiny CMDLConfig; keywords override."""

    def make(**overrides):
        settings = {
            "backbone_config": dict(TINY_BACKBONE),
            "num_labels": 5,
            "num_distributions": 3,
            "hidden_size": 16,
            "attention_size": 8,
            "aspp_dilations": (1, 2, 3),
            **LIVE_AGGREGATION,
        }
        return CMDLConfig(**(settings | overrides))

    return make


@pytest.fixture
def make_model(make_config):
    """Build a tiny model; keywords override its config."""
    return lambda **overrides: CMDLForSemanticSegmentation(make_config(**overrides))


@pytest.fixture
def make_batch():
    """Random images and labels with some ignored pixels."""

    def make(batch_size=2, height=64, width=96, num_labels=5, ignore_index=255):
        labels = torch.randint(0, num_labels, (batch_size, height // 32, width // 32))
        labels = labels.repeat_interleave(32, 1).repeat_interleave(32, 2)
        labels[:, :4] = ignore_index
        return torch.randn(batch_size, 3, height, width), labels

    return make


@pytest.fixture
def shared_dir():
    """Folder with real data and reference figures beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the checkout")
    return SHARED
