"""What CMDL computes on a segmenter that is not ours, and that the segmenter stays what it was."""

import copy
import logging
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.errors import StrictDataclassError
from segmenters import NUM_LABELS, ZOO, SmallSegmenter, enlarge, segformer, small_fcn, smp_model
from tiny_models import LIVE_AGGREGATION
from torch import nn

from cmdl_hf import CMDLAdapter, CMDLSemanticSegmenterOutput
from cmdl_hf.models import find_logits
from cmdl_hf.models.cross_entropy_cmdl import hard_pixels
from cmdl_hf.training import CMDLTrainingArguments
from cmdl_hf.training.optimization import make_optimizer, prepare_batch_norms

LOSSES = {"segmentation_loss", "coarse_loss", "prototype_loss", "contrastive_loss", "class_margin_loss"}


@pytest.fixture
def batch(make_batch):
    return make_batch(2, 64, 64, NUM_LABELS)


def adapt(segmenter, classifier="classifier", **options):
    return CMDLAdapter(segmenter, classifier, NUM_LABELS, **({"num_distributions": 3} | LIVE_AGGREGATION | options))


def run(model, *args, **kwargs):
    model.eval()
    with torch.no_grad():
        return model(*args, **kwargs)


def items(output):
    return output.items() if hasattr(output, "items") else {"": output}.items()


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same_state(module, before):
    assert module.state_dict().keys() == before.keys()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def own_loss(segmenter, pixel_values, labels):
    """The loss that those who made the segmenter would train it with."""
    if type(segmenter).__module__.startswith("transformers."):
        return segmenter(pixel_values, labels=labels).loss
    scores = [scores for _, scores in items(segmenter(pixel_values))]
    return sum(F.cross_entropy(each, labels, ignore_index=255) for each in scores)


@pytest.mark.parametrize("name", ZOO)
class TestEverySegmenter:
    def test_trains(self, name, batch, caplog):
        segmenter = ZOO[name].make()
        plain = copy.deepcopy(segmenter)
        own_loss(plain, *batch).backward()
        reached = {f"segmenter.{name}" for name, p in plain.named_parameters() if p.grad is not None}
        assert reached
        with caplog.at_level(logging.WARNING):
            model = CMDLAdapter(segmenter, num_distributions=3)
        assert f"{type(segmenter).__name__}: the final classifier seems to be {ZOO[name].classifier!r}" in caplog.text

        prototypes = model.memory_bank.read()
        output = model.train()(*batch[:1], labels=batch[1])
        assert isinstance(output, CMDLSemanticSegmenterOutput)
        assert output.loss_dict.keys() == LOSSES | ({"auxiliary_loss"} if ZOO[name].has_auxiliary else set())
        assert output.loss.isfinite()
        torch.testing.assert_close(output.loss, sum(output.loss_dict.values()))
        output.loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        added = {name for name, _ in model.named_parameters() if not name.startswith("segmenter.")}
        assert gradients.keys() == reached | added
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        assert not torch.equal(model.memory_bank.prototypes, prototypes)
        assert model.memory_bank.num_updates.sum() > 0

    def test_returns_what_the_segmenter_does_and_leaves_it_as_it_was(self, name, batch):
        pixel_values, labels = batch
        segmenter = ZOO[name].make().eval()
        scores = []
        handle = segmenter.get_submodule(ZOO[name].classifier).register_forward_hook(
            lambda *args: scores.append(args[2])
        )
        own = run(segmenter, pixel_values)
        handle.remove()
        before = snapshot(segmenter)

        model = CMDLAdapter(segmenter, num_distributions=3)
        assert model.classifier_name == ZOO[name].classifier
        better = run(model, pixel_values)
        assert type(better) is type(own)
        assert [key for key, _ in items(better)] == [key for key, _ in items(own)]
        for (key, value), (_, expected) in zip(items(better), items(own), strict=True):
            assert value.shape == expected.shape, key
            assert value.dtype == expected.dtype, key
        assert not torch.allclose(find_logits(better), find_logits(own), atol=1e-2)

        output = run(model, pixel_values, labels=labels)
        assert torch.equal(output.coarse_logits, scores[0])
        assert output.logits.shape == scores[0].shape
        for _ in range(2):  # around the removal
            again = run(segmenter, pixel_values)
            assert all(torch.equal(value, dict(items(own))[key]) for key, value in items(again))
            assert model.remove() is segmenter
        assert_same_state(segmenter, before)


