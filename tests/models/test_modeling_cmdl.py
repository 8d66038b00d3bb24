import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForSemanticSegmentation

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
from cmdl_hf.models.cross_entropy_cmdl import hard_pixels
from cmdl_hf.models.losses_cmdl import contrastive_loss

CONTEXT_MODULES = ["none", "ppm", "aspp", "criss_cross", "upernet"]
DISTRIBUTION_LOSSES = {"prototype_loss", "contrastive_loss", "class_margin_loss"}
PLAIN_LOSSES = {"segmentation_loss", "auxiliary_loss"}


@pytest.mark.parametrize("use_distributions", [True, False])
@pytest.mark.parametrize("context_module", CONTEXT_MODULES)
class TestEveryFramework:
    def test_shapes_losses_and_gradients(self, make_model, make_batch, context_module, use_distributions):
        model = make_model(context_module=context_module, use_distributions=use_distributions)
        pixel_values, labels = make_batch()
        output = model(pixel_values, labels=labels)
        is_pyramid = context_module == "upernet" and not use_distributions
        assert output.logits.shape == (
            (2, 5, 16, 24) if is_pyramid else (2, 5, 2, 3)
        )  # the finest grid, R's otherwise
        assert output.auxiliary_logits.shape == (2, 5, 4, 6)
        expected = PLAIN_LOSSES | (DISTRIBUTION_LOSSES | {"coarse_loss"} if use_distributions else set())
        assert output.loss_dict.keys() == expected
        torch.testing.assert_close(output.loss, sum(output.loss_dict.values()))
        if use_distributions:
            assert output.coarse_logits.shape == (2, 5, 2, 3)
        else:
            assert output.coarse_logits is None
        output.loss.backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not without

    def test_round_trip(self, make_model, make_batch, tmp_path, context_module, use_distributions):
        model = make_model(context_module=context_module, use_distributions=use_distributions)
        pixel_values, labels = make_batch()
        model(pixel_values, labels=labels)  # moves BatchNorm statistics and the bank
        model.eval().save_pretrained(tmp_path)
        loaded, report = CMDLForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        with torch.no_grad():
            # To rounding: weights from a file lie elsewhere in memory, which can change the order of a sum.
            torch.testing.assert_close(loaded(pixel_values).logits, model(pixel_values).logits, atol=1e-6, rtol=1e-5)


def test_plain_fcn_is_two_convolutions_dropout_and_a_classifier(make_model):
    model = make_model(use_distributions=False, hidden_size=512, dropout=0.1)
    convolutions = [m for m in model.context_module.modules() if isinstance(m, nn.Conv2d)]
    assert [tuple(c.weight.shape) for c in convolutions] == [(512, 32, 3, 3), (512, 512, 3, 3)]
    dropout, classifier = model.decode_head
    assert isinstance(dropout, nn.Dropout2d)
    assert dropout.p == 0.1
    assert tuple(classifier.weight.shape) == (5, 512, 1, 1)
    assert not [name for name in model.state_dict() if "memory" in name or "distribution" in name]


@pytest.mark.parametrize("context_module", CONTEXT_MODULES)
def test_plain_network_is_part_of_the_cmdl_network(make_model, context_module):
    plain = make_model(context_module=context_module, use_distributions=False)
    if context_module != "none":
        ours = make_model(context_module=context_module).context_module.state_dict()
        assert {k: v.shape for k, v in plain.context_module.state_dict().items()} == {
            k: v.shape for k, v in ours.items()
        }
    assert sum(p.numel() for p in plain.parameters()) < sum(
        p.numel() for p in make_model(context_module=context_module).parameters()
    )


def test_labels_in_eval_mode_give_losses_without_update_or_draw(make_model, make_batch):
    model = make_model(assignment="sample").eval()
    pixel_values, labels = make_batch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    output = model(pixel_values, labels=labels)
    assert output.loss.isfinite()
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_training_without_labels_does_not_update_the_bank(make_model, make_batch):
    model = make_model().train()
    before = model.memory_bank.read()
    output = model(make_batch()[0])
    assert output.loss is None
    assert output.loss_dict is None
    assert torch.equal(model.memory_bank.prototypes, before)


