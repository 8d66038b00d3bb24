import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import SwinConfig, TimmBackboneConfig

from cmdl_hf import CMDLConfig


def test_defaults_are_those_of_the_paper():
    config = CMDLConfig(num_labels=19)
    assert (config.hidden_size, config.attention_size, config.num_distributions) == (512, 256, 9)
    assert config.backbone_config.backbone == "resnet50"
    assert config.backbone_config.output_stride == 8
    assert config.context_module == "none"
    assert config.use_distributions


def test_round_trip_through_a_folder(tmp_path):
    config = CMDLConfig(
        id2label={0: "road", 1: "car", 2: "sky"},
        palette=[[0, 0, 0], [255, 0, 0], [0, 0, 255]],
        context_module="ppm",
        pool_scales=(1, 2),
        backbone_kwargs={"pad_type": "same"},
        contrastive_loss_weight=0.0,
        class_weights=[1, 2.5, 0],
        ohem_threshold=0.7,
        ohem_min_kept=1000,
    )
    config.save_pretrained(tmp_path)
    loaded = CMDLConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict() | {"pool_scales": [1, 2], "aspp_dilations": [1, 12, 24, 36]} | {
        key: loaded.to_dict()[key] for key in ("architectures", "transformers_version") if key in loaded.to_dict()
    }
    assert loaded.id2label == {0: "road", 1: "car", 2: "sky"}
    assert loaded.palette == [[0, 0, 0], [255, 0, 0], [0, 0, 255]]
    assert loaded.backbone_config.out_indices == [1, 2, 3, 4]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "cmdl"


@pytest.mark.parametrize(
    "backbone_config",
    [
        {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [3, 4]},
        {"backbone": "resnet18", "out_indices": [3, 4]},
        TimmBackboneConfig(backbone="resnet18", out_indices=[3, 4]),
        SwinConfig(out_indices=[3, 4]),
    ],
)
def test_backbone_config_may_be_a_dict_or_any_backbone_configuration(backbone_config):
    assert CMDLConfig(backbone_config=backbone_config).backbone_config.out_indices == [3, 4]