class TestWithoutTraces:
    def test_wrapping_changes_neither_modes_nor_statistics_nor_what_learns(self):
        segmenter = small_fcn().train()
        segmenter.backbone.eval().requires_grad_(False)
        before, modes = snapshot(segmenter), [module.training for module in segmenter.modules()]
        learns = [parameter.requires_grad for parameter in segmenter.parameters()]
        model = CMDLAdapter(segmenter)
        assert model.training
        assert_same_state(segmenter, before)
        assert [module.training for module in segmenter.modules()] == modes
        assert [parameter.requires_grad for parameter in segmenter.parameters()] == learns
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_after_training_the_segmenter_is_the_trained_one_without_hooks(self, batch):
        segmenter = SmallSegmenter(has_auxiliary=True)
        model = adapt(segmenter)
        assert [len(m._forward_hooks) for m in (segmenter.classifier, segmenter.aux_classifier)] == [1, 1]
        model.train()(batch[0], labels=batch[1]).loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.1 * parameter.grad)
        trained, expected = snapshot(segmenter), run(segmenter, batch[0])
        assert model.remove() is segmenter
        assert not any(module._forward_hooks for module in segmenter.modules())
        assert_same_state(segmenter, trained)
        fresh = SmallSegmenter(has_auxiliary=True)
        fresh.load_state_dict(trained)
        for other in (segmenter, fresh, copy.deepcopy(segmenter), pickle.loads(pickle.dumps(segmenter))):
            assert torch.equal(run(other, batch[0])["out"], expected["out"])
        with pytest.raises(RuntimeError, match=r"remove\(\) has removed CMDL; add it again"):
            model(batch[0])

    def test_a_segmenter_is_itself_again_after_an_error(self, batch):
        segmenter = SmallSegmenter()
        expected = run(segmenter, batch[0])
        model = adapt(segmenter)
        with pytest.raises(TypeError, match="unknown"):
            model(batch[0], unknown=1)
        with pytest.raises(RuntimeError):
            model(torch.randn(1, 4, 64, 64))
        assert torch.equal(run(segmenter, batch[0]), expected)

    def test_a_copy_is_independent(self, batch):
        model = adapt(SmallSegmenter(has_auxiliary=True))
        average = copy.deepcopy(model)  # as a moving average of the weights begins
        before, expected = snapshot(average), run(average, batch[0])["out"]
        assert torch.equal(run(model, batch[0])["out"], expected)
        model.train()(batch[0], labels=batch[1]).loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.1 * parameter.grad)
        assert_same_state(average, before)
        assert torch.equal(run(average, batch[0])["out"], expected)
        assert not torch.equal(run(model, batch[0])["out"], expected)
        average.remove()
        assert not any(module._forward_hooks for module in average.segmenter.modules())
        assert run(model, batch[0], labels=batch[1]).auxiliary_logits is not None

    def test_labels_in_eval_mode_update_nothing_and_draw_nothing(self, batch):
        model = adapt(SmallSegmenter(has_auxiliary=True), assignment="sample")
        before, state = snapshot(model), torch.get_rng_state()
        assert run(model, batch[0], labels=batch[1]).loss.isfinite()
        assert torch.equal(torch.get_rng_state(), state)
        assert_same_state(model, before)

    def test_training_without_labels_leaves_the_memory_alone(self, batch):
        model = adapt(SmallSegmenter()).train()
        before = snapshot(model.memory_bank)
        assert isinstance(model(batch[0]), torch.Tensor)
        assert_same_state(model.memory_bank, before)


