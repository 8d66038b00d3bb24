"""What is found out about segmenters that are not ours, and which of them are refused."""

import copy
import json
import pickle
import re
import sys

import pytest
import torch
from segmenters import NUM_LABELS, ZOO, SmallSegmenter, segformer, smp_model, torchvision_model
from torch import nn

from cmdl_hf import CMDLAdapter
from cmdl_hf.models import find_logits
from cmdl_hf.models.segmenter_cmdl import build_segmenter, describe_segmenter, find_classifier


def hooks_of(model):
    return {name: len(m._forward_hooks) for name, m in model.named_modules() if m._forward_hooks}


class TestFindingTheClassifier:
    def test_leaves_no_marks(self):
        segmenter = segformer().train()
        segmenter.segformer.eval()
        segmenter.segformer.requires_grad_(False)
        modes = [module.training for module in segmenter.modules()]
        learns = [parameter.requires_grad for parameter in segmenter.parameters()]
        before = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
        numbers = torch.get_rng_state()
        assert find_classifier(segmenter) == "decode_head.classifier"
        assert torch.equal(torch.get_rng_state(), numbers)
        assert [module.training for module in segmenter.modules()] == modes
        assert [parameter.requires_grad for parameter in segmenter.parameters()] == learns
        assert all(parameter.grad is None for parameter in segmenter.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in segmenter.state_dict().items())
        assert hooks_of(segmenter) == {}

    def test_works_where_everything_is_frozen_and_gradients_are_off(self):
        segmenter = SmallSegmenter().requires_grad_(False)
        with torch.no_grad():
            assert find_classifier(segmenter) == "classifier"

    def test_takes_the_last_of_the_convolutions_that_could_be_it(self):
        segmenter = SmallSegmenter(hidden_size=NUM_LABELS)
        assert find_classifier(segmenter) == "classifier"

    def test_ignores_auxiliary_classifiers_that_run_later(self):
        assert find_classifier(SmallSegmenter(has_auxiliary=True)) == "classifier"

    def test_knows_the_number_of_channels_and_the_size_that_a_model_takes(self):
        segmenter = smp_model("FPN", in_channels=5)
        assert find_classifier(segmenter, NUM_LABELS) == "segmentation_head.0"
        assert find_classifier(ZOO["transformers BEiT"].make()) == "decode_head.classifier"

    def test_number_of_classes_must_fit(self):
        with pytest.raises(ValueError, match=r"num_labels=7, but SmallSegmenter gives scores of 5 classes"):
            find_classifier(SmallSegmenter(), 7)

    def test_other_sizes_are_tried_where_one_does_not_do(self):
        import segmentation_models_pytorch as smp

        fixed = smp.DPT("tu-vit_tiny_patch16_224.augreg_in21k", encoder_weights=None, classes=NUM_LABELS)
        assert find_classifier(fixed) == "segmentation_head.head.4"
        assert find_classifier(smp.PAN("resnet18", encoder_weights=None, classes=NUM_LABELS)) == "segmentation_head.0"

    def test_a_model_that_cannot_be_run_blindly_works_once_the_classifier_is_named(self):
        class Picky(SmallSegmenter):
            def forward(self, images):
                if images.shape[-1] != 96:
                    raise RuntimeError("the width must be 96")
                return super().forward(images)

        message = (
            r"Picky could not be run .*width must be 96\); name it with classifier=..., such as one of classifier$"
        )
        with pytest.raises(ValueError, match=message):
            CMDLAdapter(Picky(), num_labels=NUM_LABELS)
        with pytest.raises(ValueError, match=r"such as one of features\.0, features\.3, classifier$"):
            CMDLAdapter(Picky())
        model = CMDLAdapter(Picky(), "classifier").eval()
        with torch.no_grad():
            assert model(torch.randn(1, 3, 64, 96)).shape == (1, NUM_LABELS, 64, 96)

    def test_scores_under_a_name_of_their_own_need_the_classifier_named(self):
        class Depth(SmallSegmenter):
            def forward(self, images):
                return {"scores": super().forward(images), "depth": images.mean(dim=1)}

        with pytest.raises(
            ValueError, match=r"it returns scores, depth, and no logits .*; name it with classifier=\.\.\."
        ):
            CMDLAdapter(Depth())
        assert CMDLAdapter(Depth(), "classifier").eval()(torch.randn(1, 3, 64, 64)).keys() == {"scores", "depth"}


