"""Trainings that start from a trained model: `cmdl train --model`."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from own_data import write_own_data
from short_runs import leave_out_pictures
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation, make_image_processor
from cmdl_hf.cli import main
from cmdl_hf.cli.train import parse_recipe
from cmdl_hf.data import load_synthetic
from cmdl_hf.sweep import Outcome
from cmdl_hf.training import CMDLTrainingArguments, load_start_model, make_config, run

RECIPE = CMDLTrainingArguments(
    benchmark="own",
    crop_size=(64, 64),
    max_steps=2,
    eval_steps=2,
    save_steps=1,
    total_batch_size=2,
    learning_rate=0.01,
    num_workers=0,
)
NETWORK = replace(
    RECIPE,
    framework="pspnet",
    backbone="mobilenetv3_small_050",
    output_stride=16,
    hidden_size=16,
    attention_size=8,
    model_options={"num_distributions": 2, "contrastive_loss_weight": 0.5},
)


NORM = {"distribution_learning.prototype_norm.weight", "distribution_learning.prototype_norm.bias"}  # over classes


class Classes:
    def __init__(self, names):
        self.id2label = dict(enumerate(names))
        self.num_labels = len(names)
        self.palette = [[10 * index, 0, 0] for index in range(self.num_labels)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    names = write_own_data(folder)
    return folder, list(names.values())


def save_model(folder, names, processor=None, **changes):
    torch.manual_seed(1)
    args = replace(NETWORK, **changes)
    model = CMDLForSemanticSegmentation(make_config(args, Classes(names)))
    model.save_pretrained(folder)
    (processor or make_image_processor({"shortest_edge": 48, "longest_edge": 96})).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def same(data, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("same") / "streets", data[1])


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("other") / "animals", ["cat", "dog"])


def test_network_and_size_of_images_are_the_models_and_all_else_is_the_recipes(same):
    args = load_start_model(same).fit(RECIPE)
    assert (args.framework, args.backbone, args.output_stride) == ("pspnet", "mobilenetv3_small_050", 16)
    assert (args.hidden_size, args.attention_size, args.resize) == (16, 8, (48, 96))
    assert args.model_options == {"num_distributions": 2, "contrastive_loss_weight": 0.5}
    assert (args.crop_size, args.learning_rate, args.max_steps) == ((64, 64), 0.01, 2)
    assert load_start_model(same).fit(args) == args
    again = replace(args, model_options={"contrastive-loss-weight": "0.25", "num_distributions": "2"})
    assert load_start_model(same).fit(again).model_options["contrastive_loss_weight"] == 0.25


def test_a_recipe_of_another_network_is_refused_with_flags_that_fit(same):
    start = load_start_model(same)
    recipe = replace(RECIPE, backbone="resnet18", hidden_size=32, resize=(32, 64), use_distributions=False)
    recipe = replace(recipe, framework="upernet", model_options={"num_distributions": "5"})
    with pytest.raises(ValueError, match="from the model streets keeps its network") as refused:
        start.fit(recipe)
    message = str(refused.value)
    for part in (
        "backbone is mobilenetv3_small_050 in the model and resnet18 in the recipe",
        "hidden_size is 16 in the model and 32 in the recipe",
        "model_options.num_distributions is 2 in the model and 5 in the recipe",
    ):
        assert part in message
    flags = message.partition("or add ")[2].split()
    fitting = parse_recipe(["own", *flags, "--output-stride", "16"])
    assert start.fit(fitting).hidden_size == 16


@pytest.mark.parametrize(
    ("change", "is_fitting"),
    [
        ({"backbone": "mobilenetv3_small_050.lamb_in1k"}, True),
        ({"framework": "ppm"}, True),
        ({"backbone_kwargs": {"pad_type": "same"}}, False),
        ({"model_options": {"contrastive_loss_weight": 0.1}}, True),
        ({"model_options": {"voting": "posterior"}}, False),
        ({"model_options": {"hidden_size": 16}}, False),
        ({"model_options": {"num_distributoins": 2}}, False),
    ],
)
def test_other_words_for_the_same_network_fit(same, change, is_fitting):
    start = load_start_model(same)
    if is_fitting:
        start.fit(replace(RECIPE, **change))
    else:
        with pytest.raises(ValueError, match=next(iter(change.get("model_options", change)))):
            start.fit(replace(RECIPE, **change))


def test_the_same_classes_keep_everything(same, data, caplog):
    caplog.set_level("INFO", "cmdl_hf")
    start = load_start_model(same)
    model = start.make_model(start.fit(RECIPE), Classes(data[1])).eval()
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(pixels).logits, start.model(pixels).logits)
    assert torch.equal(model.memory_bank.prototypes, start.model.memory_bank.prototypes)
    assert "the model streets: classifiers and memory bank are kept" in caplog.text


@pytest.mark.parametrize("names", [["a", "b", "c", "d"], ["c", "b", "a"]], ids=["more", "as many"])
def test_other_classes_begin_anew_and_all_else_is_kept(same, names, caplog):
    caplog.set_level("INFO", "cmdl_hf")
    start = load_start_model(same)
    args = start.fit(RECIPE)
    state, old = start.make_model(args, Classes(names)).state_dict(), start.model.state_dict()
    anew = {name for name in state if state[name].shape != old[name].shape or not torch.equal(state[name], old[name])}
    parts = {re.sub(r"\.\d+\.(weight|bias)$", "", name) for name in anew}
    assert parts - {"memory_bank.num_updates", *NORM} == {
        "coarse_head",
        "decode_head",
        "auxiliary_head",
        "memory_bank.prototypes",
    }
    assert not any(name.endswith(tuple(f"_head.0.{part}" for part in ("weight", "bias"))) for name in anew)
    assert torch.equal(start.make_model(args, Classes(names)).memory_bank.prototypes, state["memory_bank.prototypes"])
    assert "classifiers and memory bank begin anew" in caplog.text


def test_a_run_from_a_model_is_recorded_and_goes_on_from_the_same_model_only(same, data, tmp_path, monkeypatch):
    leave_out_pictures(monkeypatch.setattr)
    folder, places = tmp_path / "run", (data[0], data[0] / "classes.txt")
    run(RECIPE, folder, *places, model=same)
    facts = json.loads((folder / "run.json").read_text())
    start = load_start_model(same)
    assert facts["model"] == {"name": "streets", "is_on_hub": False, "digest": start.digest}
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["hidden_size"] == 16
    assert "started from the trained model streets." in (folder / "README.md").read_text()
    saved = CMDLForSemanticSegmentation.from_pretrained(folder)
    assert saved.config.context_module == "ppm"
    assert json.loads((folder / "preprocessor_config.json").read_text())["size"] == {
        "shortest_edge": 48,
        "longest_edge": 96,
    }
    weights = (folder / "last" / "model.safetensors").read_bytes()
    # As if it had been killed after step 1.
    (folder / "run.json").write_text(json.dumps(facts | {"is_finished": False}))
    shutil.rmtree(folder / "checkpoints" / "step-00000002")
    for refused in (
        None,
        save_model(tmp_path / "twin", data[1], hidden_size=16, model_options={"num_distributions": 3}),
    ):
        with pytest.raises(FileExistsError, match=r"holds a run of another recipe .*model was the one with weights"):
            run(start.fit(RECIPE) if refused is None else RECIPE, folder, *places, model=refused)
    moved = Path(shutil.copytree(same, tmp_path / "elsewhere"))
    run(RECIPE, folder, *places, model=moved)
    assert (folder / "last" / "model.safetensors").read_bytes() == weights


def test_the_command_trains_from_a_folder_and_names_the_run_after_it(other, data, tmp_path, monkeypatch, capsys):
    leave_out_pictures(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("benchmark: own\ncrop_size: [64, 64]\nmax_steps: 1\nnum_workers: 0\n")
    words = ["--data-dir", str(data[0]), "--id2label", str(data[0] / "classes.txt"), "--total-batch-size", "2"]
    main(["train", "mine.yaml", "--model", str(other), *words])
    folder = tmp_path / "outputs" / "own-cmdl-pspnet-mobilenetv3_small_050-from_animals-batch_2-seed0"
    assert CMDLForSemanticSegmentation.from_pretrained(folder).config.num_labels == 3
    printed = capsys.readouterr()
    assert "(3 instead of 2): classifiers and memory bank begin anew" in printed.err
    lines = printed.out.splitlines()
    assert lines[0] == "classes on the validation split:"
    assert {line.split()[0] for line in lines[2:5]} == set(data[1])
    assert "% are predicted as `" in printed.out
    assert lines[-2].startswith("validation: mean IoU")
    assert lines[-1] == f"run: {folder.relative_to(tmp_path)}"


def test_a_sweep_gives_the_model_to_every_run_and_refuses_another_network_first(same, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("benchmark: own\ncrop_size: [64, 64]\nmax_steps: 1\n")
    commands = []

    def note(runs, make_command, *_):
        commands.extend(map(make_command, runs))
        return Outcome()

    monkeypatch.setattr("cmdl_hf.sweep.sweep", note)
    words = ["sweep", "mine.yaml", "--model", str(same), "--set"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "learning_rate=0.1,0.2"])
    assert ended.value.code == 0
    assert len(commands) == 2
    for command, rate in zip(commands, ("-lr_0.1", "-lr_0.2"), strict=True):
        assert command[command.index("--model") + 1] == str(same)
        folder = Path(command[command.index("--output-dir") + 1])
        assert folder.name == f"own-cmdl-pspnet-mobilenetv3_small_050-from_streets{rate}-seed0"
    with pytest.raises(SystemExit, match="hidden_size is 16 in the model and 32 in the recipe"):
        main([*words, "hidden_size=32,64"])


def test_a_plain_framework_and_a_backbone_of_transformers_can_be_the_start(make_model, tmp_path):
    make_model(use_distributions=False, context_module="ppm").save_pretrained(tmp_path / "plain")
    make_image_processor().save_pretrained(tmp_path / "plain")
    start = load_start_model(tmp_path / "plain")
    args = start.fit(RECIPE)
    assert (args.use_distributions, args.backbone, args.output_stride, args.resize) == (False, "resnet", None, None)
    model = start.make_model(args, load_synthetic(1, 0, 0, size=(64, 64)))
    kept = start.model.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items() if "backbone" in name)


def test_models_that_cannot_be_the_start_are_refused(same, tmp_path):
    config = SegformerConfig(hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1, 1, 1, 1], depths=[1, 1, 1, 1])
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "segformer")
    SegformerImageProcessor().save_pretrained(tmp_path / "segformer")
    with pytest.raises(ValueError, match="no CMDL model but a SegformerForSemanticSegmentation"):
        load_start_model(tmp_path / "segformer")
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        load_start_model(tmp_path / "nothing")
    with pytest.raises(ValueError, match="leave out --weights timm, or --model"):
        run(RECIPE, tmp_path / "run", weights="timm", model=same)
    processor = make_image_processor()
    processor.image_mean = [0.5, 0.5, 0.5]
    save_model(tmp_path / "grey", ["a", "b"], processor)
    with pytest.raises(ValueError, match="does not normalise images with the mean"):
        load_start_model(tmp_path / "grey")
    save_model(tmp_path / "square", ["a", "b"], make_image_processor({"height": 64, "width": 64}))
    with pytest.raises(ValueError, match="which distorts them"):
        load_start_model(tmp_path / "square")
    evil = Path(shutil.copytree(same, tmp_path / "evil"))
    content = json.loads((evil / "config.json").read_text())
    (evil / "config.json").write_text(json.dumps(content | {"backbone_kwargs": {"checkpoint_path": "x.pth"}}))
    with pytest.raises(ValueError, match="'checkpoint_path' is none of the options that shape a network"):
        load_start_model(evil)


def test_a_recipe_names_no_model(same, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"benchmark: own\nmodel: {same}\n")
    with pytest.raises(SystemExit, match="model is no field of a recipe; give it as a flag: --model"):
        main(["train", str(tmp_path / "mine.yaml")])


def test_what_the_model_decides_covers_every_field_of_a_network(same):
    """A field that a later version adds to CMDLConfig is kept from the model, too."""
    start = load_start_model(same)
    config = start.make_config(start.fit(RECIPE), Classes(["a", "b", "c"])).to_dict()
    own = start.model.config.to_dict()
    changed = {name for name in own if name in config and own[name] != config[name]}
    assert changed <= {
        "id2label",
        "label2id",
        "palette",
        "_name_or_path",
        "architectures",
        "dtype",
        "transformers_version",
    }
    assert isinstance(start.model.config, CMDLConfig)