def grid_means(feature_map, size):
    """Means over evenly spread windows, which overlap where the lengths do not divide."""
    edges = [
        [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
        for length, count in zip(feature_map.shape[2:], size, strict=True)
    ]
    rows = [
        torch.stack([feature_map[:, :, top:bottom, left:right].mean(dim=(2, 3)) for left, right in edges[1]])
        for top, bottom in edges[0]
    ]
    return torch.stack(rows).permute(2, 3, 0, 1)  # (h', w', B, C) -> (B, C, h', w')


@pytest.mark.parametrize(("stride", "grid"), [(16, (5, 7)), (8, (9, 13)), (4, (9, 13)), (1, (9, 13))])
def test_is_the_components_composed(stride, grid):
    segmenter = SmallSegmenter(stride, has_auxiliary=True).eval()
    model = adapt(segmenter).eval()
    pixel_values, labels = torch.randn(2, 3, 65, 97), torch.randint(0, NUM_LABELS, (2, 65, 97))
    with torch.no_grad():
        segmenter.classifier.weight.mul_(30)  # decided scores: a mean of votes is not the vote of a mean
        features = segmenter.features(pixel_values)
        scores = segmenter.classifier(features)
        small_features, votes = grid_means(features, grid), grid_means(scores.softmax(dim=1), grid)
        aggregated = model.semantic_aggregation(small_features, votes, model.memory_bank.prototypes)
        aggregated = F.interpolate(aggregated, size=features.shape[2:], mode="bilinear", align_corners=False)
        logits = model.decode_head(model.fusion(torch.cat([features, aggregated], dim=1)))
        enlarged = [
            F.interpolate(each, size=(65, 97), mode="bilinear", align_corners=False)
            for each in (logits, scores, segmenter.aux_classifier(features))
        ]
        losses = model.distribution_learning(small_features, labels, model.memory_bank).losses
        weights = {"segmentation_loss": 1.0, "coarse_loss": 0.4, "auxiliary_loss": 0.4}
        for (name, weight), each in zip(weights.items(), enlarged, strict=True):
            losses[name] = weight * F.cross_entropy(each, labels)
        output = model(pixel_values, labels=labels)
        torch.testing.assert_close(output.logits, logits)
        torch.testing.assert_close(output.coarse_logits, scores)
        torch.testing.assert_close(output.auxiliary_logits, segmenter.aux_classifier(features))
        torch.testing.assert_close(dict(output.loss_dict), losses)
        torch.testing.assert_close(model(pixel_values)["out"], enlarged[0])
        torch.testing.assert_close(model(pixel_values)["aux"], enlarged[2])


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: smp_model("UnetPlusPlus"), (64, 96)),
        (lambda: SmallSegmenter(stride=1), (65, 97)),
        (lambda: SmallSegmenter(stride=2), (33, 127)),
        (ZOO["torchvision DeepLabV3"].make, (65, 97)),
    ],
    ids=["UNet++", "every pixel", "every second", "DeepLabV3"],
)
def test_attention_runs_on_an_eighth_of_the_image_at_most(make, size, monkeypatch):
    lengths, attention = set(), F.scaled_dot_product_attention

    def watch(query, key, value):
        lengths.update({query.shape[-2], key.shape[-2]})
        return attention(query, key, value)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watch)
    model = CMDLAdapter(make(), hidden_size=8, num_distributions=2).train()
    output = model(torch.randn(2, 3, *size), labels=torch.zeros(2, *size, dtype=torch.int64))
    output.loss.backward()
    assert len(lengths) == 1
    assert max(lengths) <= math.ceil(size[0] / 8) * math.ceil(size[1] / 8)