class LinearSegmenter(nn.Module):
    """Scores pixels with a linear layer."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, padding=1)
        self.classifier = nn.Linear(8, NUM_LABELS)

    def forward(self, images):
        return self.classifier(self.features(images).movedim(1, -1)).movedim(-1, 1)


class WithoutGradient(SmallSegmenter):
    def forward(self, images):
        with torch.no_grad():
            return super().forward(images)


def on_meta(name, **settings):
    import transformers

    kind = getattr(transformers, name)
    with torch.device("meta"):
        return kind(kind.config_class(**settings))


def image_classifier():
    from torchvision.models import resnet18

    return resnet18(weights=None, num_classes=NUM_LABELS)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: on_meta("Mask2FormerForUniversalSegmentation"), "it classifies masks of queries"),
        (lambda: on_meta("MaskFormerForInstanceSegmentation"), "it classifies masks of queries"),
        (lambda: on_meta("OneFormerForUniversalSegmentation"), "it classifies masks of queries"),
        (lambda: on_meta("EomtForUniversalSegmentation"), "it classifies masks of queries"),
        (image_classifier, "it returns Tensor, and no logits"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3, 5)), "it has no convolutions"),
        (LinearSegmenter, "no convolution with 5 outputs leads to its scores"),
        (WithoutGradient, "no convolution with 5 outputs leads to its scores"),
        (
            lambda: torchvision_model("lraspp_mobilenet_v3_large"),
            r"several classifiers, classifier\.low_classifier, classifier\.high_classifier, .*take a segmenter with",
        ),
    ],
    ids=["Mask2Former", "MaskFormer", "OneFormer", "EoMT", "classifier", "no conv", "linear", "no grad", "LRASPP"],
)
def test_models_that_cannot_take_it_are_told_why(make, reason):
    segmenter = make()
    with pytest.raises(ValueError, match=reason) as error:
        CMDLAdapter(segmenter, num_labels=NUM_LABELS)
    assert type(segmenter).__name__ in str(error.value)
    assert re.search("take a segmenter with|its final layer must be a Conv2d", str(error.value))


def test_mask_classification_is_refused_by_name_too_and_inside_other_modules():
    segmenter = nn.ModuleDict({"model": on_meta("MaskFormerForInstanceSegmentation")})
    with pytest.raises(ValueError, match="added to MaskFormerForInstanceSegmentation: it classifies masks of queries"):
        CMDLAdapter(segmenter, classifier="model.model.pixel_level_module.decoder.mask_projection")


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"segmenter must be a torch\.nn\.Module, got str"):
        CMDLAdapter("nvidia/segformer")


class TestFindingLogits:
    @pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"out": x}, lambda x: {"loss": 0, "logits": x}, tuple])
    def test_in_tensors_mappings_and_tuples(self, wrap):
        logits = torch.zeros(1, 5, 2, 3)
        output = (logits, None) if wrap is tuple else wrap(logits)
        assert find_logits(output) is logits

    @pytest.mark.parametrize(
        ("output", "found"), [({"masks": 1, "scores": 2}, "masks, scores"), (torch.zeros(1, 5), "Tensor"), (3, "int")]
    )
    def test_says_what_there_is_instead(self, output, found):
        with pytest.raises(ValueError, match=f"it returns {found}, and no logits"):
            find_logits(output)


class TestBuildingAgain:
    @pytest.mark.parametrize("name", [name for name in ZOO if not name.startswith("torchvision")])
    def test_from_what_is_written_down(self, name):
        segmenter = ZOO[name].make()
        again = build_segmenter(json.loads(json.dumps(describe_segmenter(segmenter))))
        assert type(again) is type(segmenter)
        assert str(again) == str(segmenter)
        again.load_state_dict(segmenter.state_dict())

    @pytest.mark.parametrize("change", ["activation", "classifier", "low ranks"])
    def test_what_was_changed_after_it_was_built_does_not_pass_as_what_its_library_makes(self, change):
        # The configuration of smp leaves an activation out that is no string.
        segmenter = smp_model("FPN", activation=nn.Softmax2d) if change == "activation" else segformer()
        if change == "classifier":
            segmenter.decode_head.classifier = nn.Conv2d(32, 7, 1)
        if change == "low ranks":
            peft = pytest.importorskip("peft")
            peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q_proj"]), segmenter)
        with pytest.raises(ValueError, match=r"was changed after it was built; build one yourself"):
            build_segmenter(describe_segmenter(segmenter))

    def test_a_description_draws_no_numbers_and_knows_synchronised_norms(self):
        segmenter = nn.SyncBatchNorm.convert_sync_batchnorm(smp_model("FPN"))
        state = torch.get_rng_state()
        assert describe_segmenter(segmenter)["library"] == "segmentation_models_pytorch"
        assert torch.equal(torch.get_rng_state(), state)

    def test_downloads_no_weights(self):
        segmenter = smp_model("FPN")
        segmenter.config["encoder_weights"] = "imagenet"  # as one that began with those
        assert describe_segmenter(segmenter)["config"]["encoder_weights"] is None

    def test_others_must_be_given(self):
        spec = describe_segmenter(SmallSegmenter())
        with pytest.raises(ValueError, match=r"segmenters.SmallSegmenter, .*build one yourself.*segmenter=\.\.\."):
            build_segmenter(spec)

    @pytest.mark.parametrize("library", ["this", "os", "transformers.pipelines", None])
    def test_imports_no_other_library_that_a_file_names(self, library):
        sys.modules.pop("this", None)
        with pytest.raises(ValueError, match="which cannot be rebuilt from its configuration"):
            build_segmenter({"class": "a.B", "library": library, "name": "s", "config": {}})
        assert "this" not in sys.modules

    @pytest.mark.parametrize("name", ["pipeline", "TrainingArguments", "NoSuchModel", "__name__"])
    def test_makes_nothing_but_models(self, name):
        with pytest.raises(
            ValueError,
            match=f"a {name} of transformers, which the installed version does not|'{name}' is no name of a class",
        ):
            build_segmenter({"library": "transformers", "name": name, "config": {"output_dir": "run"}})


def test_a_model_looked_at_is_copied_and_pickled_as_before():
    segmenter = segformer().eval()
    model = CMDLAdapter(segmenter)
    assert model.remove() is segmenter
    assert hooks_of(segmenter) == {}
    copies = [copy.deepcopy(segmenter), pickle.loads(pickle.dumps(segmenter))]
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = segmenter(images).logits
        for other in copies:
            assert torch.equal(other(images).logits, expected)
