import pytest
import torch
from conftest import CONTEXT_MODULES

from cmdl_hf import make_image_processor
from cmdl_hf.export import TOLERANCE, export_model

onnx = pytest.importorskip("onnx", reason="needs the extra: pip install 'cmdl_hf[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'cmdl_hf[export]'")
pytest.importorskip("onnxscript", reason="needs the extra: pip install 'cmdl_hf[export]'")

SHAPES = ((1, 3, 75, 101), (3, 3, 64, 224), (2, 3, 129, 64))
"""None is the one that is traced, nor one that the export itself compares."""

slow = pytest.mark.slow


def _is_fast(context_module, use_distributions):
    return (context_module, use_distributions) in {("none", True), ("ppm", True), ("aspp", False)}


FRAMEWORKS = [
    pytest.param(name, use, marks=() if _is_fast(name, use) else slow, id=f"{name}-{'cmdl' if use else 'plain'}")
    for name in CONTEXT_MODULES
    for use in (True, False)
]


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


@pytest.mark.parametrize(("context_module", "use_distributions"), FRAMEWORKS)
def test_onnx_runtime_computes_the_logits_at_every_size(make_trained, tmp_path, context_module, use_distributions):
    model = make_trained(context_module=context_module, use_distributions=use_distributions)
    report = export_model(model, tmp_path / "model.onnx")
    assert report.image_size is None
    assert len(report.checked_shapes) == 3
    assert report.max_difference < TOLERANCE
    assert _largest_difference(model, lambda batch: _run_onnx(report.path, batch)) < TOLERANCE
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert report.num_bytes == report.path.stat().st_size


@pytest.mark.parametrize(("context_module", "use_distributions"), FRAMEWORKS)
def test_a_torch_program_computes_the_logits_at_every_size(make_trained, tmp_path, context_module, use_distributions):
    model = make_trained(context_module=context_module, use_distributions=use_distributions)
    report = export_model(model, tmp_path / "model.pt2", "torch-export")
    assert report.max_difference < TOLERANCE
    program = torch.export.load(report.path).module()
    assert _largest_difference(model, program) < TOLERANCE
