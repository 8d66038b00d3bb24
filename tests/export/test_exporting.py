import importlib.util
import json
import re
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import CONTEXT_MODULES
from transformers import DPTImageProcessor, MobileViTImageProcessor, SegformerConfig, SegformerForSemanticSegmentation

import cmdl_hf
from cmdl_hf import export, make_image_processor
from cmdl_hf.cli import main
from cmdl_hf.export import METADATA_FILE, TOLERANCE, export_model
from cmdl_hf.export.preprocessing import describe_preprocessing
from cmdl_hf.inference import load_segmenter
from cmdl_hf.models.context_cmdl import average_pool

onnx = pytest.importorskip("onnx", reason="needs the extra: pip install 'cmdl_hf[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'cmdl_hf[export]'")
pytest.importorskip("onnxscript", reason="needs the extra: pip install 'cmdl_hf[export]'")

SHAPES = ((1, 3, 75, 101), (3, 3, 64, 224), (2, 3, 129, 64))
"""None is the one that is traced, nor one that the export itself compares."""

CASES = [(name, use_distributions) for name in CONTEXT_MODULES for use_distributions in (True, False)]


def _params(fast):
    """All frameworks, those of which one case is fast enough for every day unmarked."""
    return [pytest.param(*case, marks=() if case == fast else pytest.mark.slow) for case in CASES]


@pytest.fixture
def make_trained(make_model):
    """Build a tiny model in which nothing is at its start, or identities would hide what is left out."""

    def make(**overrides):
        model = make_model(**overrides)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2)
            if hasattr(module, "gamma"):
                torch.nn.init.constant_(module.gamma, 0.7)
        return model.eval()

    return make


@pytest.fixture
def folder(make_trained, tmp_path):
    labels = dict(enumerate(("road", "Straße", "sky", "tree", "car")))
    palette = [[10 * i, 20 * i, 250 - i] for i in range(5)]
    make_trained(id2label=labels, palette=palette).save_pretrained(tmp_path / "town")
    make_image_processor().save_pretrained(tmp_path / "town")
    return tmp_path / "town"


def _run_onnx(path, pixel_values):
    session = onnxruntime.InferenceSession(str(path))
    return torch.from_numpy(session.run(["logits"], {"pixel_values": pixel_values.numpy()})[0])


@torch.no_grad()
def _largest_difference(model, run, shapes=SHAPES):
    batches = [torch.randn(shape) for shape in shapes]
    expected = [model(pixel_values=batch).logits for batch in batches]
    return max((run(batch) - logits).abs().max().item() for batch, logits in zip(batches, expected, strict=True))


@pytest.mark.parametrize(("context_module", "use_distributions"), _params(fast=("none", True)))
def test_onnx_runtime_computes_the_logits_at_every_size(make_trained, tmp_path, context_module, use_distributions):
    model = make_trained(context_module=context_module, use_distributions=use_distributions)
    report = export_model(model, tmp_path / "deep" / "model.onnx")
    assert report.image_size is None
    assert len(report.checked_shapes) == 3
    assert report.max_difference < TOLERANCE
    assert _largest_difference(model, lambda batch: _run_onnx(report.path, batch)) < TOLERANCE
    assert [file.name for file in report.path.parent.iterdir()] == ["model.onnx"]
    assert report.num_bytes == report.path.stat().st_size


@pytest.mark.parametrize(("context_module", "use_distributions"), _params(fast=("none", False)))
def test_a_torch_program_computes_the_logits_at_every_size(make_trained, tmp_path, context_module, use_distributions):
    model = make_trained(context_module=context_module, use_distributions=use_distributions)
    report = export_model(model, tmp_path / "model.pt2", "torch-export")
    assert report.max_difference < TOLERANCE
    extra_files = {METADATA_FILE: ""}
    program = torch.export.load(report.path, extra_files=extra_files)
    assert _largest_difference(model, program.module()) < TOLERANCE
    assert set(json.loads(extra_files[METADATA_FILE])["id2label"]) == {"0", "1", "2", "3", "4"}


@pytest.mark.parametrize("format", ["onnx", pytest.param("torch-export", marks=pytest.mark.slow)])
def test_votes_by_the_posterior_are_exported(make_trained, tmp_path, format):
    model = make_trained(voting="posterior")
    path = tmp_path / ("model.onnx" if format == "onnx" else "model.pt2")
    assert export_model(model, path, format).max_difference < TOLERANCE
    run = (lambda batch: _run_onnx(path, batch)) if format == "onnx" else torch.export.load(path).module()
    assert _largest_difference(model, run) < TOLERANCE


