import copy
import inspect
import itertools
import json
import logging
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from tiny_models import CONTEXT_MODULES

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.cli import app
from cmdl_hf.data import BENCHMARKS, class_pixel_counts, class_weights, load_data, load_synthetic
from cmdl_hf.models import find_context_module, list_frameworks
from cmdl_hf.training import CMDLTrainingArguments, make_config, make_model
from cmdl_hf.training.network import check_weights

CONFIGS = Path(__file__).resolve().parents[2] / "examples" / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))
PUBLISHED = ("cityscapes", "ade20k", "coco_stuff", "camvid")
BACKBONES = {
    # name: stages, stride, options of timm
    "resnet101": ([1, 2, 3, 4], 8, None),
    "mobilenetv2_100": ([1, 2, 3, 4], 8, None),
    "mobilenetv3_large_100": ([1, 2, 3, 4], 8, None),
    "efficientnet_b0": ([1, 2, 3, 4], 8, None),
    "convnext_tiny": ([0, 1, 2, 3], 8, None),
    "swin_tiny_patch4_window7_224": ([0, 1, 2, 3], 32, {"strict_img_size": False, "feature_cls": "getter"}),
    "swin_base_patch4_window7_224": ([0, 1, 2, 3], 32, {"strict_img_size": False, "feature_cls": "getter"}),
    "hrnet_w48": ([1, 2, 3, 4], 32, None),
    "vit_small_patch14_dinov2": ([2, 5, 8, 11], 14, {"dynamic_img_size": True, "dynamic_img_pad": True}),
}


def parse(tokens):
    """Parse a line of `cmdl train` without running it."""
    _, bound, *_ = app.parse_args(["train", *tokens], exit_on_error=False, print_error=False)
    return bound.arguments


def read(recipe, *flags):
    return parse([str(recipe), "--output-dir", "out", *flags])["args"]


@pytest.fixture(scope="module")
def scenes():
    return load_synthetic(4, 1, 1, size=(64, 64), num_labels=5)


@pytest.fixture(scope="module")
def classes(scenes):
    """What names and colours the classes of a benchmark, without its files."""
    return {**BENCHMARKS, "synthetic": scenes, "own": scenes}


def build_on_meta(config, context_module, use_distributions):
    config = copy.deepcopy(config)
    config.context_module = context_module
    config.use_distributions = use_distributions
    with torch.device("meta"):
        return CMDLForSemanticSegmentation(config)


def build_every_framework(config, stride=8):
    """Build all frameworks, with CMDL and without, on the meta device."""
    for context_module, use_distributions in itertools.product(CONTEXT_MODULES, (True, False)):
        model = build_on_meta(config, context_module, use_distributions)
        assert hasattr(model, "memory_bank") == use_distributions
        assert model.backbone._backbone.feature_info.reduction()[-1] == stride


class TestEveryRecipe:
    @pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
    def recipe(self, request):
        return request.param

    def commands(self, recipe):
        """The command lines of the comment at the top."""
        text = "\n".join(re.findall(r"^#   (.*)", recipe.read_text(), flags=re.MULTILINE)).replace("\\\n", " ")
        return [shlex.split(line) for line in text.splitlines() if re.match("cmdl |accelerate ", line)]

    def test_builds_with_every_framework_and_without_distributions(self, recipe, classes):
        args = read(recipe)
        build_every_framework(make_config(args, classes[args.benchmark]), args.output_stride)

    def test_opens_with_the_command_that_runs_it(self, recipe):
        commands = self.commands(recipe)
        assert commands[0][:3] == ["cmdl", "train", recipe.stem]
        for program, *rest in commands:
            tokens = rest[1:] if program == "cmdl" else rest[rest.index("cmdl_hf.training") + 1 :]
            parsed = parse(tokens)
            assert parsed["args"].benchmark == read(recipe).benchmark
            if recipe.stem in PUBLISHED:
                assert str(parsed["weights"]) == "timm"
                assert parsed["data_dir"] is not None

    def test_steps_are_the_epochs_of_its_comment(self, recipe):
        if read(recipe).benchmark == "own":
            pytest.skip("whoever trains on own data knows how many images there are")
        args = read(recipe)
        comment = re.search(r"max_steps: (\d+)  # (\d+) epochs × (\d+) images / (\d+)", recipe.read_text())
        steps, epochs, images, batch = map(int, comment.groups())
        assert (steps, batch) == (args.max_steps, args.total_batch_size)
        assert epochs == pytest.approx(steps * batch / images, rel=0.004)
        if args.benchmark in PUBLISHED:
            assert images == BENCHMARKS[args.benchmark].layouts[0].num_images["train"]
        else:
            assert images == inspect.signature(load_synthetic).parameters["num_train"].default

    def test_flags_win_over_it(self, recipe):
        for framework in list_frameworks():
            args = read(recipe, "--framework", framework, "--no-distributions", "--backbone", "resnet18")
            assert (args.framework, args.use_distributions, args.backbone) == (framework, False, "resnet18")

    def test_the_learning_rate_falls_to_a_hundredth(self, recipe):
        if recipe.stem in PUBLISHED:
            args = read(recipe)
            assert args.min_learning_rate == pytest.approx(args.learning_rate / 100)

    def test_a_misspelt_key_is_an_error(self, recipe, tmp_path):
        copy = tmp_path / recipe.name
        copy.write_text(recipe.read_text() + "max_stepps: 3\n")
        with pytest.raises(Exception, match=r"max_stepps|max-stepps"):
            read(copy)