def test_auxiliary_logits_cost_nothing_in_inference(make_model, make_batch):
    assert make_model().eval()(make_batch()[0]).auxiliary_logits is None


def test_output_distributions(make_model, make_batch):
    model = make_model().eval()
    with torch.no_grad():
        output = model(make_batch()[0], output_distributions=True)
    assert output.pixel_embeddings.shape == (12, 16)
    assert output.similarity.shape == (12, 5, 3)
    assert output.distribution_ids.shape == (2, 2, 3)
    classes = output.logits.argmax(dim=1).flatten()
    expected = torch.stack([output.similarity[i, c].argmax() for i, c in enumerate(classes)]).view(2, 2, 3)
    assert torch.equal(output.distribution_ids, expected)
    assert make_model().eval()(make_batch()[0]).similarity is None


def test_output_distributions_does_not_move_statistics_twice(make_model, make_batch):
    pixel_values, labels = make_batch()
    model = make_model()
    model(pixel_values, labels=labels, output_distributions=True)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}


def test_output_distributions_needs_distributions(make_model, make_batch):
    with pytest.raises(ValueError, match="use_distributions=True"):
        make_model(use_distributions=False)(make_batch()[0], output_distributions=True)


def test_return_dict_false_gives_a_tuple(make_model, make_batch):
    model = make_model().eval()
    pixel_values, labels = make_batch()
    output = model(pixel_values, labels=labels)
    as_tuple = model(pixel_values, labels=labels, return_dict=False)
    torch.testing.assert_close(as_tuple[0], output.loss)
    torch.testing.assert_close(as_tuple[1], output.logits)


def test_hard_voting_votes_with_the_winner_alone(make_model, make_batch):
    soft, hard = make_model().eval(), make_model(use_hard_voting=True).eval()
    hard.load_state_dict(soft.state_dict())
    with torch.no_grad():
        for model in (soft, hard):
            model.coarse_head[-1].weight.mul_(1e4)  # a decided softmax is one-hot
        pixel_values, _ = make_batch()
        torch.testing.assert_close(hard(pixel_values).logits, soft(pixel_values).logits, atol=1e-4, rtol=1e-4)


def test_voting_weights_take_gradient(make_model, make_batch):
    model = make_model(coarse_loss_weight=0.0)
    pixel_values, labels = make_batch()
    model(pixel_values, labels=labels).loss.backward()
    assert model.coarse_head[-1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("loss", "moves"),
    [
        ("segmentation", "decode_head."),
        ("coarse", "coarse_head."),
        ("auxiliary", "auxiliary_head."),
        ("prototype", "distribution_learning.prototype_norm."),
        ("contrastive", "distribution_learning.projection_head."),
        ("class_margin", "distribution_learning.projection_head."),
    ],
)
def test_each_loss_moves_what_it_should_and_nothing_else(make_model, make_batch, loss, moves):
    weights = {
        f"{name}_loss_weight": 0.0
        for name in ("segmentation", "coarse", "auxiliary", "prototype", "contrastive", "class_margin")
    }
    model = make_model(**(weights | {f"{loss}_loss_weight": 1.0}))
    pixel_values, labels = make_batch()
    model(pixel_values, labels=labels).loss.backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith(moves) for name in touched)
    heads = {
        "decode_head.",
        "coarse_head.",
        "auxiliary_head.",
        "distribution_learning.prototype_norm.",
        "distribution_learning.projection_head.",
    }
    reached = {"segmentation": {"coarse_head."}, "prototype": {"distribution_learning.projection_head."}}
    for head in heads - {moves} - reached.get(loss, set()):
        assert not any(name.startswith(head) for name in touched), head


def test_reference_margin_is_reported_by_the_preset(make_batch, make_config):
    settings = make_config().to_dict()
    kept = ("backbone_config", "num_distributions", "hidden_size", "attention_size", "id2label")
    model = CMDLForSemanticSegmentation(CMDLConfig.from_preset("reference", **{key: settings[key] for key in kept}))
    assert model.memory_bank.prototypes.norm(dim=-1).max() < 0.2  # un-normalised start
    pixel_values, labels = make_batch()
    output = model(pixel_values, labels=labels)
    assert "class_margin_reference" in output.loss_dict
    torch.testing.assert_close(model.memory_bank.prototypes.norm(dim=-1), torch.ones(5, 3))