def test_the_command_writes_a_file_that_runs_as_the_documentation_says(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["export", "town", "--opset", "18", "--out", "model.onnx", "--output", "classes"])
    assert re.search(
        r"largest difference from the model's logits: \d\.\de-\d\d\nSaved to model.onnx \(0", capsys.readouterr().out
    )

    proto = onnx.load("model.onnx")
    metadata = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert metadata["cmdl_hf_version"] == cmdl_hf.__version__
    assert metadata["model_name"] == "town"
    assert metadata["id2label"] == {"0": "road", "1": "Straße", "2": "sky", "3": "tree", "4": "car"}
    assert metadata["palette"][1] == [10, 20, 249]
    assert metadata["image_size"] is None
    assert metadata["preprocessing"] == {
        "channel_order": "RGB",
        "size": None,
        "resample": "bilinear",
        "crop_size": None,
        "rescale_factor": pytest.approx(1 / 255),
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    assert [opset.version for opset in proto.opset_import if opset.domain == ""] == [18]
    axes = [axis.dim_param or axis.dim_value for axis in proto.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]

    # K=5, M=3, C=16: the product alone, neither the bank nor the fusion's weight
    shapes = {tuple(tensor.dims) for tensor in proto.graph.initializer}
    assert (16, 5, 1, 1) in shapes
    assert not shapes & {(5, 3, 16), (5, 48), (48, 5), (16, 48), (48, 16), (16, 48, 1, 1)}

    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("street.png")
    (example,) = re.findall(r"```python\n(.*?)```", export.__doc__, flags=re.DOTALL)
    exec(textwrap.dedent(example), {})
    model, processor = load_segmenter(folder)
    with torch.no_grad():
        output = model(**processor(Image.open("street.png"), return_tensors="pt"))
    (expected,) = processor.post_process_semantic_segmentation(output, target_sizes=[(70, 90)])
    assert (np.asarray(Image.open("segmentation.png")) == expected.numpy()).mean() > 0.999


def test_colours_in_another_order_are_in_the_metadata_and_the_documentation(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MobileViTImageProcessor(do_resize=False, do_center_crop=False).save_pretrained(folder)
    export_model(folder, "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("street.png")
    (example,) = re.findall(r"```python\n(.*?)```", export.__doc__, flags=re.DOTALL)
    names = {}
    exec(textwrap.dedent(example), names)
    assert names["metadata"]["preprocessing"]["channel_order"] == "BGR"
    processor = load_segmenter(folder)[1]
    expected = processor(Image.open("street.png"), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(names["pixels"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("processor", "step"),
    [
        (DPTImageProcessor(do_resize=False, do_pad=True, size_divisor=32), "do_pad=True, size_divisor=32"),
        (
            DPTImageProcessor(keep_aspect_ratio=True, ensure_multiple_of=32),
            "keep_aspect_ratio=True, ensure_multiple_of=32",
        ),
        (DPTImageProcessor(size_divisor=32), "size_divisor=32"),
    ],
)
def test_steps_that_the_metadata_cannot_say_are_refused(make_trained, tmp_path, processor, step):
    with pytest.raises(ValueError, match="what the metadata of the file cannot say") as caught:
        export_model(
            make_trained(context_module="none"), tmp_path / "model.pt2", "torch-export", image_processor=processor
        )
    for part in step.split(", "):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    describe_preprocessing(DPTImageProcessor(), 3)


@pytest.mark.parametrize("format", ["onnx", pytest.param("torch-export", marks=pytest.mark.slow)])
def test_the_classes_of_a_file_are_those_of_post_processing(make_trained, tmp_path, format):
    model = make_trained(context_module="none")
    path = tmp_path / f"model{export.SUFFIXES[format]}"
    report = export_model(model, path, format, output="classes")
    assert report.max_difference < TOLERANCE
    if format == "onnx":
        session = onnxruntime.InferenceSession(str(path))
        assert [output.name for output in session.get_outputs()] == ["logits", "classes"]
    for shape in SHAPES:
        pixel_values = torch.randn(shape)
        if format == "onnx":
            logits, classes = map(torch.from_numpy, session.run(None, {"pixel_values": pixel_values.numpy()}))
        else:
            logits, classes = torch.export.load(path).module()(pixel_values)
        expected = make_image_processor().post_process_semantic_segmentation(
            SimpleNamespace(logits=logits), target_sizes=[shape[-2:]] * shape[0]
        )
        assert classes.dtype == torch.int64
        assert (classes != torch.stack(expected)).float().mean() < 1e-3


def test_classes_that_are_not_the_best_do_not_stay(make_trained, tmp_path, monkeypatch):
    def swap(self, pixel_values):
        logits = self.model(pixel_values=pixel_values).logits
        return logits, torch.zeros_like(pixel_values[:, 0], dtype=torch.int64)

    monkeypatch.setattr("cmdl_hf.export.tracing._LogitsAndClasses.forward", swap)
    with pytest.raises(ValueError, match="classes are not those with the largest scores"):
        export_model(make_trained(), tmp_path / "model.pt2", "torch-export", output="classes")
    assert not list(tmp_path.iterdir())


def test_neither_bank_nor_fusion_is_in_a_torch_program_and_the_model_is_left_alone(make_trained, tmp_path):
    model = make_trained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    export_model(model, tmp_path / "model.pt2", "torch-export", image_size=(64, 96))
    names = "\n".join(torch.export.load(tmp_path / "model.pt2").state_dict)
    assert "semantic_aggregation.vote_fusion" in names
    assert not re.search("memory_bank|distribution_learning|auxiliary_head", names)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_pooling_by_matrices_is_adaptive_pooling(monkeypatch):
    feature_map = torch.randn(2, 4, 13, 5, dtype=torch.float64)
    expected = [torch.nn.functional.adaptive_avg_pool2d(feature_map, scale) for scale in (1, 2, 3, 6, 17)]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for scale, pooled in zip((1, 2, 3, 6, 17), expected, strict=True):
        torch.testing.assert_close(average_pool(feature_map, scale), pooled, rtol=0, atol=1e-14)


def test_a_backbone_of_one_size_gives_a_file_of_that_size(make_trained, tmp_path, caplog):
    backbone = {"model_type": "timm_backbone", "backbone": "vit_tiny_patch16_224", "out_indices": [0, 1]}
    kwargs = {"img_size": (32, 48), "depth": 2, "embed_dim": 16, "num_heads": 2}
    model = make_trained(backbone_config=backbone, backbone_kwargs=kwargs, use_distributions=False)
    with caplog.at_level("INFO", logger="cmdl_hf"):
        report = export_model(model, tmp_path / "model.pt2", "torch-export")
    assert report.image_size == (32, 48)
    assert report.checked_shapes == ((1, 3, 32, 48), (3, 3, 32, 48))
    assert "only images of 32×48" in caplog.text


@pytest.mark.slow
def test_images_are_brought_to_the_multiple_that_the_backbone_needs(make_trained, tmp_path):
    model = make_trained(size_divisor=32, use_distributions=False)
    report = export_model(model, tmp_path / "model.onnx")
    assert report.checked_shapes[0] == (1, 3, 97, 131)
    assert _largest_difference(model, lambda batch: _run_onnx(report.path, batch)) < TOLERANCE


@pytest.mark.slow
def test_other_segmenters_are_exported_as_they_are(tmp_path):
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
    config = SegformerConfig(**sizes, decoder_hidden_size=8, num_labels=4)
    model = SegformerForSemanticSegmentation(config).eval()
    report = export_model(model, tmp_path / "model.onnx", image_processor=make_image_processor())
    assert report.image_size is None
    assert _largest_difference(model, lambda batch: _run_onnx(report.path, batch)) < TOLERANCE


def test_a_file_that_computes_something_else_does_not_stay(make_trained, tmp_path, monkeypatch):
    other = SimpleNamespace(module=lambda: lambda batch: torch.zeros(len(batch), 5, 2, 3))
    monkeypatch.setattr(torch.export, "load", lambda path: other)
    (tmp_path / "model.pt2").write_bytes(b"earlier")
    with pytest.raises(
        ValueError, match=r"logits of file and model are not equal: on .*\(1, 3, 64, 96\).*1e-04.*--image-size"
    ):
        export_model(
            make_trained(use_distributions=False), tmp_path / "model.pt2", "torch-export", image_size=(64, 96)
        )
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.pt2", b"earlier")]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.tflite", {"format": "tflite"}, "one of onnx, torch-export, got 'tflite'"),
        ("model.bin", {}, r"ends in \.onnx, got .*model\.bin; name .*model\.onnx"),
        ("model.onnx", {"output": "scores"}, "output must be one of logits, classes, got 'scores'"),
        ("model.onnx", {"image_size": (0, 64)}, "height and width in pixels, got"),
        ("model.pt2", {"format": "torch-export", "opset": 18}, "opset is only for format onnx"),
    ],
)
def test_impossible_options_are_refused(make_model, tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        export_model(make_model(), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_cure_is_told(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnx and onnxscript: .*pip install -e '.*\[export\]'"):
        export_model(make_model(), tmp_path / "model.onnx")


@pytest.mark.parametrize("target", ["file/model.onnx", "folder.onnx"])
def test_a_path_that_cannot_be_written_is_told_before_the_work(make_model, tmp_path, target):
    (tmp_path / "file").touch()
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OSError, match=r"cannot be written \(.*name another place|is a folder; name a file"):
        export_model(make_model(), tmp_path / target)


def test_models_that_are_none_are_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for model, message in (("./absent", "there is no folder"), ("empty", r"no config\.json")):
        with pytest.raises(SystemExit, match=f"^cmdl: .*{message}"):
            main(["export", model])
    assert not list(tmp_path.rglob("*.onnx"))