def test_there_is_a_recipe_for_every_benchmark():
    assert {*BENCHMARKS, "synthetic", "own"} == {path.stem.removesuffix("_small") for path in RECIPES}
    assert set(PUBLISHED) == set(BENCHMARKS)
    for path in RECIPES:
        assert read(path).benchmark == path.stem.removesuffix("_small")


@pytest.mark.parametrize("name", [*BENCHMARKS])
def test_published_numbers_are_quoted_with_their_source(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert re.search(r"\d\d\.\d\d", text)
    assert re.search("mmsegmentation 1.2.2|PaddleSeg", text)


class TestBackbones:
    @pytest.mark.parametrize("name", BACKBONES)
    def test_stages_stride_and_options_are_derived(self, name, caplog):
        stages, stride, options = BACKBONES[name]
        args = read(CONFIGS / "ade20k.yaml", "--backbone", name)
        with caplog.at_level(logging.WARNING):
            config = make_config(args, BENCHMARKS["ade20k"])
        assert config.backbone_config.out_indices == stages
        assert config.backbone_config.output_stride == (8 if stride == 8 else None)
        assert config.backbone_kwargs == options
        assert (f"{name} cannot be dilated: output_stride=8 does not apply" in caplog.text) == (stride != 8)
        if name in ("mobilenetv2_100", "convnext_tiny", "swin_tiny_patch4_window7_224", "vit_small_patch14_dinov2"):
            build_every_framework(config, stride)
        else:  # UPerNet takes all that a backbone gives
            assert build_on_meta(config, "upernet", True).backbone._backbone.feature_info.reduction()[-1] == stride

    @pytest.mark.parametrize(
        ("name", "framework"),
        [
            ("resnet18", "fcn"),
            ("mobilenetv2_050", "upernet"),
            ("efficientnet_lite0", "fcn"),
            ("convnext_atto", "upernet"),
            ("swin_tiny_patch4_window7_224", "upernet"),
            ("hrnet_w18_small", "fcn"),
            ("vit_tiny_patch16_224", "upernet"),
        ],
    )
    def test_every_family_learns(self, name, framework, scenes):
        args = CMDLTrainingArguments(
            backbone=name, framework=framework, crop_size=(64, 96), hidden_size=16, attention_size=8
        )
        model = make_model(args, scenes).train()
        output = model(torch.randn(2, 3, 64, 96), labels=torch.randint(0, 5, (2, 64, 96)))
        output.loss.backward()
        gradients = [parameter.grad for parameter in model.backbone.parameters() if parameter.grad is not None]
        assert sum(gradient.abs().sum() for gradient in gradients) > 0
        assert all(torch.isfinite(gradient).all() for gradient in gradients)

    def test_swin_survives_saving(self, scenes, tmp_path):
        args = CMDLTrainingArguments(
            backbone="swin_tiny_patch4_window7_224",
            backbone_kwargs={"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
            crop_size=(64, 96),
            hidden_size=16,
            attention_size=8,
        )
        model = make_model(args, scenes).eval()
        model.save_pretrained(tmp_path)
        pixel_values = torch.randn(1, 3, 64, 96)
        again = CMDLForSemanticSegmentation.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            torch.testing.assert_close(again(pixel_values).logits, model(pixel_values).logits, rtol=0, atol=0)

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"backbone": "resnet19"}, r"backbone='resnet19'.*did you mean resnet18"),
            ({"output_stride": 4}, r"cannot have output_stride=4; choose 8, 16 or none \(its own stride 32\)"),
            ({"backbone_kwargs": {"no_such": 1}}, r"backbone_kwargs: 'no_such' is none of the"),
            (
                {"backbone": "beit_base_patch16_224"},
                r"crop_size=\(512, 512\) is not one of them: .*model \(224\)",
            ),
            (
                {"backbone": "swin_tiny_patch4_window7_224", "backbone_kwargs": {"feature_cls": "list"}},
                "set feature_cls: getter",
            ),
            ({"backbone": "levit_128", "crop_size": (224, 224)}, "has 3 stages, but four are needed"),
        ],
    )
    def test_what_cannot_work_is_refused_by_name(self, overrides, message):
        with pytest.raises(ValueError, match=message):
            make_config(CMDLTrainingArguments(**overrides), BENCHMARKS["camvid"])

    @pytest.mark.parametrize("framework", list_frameworks())
    def test_frameworks_and_the_plain_network_are_what_the_recipe_says(self, framework, scenes):
        for use_distributions in (True, False):
            args = CMDLTrainingArguments(
                backbone="resnet18", framework=framework, use_distributions=use_distributions, hidden_size=24
            )
            config = make_config(args, scenes)
            assert config.context_module == find_context_module(framework).name
            assert config.use_distributions == use_distributions
            assert (config.num_labels, config.palette, config.hidden_size) == (5, scenes.palette, 24)

    @pytest.mark.parametrize(
        ("name", "size_divisor"), [("resnet18", 1), ("swin_tiny_patch4_window7_224", 4), ("hrnet_w18_small", 32)]
    )
    def test_images_of_every_size_are_segmented(self, name, size_divisor, scenes):
        args = CMDLTrainingArguments(
            backbone=name, framework="upernet", crop_size=(90, 66), hidden_size=16, attention_size=8
        )
        model = make_model(args, scenes).eval()
        assert model.config.size_divisor == size_divisor
        with torch.no_grad():
            assert model(torch.randn(1, 3, 61, 83)).logits.isfinite().all()

    @pytest.mark.parametrize(
        "name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]
    )
    def test_files_of_every_family_load(self, name, scenes, tmp_path):
        network = timm.create_model(name)
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        args = CMDLTrainingArguments(backbone=name, crop_size=(64, 64), hidden_size=16, attention_size=8, seed=1)
        model = make_model(args, scenes, tmp_path / "weights.safetensors")
        extractor = timm.create_model(
            name,
            features_only=True,
            out_indices=model.config.backbone_config.out_indices,
            output_stride=model.config.backbone_config.output_stride,
            **(model.config.backbone_kwargs or {}),
        )
        wanted = sorted(tensor.double().sum().item() for tensor in network.state_dict().values())
        found = [tensor.double().sum().item() for tensor in model.backbone._backbone.state_dict().values()]
        assert extractor.state_dict().keys() == model.backbone._backbone.state_dict().keys()
        assert set(found) <= set(wanted)

    def test_no_stride_is_no_stride(self, tmp_path):
        assert read(CONFIGS / "ade20k.yaml", "--output-stride", "none").output_stride is None
        (tmp_path / "recipe.yaml").write_text("output_stride: null\n")
        args = read(tmp_path / "recipe.yaml")
        assert args.output_stride is None
        assert make_config(args, BENCHMARKS["camvid"]).backbone_config.output_stride is None

    def test_options_of_timm_arrive_as_numbers(self, tmp_path):
        (tmp_path / "recipe.yaml").write_text("backbone_kwargs: {drop_path_rate: 0.25, pad_type: same}\n")
        flags = ["--backbone-kwargs.drop-path-rate", "0.25", "--backbone-kwargs.pad-type", "same"]
        for args in (
            read(tmp_path / "recipe.yaml", "--backbone", "mobilenetv2_100"),
            read(CONFIGS / "camvid.yaml", "--backbone", "mobilenetv2_100", *flags),
        ):
            config = make_config(args, BENCHMARKS["camvid"])
            assert config.backbone_kwargs == {"drop_path_rate": 0.25, "pad_type": "same"}