def test_layers_start_as_torch_starts_them(make_model):
    convolution = make_model(hidden_size=64).fusion[0]
    bound = (128 * 9) ** -0.5
    assert convolution.weight.abs().max() <= bound
    torch.testing.assert_close(convolution.weight.std(), torch.tensor(bound / 3**0.5), rtol=0.05, atol=0)


def test_labels_shrink_with_torch_nearest(make_model, make_batch):
    model = make_model(dropout=0.0).eval()
    labels = torch.randint(0, 5, (1, 70, 90))
    output = model(torch.randn(1, 3, 70, 90), labels=labels, output_distributions=True)
    grid = F.interpolate(labels[:, None].float(), size=output.logits.shape[-2:], mode="nearest").long().flatten()
    config = model.config
    expected = contrastive_loss(output.similarity, grid, config.contrastive_temperature)
    expected *= config.contrastive_loss_weight
    torch.testing.assert_close(output.loss_dict["contrastive_loss"], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_bank_in_float32(make_model, tmp_path, dtype):
    make_model().save_pretrained(tmp_path)
    model = CMDLForSemanticSegmentation.from_pretrained(tmp_path, dtype=dtype).eval()
    assert model.fusion[0].weight.dtype == dtype
    assert model.memory_bank.prototypes.dtype == torch.float32
    assert model.memory_bank.num_updates.dtype == torch.int64
    with torch.no_grad():
        output = model(torch.randn(1, 3, 64, 64, dtype=dtype), output_distributions=True)
    assert output.logits.dtype == torch.float32
    assert output.similarity.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_cast_after_construction_trains(make_model, make_batch, dtype):
    model = make_model().to(dtype)
    pixel_values, labels = make_batch()
    model(pixel_values.to(dtype), labels=labels, output_distributions=True).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_autocast_trains(make_model, make_batch):
    model = make_model(context_module="ppm")
    pixel_values, labels = make_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(pixel_values, labels=labels)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert model.memory_bank.prototypes.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_similarities_are_float32_under_autocast_without_labels(make_model, make_batch):
    model = make_model().eval()
    pixel_values, labels = make_batch()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        similarity = model(pixel_values, output_distributions=True).similarity
        expected = model(pixel_values, labels=labels, output_distributions=True).similarity
    assert similarity.dtype == torch.float32
    torch.testing.assert_close(similarity, expected)


def test_device_map(make_model, make_batch, tmp_path):
    model = make_model().eval()
    model.save_pretrained(tmp_path)
    placed = CMDLForSemanticSegmentation.from_pretrained(tmp_path, device_map="auto")
    pixel_values, _ = make_batch()
    with torch.no_grad():
        torch.testing.assert_close(placed(pixel_values.to(placed.device)).logits.cpu(), model(pixel_values).logits)


def test_fine_tuning_with_other_classes_resets_bank_and_classifiers(make_model, make_config, tmp_path):
    make_model().save_pretrained(tmp_path)
    config = make_config(num_labels=7)
    model = CMDLForSemanticSegmentation.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    assert model.memory_bank.prototypes.shape == (7, 3, 16)
    torch.testing.assert_close(model.memory_bank.prototypes.norm(dim=-1), torch.ones(7, 3))
    assert model.memory_bank.num_updates.sum() == 0
    assert model.decode_head[-1].weight.shape[0] == 7


@pytest.mark.parametrize(
    "change", [{"num_labels": 3}, {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}]
)
def test_fine_tuning_by_the_keywords_of_transformers(make_model, tmp_path, change):
    make_model(palette=[[i, i, i] for i in range(5)]).save_pretrained(tmp_path)
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **change)
    assert model.config.num_labels == 3
    assert model.config.palette is None
    assert model.memory_bank.prototypes.shape == (3, 3, 16)
    model.save_pretrained(tmp_path / "again")
    palette = [[1, 2, 3]] * 3
    again = CMDLForSemanticSegmentation.from_pretrained(
        tmp_path, ignore_mismatched_sizes=True, palette=palette, **change
    )
    assert again.config.palette == palette