class TestOptions:
    def test_hidden_size_projects(self, batch):
        model = adapt(SmallSegmenter(hidden_size=12), hidden_size=6)
        assert model.memory_bank.prototypes.shape == (NUM_LABELS, 3, 6)
        model.train()(batch[0], labels=batch[1]).loss.backward()
        assert model.input_projection[0].weight.shape == (6, 12, 1, 1)
        assert model.input_projection[0].weight.grad.count_nonzero() > 0

    def test_wide_features_are_projected_to_512(self):
        assert adapt(SmallSegmenter(hidden_size=512)).input_projection.__class__ is nn.Identity
        model = adapt(SmallSegmenter(hidden_size=520))
        assert (model.config.hidden_size, model.config.attention_size) == (512, 256)
        assert model.input_projection[0].weight.shape == (512, 520, 1, 1)

    def test_hard_voting_votes_with_the_winner_alone(self, batch):
        soft = adapt(SmallSegmenter(stride=4)).eval()
        hard = adapt(SmallSegmenter(stride=4), use_hard_voting=True).eval()
        hard.load_state_dict(soft.state_dict())
        assert not torch.allclose(run(hard, batch[0]), run(soft, batch[0]), atol=1e-4)
        for model in (soft, hard):
            model.segmenter.classifier.weight.data.mul_(1e6)  # a decided softmax is one-hot
        torch.testing.assert_close(run(hard, batch[0]), run(soft, batch[0]), atol=1e-3, rtol=1e-3)

    def test_class_weights_and_hard_pixels_are_those_of_the_heads(self, batch):
        weights = [0.5, 1.0, 2.0, 0.0, 4.0]
        options = {"class_weights": weights, "ohem_threshold": 0.2, "ohem_min_kept": 200, "coarse_loss_weight": 0.7}
        output = run(adapt(SmallSegmenter(has_auxiliary=True), **options), batch[0], labels=batch[1])
        for name, scores in {
            "segmentation": (1.0, output.logits),
            "coarse": (0.7, output.coarse_logits),
            "auxiliary": (0.4, output.auxiliary_logits),
        }.items():
            enlarged = F.interpolate(scores[1], size=(64, 64), mode="bilinear", align_corners=False)
            losses = F.cross_entropy(enlarged, batch[1], ignore_index=255, reduction="none")
            is_kept = hard_pixels(losses, batch[1] != 255, 0.2, 200)
            kept_weights = torch.tensor(weights)[batch[1][is_kept]]
            expected = scores[0] * (losses[is_kept] * kept_weights).sum() / kept_weights.sum()
            torch.testing.assert_close(output.loss_dict[f"{name}_loss"], expected)

    def test_losses_without_weight_are_left_out_and_another_label_is_void(self, batch):
        options = {"auxiliary_loss_weight": 0, "prototype_loss_weight": 0, "semantic_loss_ignore_index": -1}
        model = adapt(SmallSegmenter(has_auxiliary=True), **options)
        labels = batch[1].where(batch[1] != 255, -1)
        output = run(model, batch[0], labels=labels)
        assert output.loss_dict.keys() == LOSSES - {"prototype_loss"}
        with pytest.raises(ValueError, match="or be -1"):
            model(batch[0], labels=batch[1])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"num_distribution": 3},
                r"num_distribution is not an option of CMDLAdapter; did you mean num_distributions\?",
            ),
            ({"context_module": "ppm"}, "context_module describes the network, .*: leave context_module out"),
            ({"backbone_config": {}}, "backbone_config describes the network"),
            ({"memory_momentum": 1.0}, r"memory_momentum must lie in \[0, 1\)"),
            ({"class_weights": [1.0]}, "class_weights has 1 entries for num_labels=5"),
        ],
    )
    def test_impossible_ones_are_refused(self, options, message):
        with pytest.raises((ValueError, StrictDataclassError), match=message):
            adapt(SmallSegmenter(), **options)

    @pytest.mark.parametrize(
        ("classifier", "num_labels", "message"),
        [
            ("head", 5, "found no module of that name at 'head'; it has classifier, or leave classifier out"),
            ("head", None, "it has features.0, features.3, classifier"),
            ("features.1", 5, "found a BatchNorm2d at 'features.1'"),
            ("classifier", 19, "num_labels=19, but 'classifier' gives scores of 5 classes; .*leave num_labels out"),
            (None, 19, "num_labels=19, but SmallSegmenter gives scores of 5 classes"),
            ("head", 19, "none with that many classes"),
        ],
    )
    def test_a_wrong_classifier_is_refused(self, classifier, num_labels, message):
        with pytest.raises(ValueError, match=message):
            CMDLAdapter(SmallSegmenter(), classifier, num_labels)

    def test_a_classifier_that_never_runs(self, batch):
        segmenter = SmallSegmenter()
        segmenter.unused = nn.Conv2d(12, NUM_LABELS, 1)
        with pytest.raises(
            RuntimeError, match="SmallSegmenter returned its result without running 'unused': pass the"
        ):
            adapt(segmenter, "unused")(batch[0])

    def test_a_named_classifier_is_not_looked_for(self, caplog):
        model = adapt(SmallSegmenter())
        assert model.config.num_labels == NUM_LABELS
        assert "classifier" not in caplog.text
        assert "classifier='classifier'" in repr(model)


class TestInputs:
    def test_keywords_go_to_the_segmenter(self, batch):
        model = adapt(segformer(), "decode_head.classifier").eval()
        as_tuple = run(model, batch[0], return_dict=False, output_hidden_states=True)
        assert isinstance(as_tuple, tuple)
        assert torch.equal(as_tuple[0], run(model, batch[0]).logits)
        assert len(run(model, batch[0], output_hidden_states=True).hidden_states) == len(as_tuple[1])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (torch.zeros(2, 64, 60, dtype=torch.int64), r"labels must have shape"),
            (torch.zeros(2, 64, 64), "labels must be integers"),
            (torch.full((2, 64, 64), 7), "labels must lie in 0..4 or be 255"),
        ],
    )
    def test_wrong_labels_are_refused(self, batch, labels, message):
        with pytest.raises(ValueError, match=message):
            adapt(SmallSegmenter())(batch[0], labels=labels)

    def test_images_that_are_none_are_refused(self):
        model = adapt(SmallSegmenter())
        with pytest.raises(ValueError, match="pixel_values must have shape"):
            model(torch.zeros(3, 64, 64))
        with pytest.raises(ValueError, match="pixel_values must be finite"):
            model(torch.full((1, 3, 64, 64), torch.nan))

    def test_void_batches_and_small_integers(self, batch):
        model = adapt(SmallSegmenter()).train()
        before = snapshot(model.memory_bank)
        output = model(batch[0], labels=torch.full((2, 64, 64), 255, dtype=torch.uint8))
        output.loss.backward()
        assert output.loss_dict["segmentation_loss"] == 0
        assert_same_state(model.memory_bank, before)

    def test_images_with_other_channels(self):
        segmenter = smp_model("FPN", in_channels=5)
        assert run(CMDLAdapter(segmenter), torch.randn(1, 5, 64, 64)).shape == (1, NUM_LABELS, 64, 64)