class TestClassWeights:
    def make(self, scenes, **overrides):
        args = CMDLTrainingArguments(backbone="resnet18", hidden_size=16, attention_size=8, **overrides)
        return make_config(args, scenes)

    def test_auto_counts_the_training_split(self, scenes):
        expected = class_weights(class_pixel_counts(scenes["train"], 5))
        assert self.make(scenes, class_weights="auto").class_weights == expected

    def test_auto_without_a_training_split_is_refused(self):
        with pytest.raises(ValueError, match="class_weights=auto counts pixels of a train split"):
            self.make(BENCHMARKS["camvid"], class_weights="auto")

    def test_a_file_gives_one_number_for_each_class(self, scenes, tmp_path):
        file = tmp_path / "weights.json"
        file.write_text("[1, 2.5, 0, 1, 1]")
        assert self.make(scenes, class_weights=str(file)).class_weights == [1.0, 2.5, 0.0, 1.0, 1.0]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "holds 2 numbers for 5 classes"),
            ({"sky": 1}, "must hold a list of numbers"),
            ([1, 1, 1, 1, -1], "at least 0"),
            ([1, 1, 1, 1, True], "list of numbers"),
            ([0, 0, 0, 0, 0], "not all 0"),
            ([1, 1, 1, 1, float("nan")], "list of numbers"),
        ],
    )
    def test_other_files_are_refused(self, scenes, tmp_path, content, message):
        file = tmp_path / "weights.json"
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            self.make(scenes, class_weights=str(file))

    def test_no_file_and_no_json_are_refused(self, scenes, tmp_path):
        with pytest.raises(FileNotFoundError, match="class_weights must be auto or a JSON file with 5 numbers"):
            self.make(scenes, class_weights=str(tmp_path / "no.json"))
        (tmp_path / "weights.txt").write_text("1, 2")
        with pytest.raises(ValueError, match="is not a JSON file"):
            self.make(scenes, class_weights=str(tmp_path / "weights.txt"))

    def test_hard_examples_are_passed_on(self, scenes):
        config = self.make(scenes, ohem_threshold=0.7, ohem_min_kept=500)
        assert (config.ohem_threshold, config.ohem_min_kept) == (0.7, 500)