class TestWeightedCrossEntropies:
    SETTINGS = {"class_weights": [0.5, 1, 2, 0, 4], "ohem_threshold": 0.2, "ohem_min_kept": 200}  # noqa: RUF012

    def test_are_those_of_the_heads(self, make_model, make_batch):
        model, plain = make_model(**self.SETTINGS).eval(), make_model().eval()
        plain.load_state_dict(model.state_dict())
        pixel_values, labels = make_batch()
        output, unweighted = model(pixel_values, labels=labels), plain(pixel_values, labels=labels)
        weighted = {"segmentation_loss": output.logits, "coarse_loss": output.coarse_logits}
        weighted["auxiliary_loss"] = output.auxiliary_logits
        for name, loss in output.loss_dict.items():
            if name not in weighted:
                torch.testing.assert_close(loss, unweighted.loss_dict[name], msg=name)
                continue
            enlarged = F.interpolate(weighted[name], size=labels.shape[1:], mode="bilinear", align_corners=False)
            losses = F.cross_entropy(enlarged, labels, ignore_index=255, reduction="none")
            is_kept = hard_pixels(losses, labels != 255, 0.2, 200)
            weights = model.class_weights[labels[is_kept]]
            expected = (losses[is_kept] * weights).sum() / weights.sum()
            torch.testing.assert_close(loss, getattr(model.config, f"{name}_weight") * expected, msg=name)
            assert 0 < is_kept.sum() < (labels != 255).sum()

    def test_come_back_from_a_folder(self, make_model, make_batch, tmp_path):
        model = make_model(**self.SETTINGS).eval()
        model.save_pretrained(tmp_path)
        pixel_values, labels = make_batch()
        expected = model(pixel_values, labels=labels).loss
        loaded, report = CMDLForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert loaded.class_weights.tolist() == self.SETTINGS["class_weights"]
        torch.testing.assert_close(loaded(pixel_values, labels=labels).loss, expected, atol=0, rtol=0)
        other = CMDLForSemanticSegmentation.from_pretrained(tmp_path, class_weights=[1, 1, 1, 1, 2])
        assert other.class_weights.tolist() == [1, 1, 1, 1, 2]
        fewer = CMDLForSemanticSegmentation.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
        assert fewer.class_weights is None

    def test_half_precision(self, make_model, make_batch, tmp_path):
        make_model(**self.SETTINGS).save_pretrained(tmp_path)
        model = CMDLForSemanticSegmentation.from_pretrained(tmp_path, dtype=torch.bfloat16)
        pixel_values, labels = make_batch()
        output = model(pixel_values.bfloat16(), labels=labels)
        output.loss.backward()
        assert output.loss.dtype == torch.float32
        assert output.loss.isfinite()

    def test_a_batch_of_weightless_classes_is_a_zero_loss(self, make_model, make_batch):
        pixel_values, labels = make_batch()
        model = make_model(**self.SETTINGS, use_distributions=False)
        loss = model(pixel_values, labels=labels.where(labels == 255, 3)).loss
        loss.backward()
        assert loss == 0
        assert all(p.grad.abs().max() == 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        ("aot_eager", TestWeightedCrossEntropies.SETTINGS | {"context_module": "ppm"}),
        pytest.param("aot_eager", {}, marks=pytest.mark.slow),
        pytest.param("inductor", {}, marks=pytest.mark.slow),
        # Without hard pixels: where a probability is at the threshold, rounding decides which pixels count.
        pytest.param(
            "inductor", {"class_weights": [0.5, 1, 2, 0, 4], "context_module": "ppm"}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_compiled_model_trains_as_the_plain_one(make_model, make_batch, backend, settings):
    torch.compiler.reset()
    model, other = (make_model(dropout=0.0, **settings) for _ in range(2))
    other.load_state_dict(model.state_dict())
    compiled = torch.compile(other, backend=backend, fullgraph=True)
    pixel_values, labels = make_batch()
    for _ in range(2):
        expected, found = model(pixel_values, labels=labels), compiled(pixel_values, labels=labels)
        for name, loss in expected.loss_dict.items():
            torch.testing.assert_close(found.loss_dict[name], loss, atol=1e-5, rtol=1e-5, msg=name)
        expected.loss.backward()
        found.loss.backward()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-4, rtol=1e-4, msg=name)
    torch.testing.assert_close(other.memory_bank.prototypes, model.memory_bank.prototypes, atol=1e-5, rtol=0)
    assert torch.equal(other.memory_bank.num_updates, model.memory_bank.num_updates)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x, y: (x[0], y), r"pixel_values must have shape \(batch, 3, height, width\)"),
            (lambda x, y: (x[:, :1], y), r"pixel_values must have shape .* got \(2, 1, 64, 96\)"),
            (lambda x, y: ((x * 255).byte(), y), "pixel_values must be floating point"),
            (lambda x, y: (x.index_fill(0, torch.tensor([1]), torch.nan), y), r"must be finite.*image\(s\) \[1\]"),
            (lambda x, y: (x, y.float()), "labels must be integers, got torch.float32"),
            (lambda x, y: (x, y[0]), r"labels must have shape .* \(2, 64, 96\)"),
            (lambda x, y: (x, y[:, None]), r"labels must have shape .* \(2, 64, 96\)"),
            (lambda x, y: (x, y[:, ::2, ::2]), r"labels must have shape .* got \(2, 32, 48\)"),
            (lambda x, y: (x, y[:1]), r"labels must have shape"),
            (lambda x, y: (x, y.where(y != 255, 19)), r"0..4 or be 255 .* found 19 \(768 pixels\)"),
            (lambda x, y: (x, y.where(y != 255, -1)), r"found -1 \(768 pixels\)"),
        ],
    )
    def test_is_refused_with_rule_value_and_cure(self, make_model, make_batch, change, message):
        pixel_values, labels = change(*make_batch())
        model = make_model()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            model(pixel_values, labels=labels)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), name

    @pytest.mark.parametrize("use_distributions", [True, False])
    def test_all_ignored_batch_gives_zero_loss_and_leaves_the_bank(self, make_model, make_batch, use_distributions):
        model = make_model(use_distributions=use_distributions)
        pixel_values, labels = make_batch()
        before = model.memory_bank.read() if use_distributions else None
        output = model(pixel_values, labels=torch.full_like(labels, 255))
        output.loss.backward()
        assert output.loss == 0
        assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())
        if use_distributions:
            torch.testing.assert_close(model.memory_bank.prototypes, before)

    def test_an_absent_class_keeps_its_prototypes(self, make_model, make_batch):
        model = make_model(memory_momentum_warmup=0)
        pixel_values, labels = make_batch(num_labels=3)
        before = model.memory_bank.read()
        output = model(pixel_values, labels=labels)
        output.loss.backward()
        assert output.loss.isfinite()
        torch.testing.assert_close(model.memory_bank.prototypes[3:], before[3:])

    @pytest.mark.parametrize("num_labels", [2, 171])
    def test_few_and_many_classes(self, make_model, make_batch, num_labels):
        model = make_model(num_labels=num_labels)
        pixel_values, labels = make_batch(num_labels=num_labels)
        output = model(pixel_values, labels=labels)
        output.loss.backward()
        assert output.loss.isfinite()
        assert output.logits.shape[1] == num_labels

    @pytest.mark.parametrize("context_module", CONTEXT_MODULES)
    @pytest.mark.parametrize("size", [(32, 32), (33, 47)])
    def test_tiny_and_odd_images(self, make_model, context_module, size):
        model = make_model(context_module=context_module)
        pixel_values, labels = torch.randn(2, 3, *size), torch.randint(0, 5, (2, *size))
        model(pixel_values, labels=labels).loss.backward()
        with torch.no_grad():
            assert model.eval()(pixel_values[:1]).logits.isfinite().all()

    @pytest.mark.parametrize("context_module", ["ppm", "aspp", "upernet"])
    @pytest.mark.parametrize("use_distributions", [True, False])
    def test_batch_of_one_in_training_with_pooled_branches(self, make_model, context_module, use_distributions):
        model = make_model(context_module=context_module, use_distributions=use_distributions)
        with pytest.raises(ValueError, match="train with at least 2 images"):
            model(torch.randn(1, 3, 64, 64), labels=torch.zeros(1, 64, 64, dtype=torch.int64))

    def test_small_integer_labels_are_taken(self, make_model, make_batch):
        model = make_model().eval()
        pixel_values, labels = make_batch()
        wide = model(pixel_values, labels=labels).loss
        for dtype in (torch.uint8, torch.uint16):
            torch.testing.assert_close(model(pixel_values, labels=labels.to(dtype)).loss, wide)

    def test_an_ignore_index_that_the_labels_cannot_hold_hides_no_wrong_label(self, make_model, make_batch):
        pixel_values, labels = make_batch()
        labels[0, 0, 0] = 156  # -100 in 8 bits
        model = make_model(semantic_loss_ignore_index=-100)
        with pytest.raises(ValueError, match=r"found 156 \(1 pixels\)"):
            model(pixel_values, labels=labels.byte())


