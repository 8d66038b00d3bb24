"""The parts of the CamVid study that its numbers rest on."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmdl_hf.comparison import describe_spread, image_interval, mean_ious
from cmdl_hf.data import load_benchmark

STUDY = Path(__file__).parents[2] / "examples" / "camvid_study"


@pytest.fixture
def study(monkeypatch):
    """Import a script of the study."""
    monkeypatch.syspath_prepend(str(STUDY))

    def load(name):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return __import__(name)

    return load


def test_an_arm_is_compared_with_the_plain_network_and_the_control_of_its_framework(study):
    arms = ("fcn-plain", "fcn-control", "fcn-cmdl", "pspnet-plain", "pspnet-direct-control", "pspnet-direct-cmdl")
    assert study("report").pair_arms(arms) == [
        ("fcn-control", "fcn-plain"),
        ("fcn-cmdl", "fcn-plain"),
        ("fcn-cmdl", "fcn-control"),
        ("pspnet-direct-control", "pspnet-plain"),
        ("pspnet-direct-cmdl", "pspnet-plain"),
        ("pspnet-direct-cmdl", "pspnet-direct-control"),
    ]


def test_the_drives_are_those_of_the_test_images(study, shared_dir, tmp_path):
    ids = load_benchmark("camvid", shared_dir / "data" / "CamVid", cache_dir=tmp_path)["test"]["id"]
    for drive, images in study("report").DRIVES.items():
        assert {id_.rpartition("_")[0] for id_ in ids[images]} == {drive}


def test_every_run_of_the_study_is_one_of_its_own(study):
    module = study("study")
    runs = {name: fields for group in module.GROUPS.values() for name, fields in group.items()}
    assert len(runs) == sum(len(group) for group in module.GROUPS.values())
    recipes = {name: module.make_recipe(fields) for name, fields in runs.items()}
    assert not any(recipe.use_test_split for recipe in recipes.values())
    descriptions = {
        str(recipe.to_recipe() | {key: runs[name].get(key) for key in module.OF_NO_RECIPE})
        for name, recipe in recipes.items()
    }
    assert len(descriptions) == len(runs)


def test_results_are_of_the_runs_that_the_study_states(study):
    module = study("study")
    runs = {name: fields for group in module.GROUPS.values() for name, fields in group.items()}
    results = module.read_results()
    assert results
    for name, row in results.items():
        found = ("name", "seconds", "best_step", "training_loss", "scores")
        assert {key: value for key, value in row.items() if key not in found} == runs[name], name
    finals = {name for name, row in results.items() if row.get("is_final")}
    assert finals == {path.stem for path in module.COUNTS.glob("*.npz")}
    for name in finals:
        counts = np.load(module.COUNTS / f"{name}.npz")["counts"]
        found = mean_ious(counts, np.ones((1, len(counts)), dtype=int))[0]
        assert found == pytest.approx(results[name]["scores"]["test"]["mean_iou"])


def test_an_unfiltered_memory_is_moved_by_misclassified_pixels(study, make_model):
    banks = [make_model().memory_bank for _ in range(2)]
    embeddings, labels = F.normalize(torch.randn(60, 16), dim=1), torch.arange(60) % 5
    is_half_correct = torch.arange(60) % 2 == 0
    for bank in banks:
        bank.load_state_dict(banks[0].state_dict())
    banks[0].__class__ = study("study").UnfilteredMemory
    for bank, is_correct in zip(banks, (is_half_correct, torch.ones_like(is_half_correct)), strict=True):
        bank.update(embeddings, bank.similarity(embeddings), labels, is_correct)
    torch.testing.assert_close(banks[0].prototypes, banks[1].prototypes)


def test_a_fusion_is_zeroed_where_it_reads_what_was_aggregated(study, make_model):
    model, zeroed = make_model(), make_model()
    zeroed.load_state_dict(model.state_dict())
    study("study").prepare_model(zeroed, {"is_fusion_zeroed": True})
    half = model.config.hidden_size
    assert zeroed.fusion[0].weight[:, half:].count_nonzero() == 0
    assert torch.equal(zeroed.fusion[0].weight[:, :half], model.fusion[0].weight[:, :half])


@pytest.mark.parametrize("path", ["indirect", "direct", "residual"])
def test_the_context_takes_the_way_that_a_run_says(study, make_model, make_batch, tmp_path, path):
    model, other = (make_model(context_module="ppm").eval() for _ in range(2))
    other.load_state_dict(model.state_dict())
    study("study").prepare_model(other, {"context_path": path})
    found = {}
    for name in ("context_module", "context_attention", "fusion", "context_fusion"):
        getattr(other, name).register_forward_hook(lambda _, inputs, output, name=name: found.update({name: output}))
    other.context_fusion.register_forward_pre_hook(lambda _, inputs: found.update(fused=inputs[0]))
    other.decode_head.register_forward_pre_hook(lambda _, inputs: found.update(classified=inputs[0]))
    pixel_values, _ = make_batch()
    with torch.no_grad():
        assert not torch.equal(other(pixel_values).logits, model(pixel_values).logits)
    context, attended, fusion = found["context_module"], found["context_attention"], found["context_fusion"]
    scale = model.context_layer_scale.detach()[:, None, None]
    read = context + scale * attended if path == "direct" else attended
    torch.testing.assert_close(found["fused"], torch.cat([read, found["fusion"]], dim=1))
    torch.testing.assert_close(found["classified"], context + scale * fusion if path == "residual" else fusion)
    other.save_pretrained(tmp_path)
    torch.testing.assert_close(type(model).from_pretrained(tmp_path).state_dict(), model.state_dict())


@pytest.mark.parametrize("context_module", ["none", "ppm"])
def test_a_look_inside_finds_what_each_part_does(study, make_model, context_module):
    model = make_model(layer_scale_init_value=0.0, context_module=context_module)
    samples = [{"pixel_values": torch.randn(3, 64, 64), "labels": torch.randint(0, 5, (80, 80))} for _ in range(2)]
    found = study("diagnose").look_inside(model, samples)
    assert found["mean_iou"]["final"] == found["mean_iou"]["without_votes"]  # as the fusion reads no votes yet
    assert found["gradients"]["segmentation_loss"] == pytest.approx(1.0)
    assert found["gradients"]["contrastive_loss"] > 0
    assert 0 < found["attention_entropy"] <= 1


def test_the_tables_of_the_page_are_those_of_the_results(study):
    report = study("report")
    page = (STUDY / "README.md").read_text()
    rows = report.read_rows("results.jsonl")
    for prefix in ("pilot", "ablation", "context", "long", "search", "sgd"):
        assert report.tabulate_validation(rows, f"{prefix}-") in page
    assert report.tabulate_diagnostics(report.read_rows("diagnostics.jsonl")) in page
    arms = report.group_arms(rows)
    assert report.tabulate_arms(arms) in page
    assert report.tabulate_drives(arms) in page
    assert report.format_classes(arms) in page


def test_the_published_card_is_that_of_the_best_model(study, tmp_path):
    report = study("report")
    row = report.choose_model(report.group_arms(report.read_rows("results.jsonl")))
    (shown,) = report.MODEL_CARDS.glob("camvid-*.md")
    text = report.publish_card(row, tmp_path).read_text()
    assert shown.name == f"camvid-{row['name']}.md"
    assert shown.read_text() == text
    for split in ("validation", "test"):
        assert f"{100 * row['scores'][split]['mean_iou']:.2f}" in text
    assert "png" not in text  # pictures would show the data set


def test_the_readme_claims_what_the_study_found(study):
    report = study("report")
    arms = report.group_arms(report.read_rows("results.jsonl"))
    rows = [arms[f"{framework}-{arm}"] for framework in ("fcn", "pspnet") for arm in ("plain", "control", "cmdl")]
    unseen = [
        [mean_ious(run[report.DRIVES["Seq05VD"]], np.ones((1, 171), dtype=int))[0] for run in counts]
        for counts in map(report.read_counts, rows)
    ]
    scores = [[[row["scores"][split]["mean_iou"] for row in arm] for arm in rows] for split in ("validation", "test")]
    text = (STUDY.parents[1] / "README.md").read_text()
    for values in (*scores, unseen):
        assert f" | {' | '.join(map(describe_spread, values))} |\n" in text
    counts = [report.read_counts(row) for row in rows]
    gains = [image_interval(counts[cmdl], counts[other])[:3] for cmdl, other in ((2, 0), (2, 1), (5, 3), (5, 4))]
    (fcn, fcn_control, pspnet, pspnet_control) = [100 * np.array(gain) for gain in gains]
    claims = (
        f"CMDL gains {fcn[0]:.1f} points with FCN (95 % interval {fcn[1]:+.1f} to {fcn[2]:+.1f})",
        f"and {pspnet[0]:.1f} with PSPNet ({pspnet[1]:+.1f} to {pspnet[2]:+.1f})",
        f"The gains over the control are {fcn_control[0]:.1f} and {pspnet_control[0]:.1f}.",
    )
    for claim in claims:
        assert claim in " ".join(text.split())