class TestSources:
    def test_a_folder_of_weights_is_refused_before_anything_is_built(self, tmp_path, scenes, monkeypatch):
        monkeypatch.setattr("cmdl_hf.training.network.make_config", lambda *_: pytest.fail("built something"))
        with pytest.raises(ValueError, match=r"safetensors file or the word timm, found the folder .*name the file"):
            make_model(CMDLTrainingArguments(), scenes, tmp_path)

    @pytest.mark.parametrize("word", ["imagenet", "no/such.safetensors"])
    def test_a_word_that_is_no_file_is_refused(self, word):
        with pytest.raises(FileNotFoundError, match=f"there is no file {word}.*--weights timm"):
            check_weights(word)

    def test_files_and_timm_pass(self, tmp_path):
        (tmp_path / "weights.safetensors").touch()
        for weights in (None, "timm", Path("timm"), tmp_path / "weights.safetensors"):
            check_weights(weights)

    def test_class_names_of_a_benchmark_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"id2label is for own data; .*benchmark camvid.*leave out --id2label"):
            load_data("camvid", tmp_path, tmp_path / "classes.txt")

    def test_a_folder_for_generated_scenes_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"synthetic generates its scenes.*leave out --data-dir"):
            load_data("synthetic", tmp_path)

    def test_the_seed_decides_the_weights(self, scenes):
        args = CMDLTrainingArguments(backbone="resnet18", hidden_size=16, attention_size=8)
        models = [make_model(replace(args, seed=seed), scenes) for seed in (0, 0, 1)]
        first, same, other = (model.decode_head[0][0].weight for model in models)
        assert torch.equal(first, same)
        assert not torch.equal(first, other)


def test_model_options_are_fields_of_the_configuration(classes):
    options = ["--model-options.num-distributions", "3", "--model-options.assignment", "sample"]
    args = read(CONFIGS / "synthetic.yaml", *options)
    config = make_config(args, classes["synthetic"])
    assert (config.num_distributions, config.assignment) == (3, "sample")


def test_model_options_hold_lists_and_numbers_in_the_notation_of_python(classes, tmp_path):
    recipe = yaml.safe_load((CONFIGS / "synthetic.yaml").read_text())
    options = {"pool_scales": [1, 2], "prototype_loss_weight": 1e-05, "class_margin_loss_weight": "2E+1"}
    for file in (tmp_path / "recipe.yaml", tmp_path / "again.yaml"):
        file.write_text(yaml.safe_dump(recipe | {"model_options": options}))
        args = read(file)
        config = make_config(args, classes["synthetic"])
        assert list(config.pool_scales) == [1, 2]
        assert (config.prototype_loss_weight, config.class_margin_loss_weight) == (1e-05, 20.0)
        options = args.to_recipe()["model_options"]


def test_tuples_in_options_are_lists_in_the_recipe():
    args = CMDLTrainingArguments(model_options={"pool_scales": (1, 2), "x": {"y": ((1, 2), 3)}})
    assert args.to_recipe()["model_options"] == {"pool_scales": [1, 2], "x": {"y": [[1, 2], 3]}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": "[unclosed"}, "dropout: '[unclosed' cannot be read as YAML"),
        ({"num_distribution": 3}, "did you mean num_distributions?"),
        ({"hidden_size": 3}, "hidden_size is set by another key of the recipe"),
    ],
)
def test_model_options_that_cannot_be_are_refused(classes, options, message):
    args = replace(read(CONFIGS / "synthetic.yaml"), model_options=options)
    with pytest.raises(ValueError, match=re.escape(message)):
        make_config(args, classes["synthetic"])