def test_a_layer_scale_that_starts_at_zero_ignores_the_aggregation_at_first_and_learns_to_read_it(
    make_model, make_batch, tmp_path
):
    model = make_model(layer_scale_init_value=0.0)
    scale = model.semantic_aggregation.layer_scale
    assert scale.shape == (model.config.hidden_size,)
    assert scale.count_nonzero() == 0
    pixel_values, labels = make_batch()
    before = model.eval()(pixel_values).logits
    model.memory_bank.prototypes.neg_()
    torch.testing.assert_close(model(pixel_values).logits, before, rtol=0, atol=0)
    model.train()(pixel_values, labels).loss.backward()
    assert scale.grad.count_nonzero() > 0
    with torch.no_grad():
        scale.copy_(torch.linspace(0.1, 1, len(scale)))
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.semantic_aggregation.layer_scale, scale, rtol=0, atol=0)


def test_the_layer_scale_multiplies_the_aggregated_features(make_model):
    torch.manual_seed(0)
    model = make_model(layer_scale_init_value=1.0).eval()
    aggregation = model.semantic_aggregation
    inputs = torch.randn(1, 16, 4, 5), torch.randn(1, 5, 4, 5).softmax(dim=1), model.memory_bank.read()
    unscaled = aggregation(*inputs)
    with torch.no_grad():
        aggregation.layer_scale.copy_(torch.arange(16.0))
    torch.testing.assert_close(aggregation(*inputs), unscaled * torch.arange(16.0)[:, None, None])
    assert make_model(layer_scale_init_value=None).semantic_aggregation.layer_scale is None