class TestPrecisionAndPlace:
    def test_autocast(self, batch):
        model = adapt(segformer(), "decode_head.classifier").train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            plain, better = model.segmenter(batch[0]).logits, model(batch[0]).logits
            output = model(batch[0], labels=batch[1])
        output.loss.backward()
        assert better.dtype == plain.dtype == torch.bfloat16
        assert {each.dtype for each in (output.loss, output.logits, output.coarse_logits)} == {torch.float32}
        assert model.memory_bank.prototypes.dtype == torch.float32
        assert all(p.grad.isfinite().all() for p in model.parameters())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("is_cast_before", [True, False])
    def test_cast(self, batch, dtype, is_cast_before):
        segmenter = SmallSegmenter(stride=4, has_auxiliary=True)
        model = adapt(segmenter.to(dtype)) if is_cast_before else adapt(segmenter).to(dtype)
        assert {p.dtype for p in model.parameters()} == {dtype}
        if is_cast_before:
            assert model.memory_bank.prototypes.dtype == torch.float32
        pixel_values = batch[0].to(dtype)
        model.train()(pixel_values, labels=batch[1]).loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        assert run(model, pixel_values)["out"].dtype == dtype

    def test_is_where_its_segmenter_is(self):
        model = adapt(SmallSegmenter(has_auxiliary=True).to("meta"), hidden_size=6, class_weights=[1.0] * NUM_LABELS)
        places = {name: tensor.device.type for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
        assert {name for name, place in places.items() if place != "meta"} == set()
        assert CMDLAdapter(SmallSegmenter().to("meta")).classifier_name == "classifier"


def test_a_layer_scale_may_start_at_zero_and_the_memory_as_the_references():
    model = adapt(SmallSegmenter(), layer_scale_init_value=0.0, memory_init="reference")
    assert model.semantic_aggregation.layer_scale.count_nonzero() == 0
    assert 0.015 < model.memory_bank.prototypes.std() < 0.025


def test_the_segmenter_learns_as_a_backbone_does():
    model = adapt(SmallSegmenter())
    groups = make_optimizer(
        model, CMDLTrainingArguments(learning_rate=0.01, head_learning_rate_factor=10.0)
    ).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    own = {id(parameter) for parameter in model.segmenter.parameters()}
    assert {rates[each] for each in own} == {0.01}
    assert {rate for each, rate in rates.items() if each not in own} == {0.1}
    _, frozen = prepare_batch_norms(model, "backbone")
    assert frozen == [module for module in model.segmenter.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_a_classifier_that_runs_twice_is_refused():
    class Twice(SmallSegmenter):
        def forward(self, images):
            return super().forward(images) + enlarge(super().forward(F.avg_pool2d(images, 2)), images)

    model = adapt(Twice())
    with pytest.raises(RuntimeError, match="runs 'classifier' more than once"):
        model(torch.randn(2, 3, 64, 64))


def test_a_classifier_without_gradient_is_refused(batch):
    class Checkpointed(SmallSegmenter):
        def forward(self, images):
            return torch.utils.checkpoint.checkpoint(super().forward, images, use_reentrant=True)

    model = adapt(Checkpointed()).train()
    with pytest.raises(
        RuntimeError, match="'classifier' runs without gradient, for example in reentrant activation checkpointing"
    ):
        model(batch[0].requires_grad_(), labels=batch[1])


def test_one_channel_is_no_segmenter_of_classes():
    segmenter = SmallSegmenter()
    segmenter.classifier = nn.Conv2d(12, 1, 1)
    with pytest.raises(ValueError, match="gives one score; use two classes"):
        CMDLAdapter(segmenter, "classifier")


def test_names_of_the_classes_are_taken_over():
    segmenter = segformer()
    segmenter.config.id2label = dict(enumerate("abcde"))
    assert CMDLAdapter(segmenter).config.id2label == dict(enumerate("abcde"))


def test_a_transformers_segmenter_keeps_fewer_activations_on_request(batch):
    if not hasattr(transformers.PreTrainedModel, "activation_checkpointing_enable"):
        pytest.skip(f"transformers {transformers.__version__} has no activation_checkpointing_enable")
    model = CMDLAdapter(segformer()).train()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert model.segmenter.is_activation_checkpointing
    model(batch[0], labels=batch[1]).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
