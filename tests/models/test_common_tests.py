"""transformers' own common tests of models and configurations, on every framework with and without CMDL."""

import subprocess
import sys
import unittest

import common_tests
import pytest
import torch
from tiny_models import CONTEXT_MODULES, LIVE_AGGREGATION

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation

CANNOT_PASS = {
    "test_model_get_set_embeddings": "it wants an nn.Embedding of tokens; a backbone embeds patches, by convolutions",
}
CANNOT_PASS_WITH_CMDL = {
    "test_init_weights_can_init_buffers": "it wants buffers without randomness; prototypes start at random",
}


BACKBONE = {
    "model_type": "pvt_v2",
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "image_size": 64,
}
"""A backbone of transformers whose layers have activation checkpointing, and whose hidden states lead to its maps."""


class ModelTester:
    """What transformers' mixin asks of a model: a small configuration, inputs for it, and their sizes."""

    is_training = True
    batch_size = 2
    num_hidden_layers = 1  # in each of the backbone's four stages, which give a hidden state each
    expected_num_hidden_layers = 4
    seq_length = hidden_size = 16  # height and width of the first

    def __init__(self, context_module, use_distributions):
        self.settings = {
            "num_distributions": 3,
            "hidden_size": 16,
            "attention_size": 8,
            "aspp_dilations": [1, 2, 3],
            "pool_scales": [1, 2],
            "context_module": context_module,
            "use_distributions": use_distributions,
            **LIVE_AGGREGATION,
        }

    def get_config(self):
        used = [0, 1, 2, 3] if self.settings["context_module"] == "upernet" else [2, 3]
        return CMDLConfig(backbone_config=BACKBONE | {"out_indices": used}, num_labels=5, **self.settings)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": torch.randn(self.batch_size, 3, 64, 64)}


def make_case(config, context_module, use_distributions):
    """Make the test case of one network."""
    modeling, configuration = common_tests.import_common_tests(config)

    class ModelTest(modeling.ModelTesterMixin, unittest.TestCase):
        all_model_classes = (CMDLForSemanticSegmentation,)
        has_attentions = False
        test_resize_embeddings = False
        test_can_init_all_missing_weights_before_2023 = True

        def setUp(self):
            torch.manual_seed(0)
            self.model_tester = ModelTester(context_module, use_distributions)
            self.config_tester = configuration.ConfigTester(
                self, CMDLConfig, has_text_modality=False, **self.model_tester.settings
            )

        def test_config(self):
            self.config_tester.run_common_tests()

        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
            if return_labels:
                inputs["labels"] = torch.zeros(len(inputs["pixel_values"]), 64, 64, dtype=torch.int64)
            return inputs

    return ModelTest


@pytest.mark.slow
@pytest.mark.parametrize("use_distributions", [True, False], ids=["CMDL", "plain"])
@pytest.mark.parametrize("context_module", CONTEXT_MODULES)
def test_all_pass_but_those_that_cannot(capsys, pytestconfig, context_module, use_distributions):
    outcomes = common_tests.run_tests(make_case(pytestconfig, context_module, use_distributions))
    counts = {name: len(getattr(outcomes, name)) for name in ("passed", "skipped", "failed")}
    with capsys.disabled():
        sys.stdout.write(f"\n  {', '.join(f'{count} {name}' for name, count in counts.items())}\n")
    expected = CANNOT_PASS | (CANNOT_PASS_WITH_CMDL if use_distributions else {})
    failed = outcomes.failed
    assert failed.keys() == expected.keys(), "\n".join(failed[name] for name in failed.keys() - expected.keys())
    assert counts["passed"] > 60, outcomes.reasons  # most of the others are for attention or for words


@pytest.mark.parametrize(
    "error", [subprocess.CalledProcessError(1, "pip", stderr="ERROR: no network\n"), OSError("no pip")]
)
def test_they_are_skipped_where_pip_cannot_fetch_them(monkeypatch, tmp_path, pytestconfig, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setitem(sys.modules, "parameterized", pytest)  # any module
    monkeypatch.setattr(common_tests, "CACHE", tmp_path)
    monkeypatch.setattr(common_tests.subprocess, "run", fail)
    with pytest.raises(
        pytest.skip.Exception, match=r"pip cannot fetch .* of transformers==.*: (ERROR: no network|no pip)"
    ):
        common_tests.import_common_tests(pytestconfig)
    assert not list(tmp_path.iterdir())