@pytest.mark.parametrize("context_module", CONTEXT_MODULES[1:])
def test_context_and_sharpened_features_go_past_their_fusion_which_is_added_behind_a_layer_scale(
    make_model, make_batch, tmp_path, context_module
):
    model, found = make_model(layer_scale_init_value=0.0, context_module=context_module).eval(), {}
    for name in ("context_module", "context_attention", "fusion", "context_fusion"):
        getattr(model, name).register_forward_hook(lambda _, inputs, output, name=name: found.update({name: output}))
    model.context_fusion.register_forward_pre_hook(lambda _, inputs: found.update(fused=inputs[0]))
    model.decode_head.register_forward_pre_hook(lambda _, inputs: found.update(classified=inputs[0]))
    pixel_values, labels = make_batch()
    for value in (0.0, 0.5):
        with torch.no_grad():
            model.context_layer_scale.fill_(value)
            model(pixel_values)
        context = F.interpolate(found["context_module"], size=found["fusion"].shape[-2:], mode="bilinear")
        expected = context + found["fusion"] + value * found["context_fusion"]
        torch.testing.assert_close(found["classified"], expected)
        assert torch.equal(found["fused"], torch.cat([found["context_attention"], found["fusion"]], dim=1))
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).context_layer_scale
    torch.testing.assert_close(loaded, model.context_layer_scale, rtol=0, atol=0)
    with torch.no_grad():
        model.context_layer_scale.zero_()
    model.train()(pixel_values, labels).loss.backward()
    assert model.context_layer_scale.grad.count_nonzero() > 0


def test_without_a_layer_scale_the_fusion_with_the_context_stands_alone(make_model, make_batch):
    model, found = make_model(layer_scale_init_value=None, context_module="ppm").eval(), {}
    model.context_fusion.register_forward_hook(lambda _, inputs, output: found.update(fused=output))
    model.decode_head.register_forward_pre_hook(lambda _, inputs: found.update(classified=inputs[0]))
    with torch.no_grad():
        model(make_batch()[0])
    assert torch.equal(found["classified"], found["fused"])
    assert model.context_layer_scale is None