def test_preset_reference_changes_what_the_reference_does_otherwise():
    config = CMDLConfig.from_preset("reference", num_labels=150, assignment="argmax")
    assert config.assignment == "argmax"  # an override wins
    assert CMDLConfig.from_preset("reference").assignment == "reference"
    assert config.memory_momentum_warmup == 0
    assert config.memory_init == "reference"
    assert config.use_class_margin_reference
    assert not config.use_memory_fallback
    assert (config.contrastive_loss_weight, config.contrastive_temperature) == (0.05, 1.0)
    assert config.layer_scale_init_value is None
    assert CMDLConfig().layer_scale_init_value == 0
    with pytest.raises(ValueError, match="known presets: reference"):
        CMDLConfig.from_preset("paper")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "512"}, "hidden_size"),
        ({"hidden_size": 4, "context_module": "criss_cross"}, "hidden_size"),
        ({"attention_size": 0}, "attention_size"),
        ({"num_distributions": 0}, "num_distributions"),
        ({"num_labels": 1}, "num_labels"),
        ({"id2label": {1: "a", 2: "b"}}, "id2label"),
        ({"context_module": "psp"}, "context_module"),
        ({"pool_scales": []}, "pool_scales"),
        ({"aspp_dilations": [0, 6]}, "aspp_dilations"),
        ({"criss_cross_recurrence": 0}, "criss_cross_recurrence"),
        ({"dropout": 1.0}, "dropout"),
        ({"memory_momentum": 1.0}, "memory_momentum"),
        ({"memory_momentum_warmup": -1}, "memory_momentum_warmup"),
        ({"memory_init": "zeros"}, "memory_init"),
        ({"assignment": "hard"}, "assignment"),
        ({"contrastive_loss_weight": -0.1}, "contrastive_loss_weight"),
        ({"contrastive_loss_weight": float("nan")}, "contrastive_loss_weight"),
        ({"contrastive_temperature": 0.0}, "contrastive_temperature"),
        ({"layer_scale_init_value": float("inf")}, "layer_scale_init_value must be finite"),
        ({"sinkhorn_epsilon": 0.01}, "sinkhorn_epsilon"),
        ({"sinkhorn_iterations": 0}, "sinkhorn_iterations"),
        ({"semantic_loss_ignore_index": 1}, "semantic_loss_ignore_index"),
        ({"num_labels": 300}, "semantic_loss_ignore_index"),
        ({"palette": [[0, 0, 0]]}, "palette"),
        ({"palette": [[0, 0, 0], [0, 0, 256]]}, "palette"),
        ({"class_weights": [1.0]}, "class_weights has 1 entries for num_labels=2"),
        ({"class_weights": [1.0, -1.0]}, "class_weights must be finite, 0 or more"),
        ({"class_weights": [1.0, float("nan")]}, "class_weights must be finite"),
        ({"class_weights": [1.0, float("inf")]}, "class_weights must be finite"),
        ({"class_weights": [0.0, 0.0]}, "class_weights .* not all 0"),
        ({"class_weights": 2.0}, "class_weights"),
        ({"ohem_threshold": 0.0}, "ohem_threshold"),
        ({"ohem_threshold": 1.5}, "ohem_threshold"),
        ({"ohem_min_kept": 0}, "ohem_min_kept"),
        ({"context_module": "upernet", "backbone_config": {"backbone": "resnet18", "out_indices": [3, 4]}}, "upernet"),
        ({"backbone_config": {"backbone": "resnet18", "out_indices": [4]}}, "out_indices"),
        ({"backbone_config": {"model_type": "resnet_50"}}, "backbone_config"),
        (
            {"backbone_config": SwinConfig(out_indices=[3, 4]), "backbone_kwargs": {"pad_type": "same"}},
            "backbone_kwargs",
        ),
        ({"segmentation_loss_weight": 0, "use_distributions": False, "use_auxiliary_head": False}, "loss_weight"),
        ({"num_distribution": 3}, "did you mean num_distributions"),
        ({"backbone": "resnet50"}, "backbone_config"),
        ({"preset": "reference"}, "from_preset"),
        ({"num_classes": 19}, "num_labels"),
        ({"ignore_index": 0}, "semantic_loss_ignore_index"),
    ],
)
def test_impossible_values_are_refused_with_the_name_of_the_field(settings, named):
    with pytest.raises(Exception, match=named):
        CMDLConfig(**settings)


def test_an_impossible_value_set_later_is_refused_when_saving(tmp_path):
    config = CMDLConfig()
    config.dropout = 2.0
    with pytest.raises(Exception, match="dropout"):
        config.save_pretrained(tmp_path)


def test_class_weights_that_no_longer_fit_go_but_wrong_ones_are_refused(tmp_path):
    CMDLConfig(num_labels=3, class_weights=[1.0, 2.0, 3.0]).save_pretrained(tmp_path)
    assert CMDLConfig.from_pretrained(tmp_path).class_weights == [1.0, 2.0, 3.0]
    assert CMDLConfig.from_pretrained(tmp_path, num_labels=3).class_weights == [1.0, 2.0, 3.0]
    assert CMDLConfig.from_pretrained(tmp_path, num_labels=2).class_weights is None
    assert CMDLConfig.from_pretrained(tmp_path, num_labels=2, class_weights=[1, 2]).class_weights == [1, 2]
    for wrong in ({"num_labels": 2, "class_weights": [1.0, 2.0, 3.0]}, {"class_weights": [1.0, 2.0]}):
        with pytest.raises(Exception, match="class_weights has"):
            CMDLConfig.from_pretrained(tmp_path, **wrong)


@pytest.mark.parametrize(("num_labels", "cure"), [(19, "such as 255"), (300, "such as -100")])
def test_the_cure_for_a_void_value_that_is_a_class_is_no_class(num_labels, cure):
    with pytest.raises(StrictDataclassError, match=cure):
        CMDLConfig(num_labels=num_labels, semantic_loss_ignore_index=7)