def test_a_frozen_memory_stays_as_it_started(make_model, make_batch):
    model = make_model(is_memory_frozen=True).train()
    start = model.memory_bank.prototypes.clone()
    output = model(*make_batch())
    assert torch.equal(model.memory_bank.prototypes, start)
    assert model.memory_bank.num_updates.sum() == 0
    assert "contrastive_loss" in output.loss_dict


class TestHiddenStates:
    def test_the_stages_of_a_transformers_backbone(self, make_model):
        model = make_model(context_module="upernet").eval()
        images = torch.randn(2, 3, 64, 96)
        expected = model(images)
        output = model(images, output_hidden_states=True, labels=torch.zeros(2, 64, 96, dtype=torch.int64))
        assert torch.equal(output.logits, expected.logits)
        assert expected.hidden_states is None
        assert [tuple(state.shape) for state in output.hidden_states] == [
            (2, 8, 16, 24),  # embedding
            (2, 8, 16, 24),
            (2, 8, 8, 12),
            (2, 16, 4, 6),
            (2, 32, 2, 3),
        ]

    @pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
    def test_the_maps_of_a_timm_backbone(self, make_model, name):
        backbone = {"model_type": "timm_backbone", "backbone": name, "out_indices": [1, 2]}
        kwargs = {"dynamic_img_size": True, "depth": 3} if name.startswith("vit") else None
        model = make_model(backbone_config=backbone, backbone_kwargs=kwargs, use_distributions=False).eval()
        images = torch.randn(1, 3, 64, 64)
        output = model(images, output_hidden_states=True)
        for state, feature_map in zip(output.hidden_states, model.backbone(images).feature_maps, strict=True):
            assert torch.equal(state, feature_map)
        with pytest.raises(ValueError, match="Cannot output attentions for timm backbones"):
            model(images, output_attentions=True)

    @pytest.mark.parametrize("wanted", [[1], [0, -1], 1])
    @pytest.mark.parametrize("backbone", ["timm", "transformers"])
    def test_only_those_of_the_given_indices(self, make_model, backbone, wanted):
        timm = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [2, 3, 4]}
        pvt = {"model_type": "pvt_v2", "hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "depths": [1] * 4}
        model = make_model(backbone_config=timm if backbone == "timm" else pvt | {"out_indices": [2, 3]}).eval()
        images = torch.randn(1, 3, 64, 64)
        every = model(images, output_hidden_states=True).hidden_states
        found = model(images, output_hidden_states=wanted).hidden_states
        kept = {index % len(every) for index in ([wanted] if isinstance(wanted, int) else wanted)}
        assert {index for index, state in enumerate(found) if state is not None} == kept
        assert all(torch.equal(found[index], every[index]) for index in kept)

    def test_by_the_configuration_and_as_a_tuple(self, make_model, tmp_path):
        make_model(output_hidden_states=True).save_pretrained(tmp_path)
        model = CMDLForSemanticSegmentation.from_pretrained(tmp_path)
        images = torch.randn(1, 3, 64, 64)
        assert len(model(images).hidden_states) == 5
        assert model(images, output_hidden_states=False).hidden_states is None
        logits, _coarse_logits, hidden_states = model(images, return_dict=False)
        assert torch.equal(logits, model(images).logits)
        assert len(hidden_states) == 5

    def test_attentions_of_a_backbone_that_has_them(self, make_model):
        swin = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
        model = make_model(backbone_config=swin | {"out_indices": [1, 2]}, attn_implementation="eager").eval()
        output = model(torch.randn(1, 3, 64, 64), output_attentions=True)
        assert len(output.attentions) == 2


@pytest.mark.parametrize("use_distributions", [True, False])
def test_layers_that_stay_in_float32_exist(make_model, use_distributions):
    model = make_model(use_distributions=use_distributions)
    names = list(model.state_dict())
    assert bool(model._keep_in_fp32_modules_strict) == use_distributions
    for kept in model._keep_in_fp32_modules_strict:
        assert any(kept in name for name in names), kept
