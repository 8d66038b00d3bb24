import pytest
import torch
from fake_runs import Counter, plan
from torch._subclasses.fake_tensor import FakeTensorMode

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
from cmdl_hf.models.losses_cmdl import compare_with_distributions, mean_over_classes
from cmdl_hf.models.pieces_cmdl import divide, takes_large_pieces


@pytest.mark.parametrize(("length", "num_pieces"), [(10, 3), (7, 7), (3, 5), (1, 1), (0, 4), (512, 5)])
def test_pieces_cover_all_indices_once(length, num_pieces):
    pieces = divide(length, num_pieces)
    assert len(pieces) == max(1, min(length, num_pieces))
    assert [i for piece in pieces for i in range(length)[piece]] == list(range(length))
    assert len({piece.stop - piece.start for piece in pieces}) <= 2


def test_only_the_cpu_takes_small_pieces():
    assert not takes_large_pieces(torch.device("cpu"))
    assert all(takes_large_pieces(torch.device(name)) for name in ("cuda", "mps", "xpu"))


def test_comparison_runs_in_one_part_on_an_accelerator(monkeypatch):
    calls = []
    monkeypatch.setattr("cmdl_hf.models.losses_cmdl.divide", lambda *args: calls.append(args) or divide(*args))
    for device in ("cpu", "meta"):
        embeddings, directions = torch.empty(32_768, 16, device=device), torch.empty(3, 150, 16, device=device)
        compare_with_distributions(embeddings, directions, torch.zeros(32_768, dtype=torch.int64, device=device))
    assert calls == [(32_768, 15), (32_768, 1)]


def test_comparison_and_contrast_have_few_operators_on_an_accelerator():
    with FakeTensorMode(), plan("large pieces"):
        embeddings, directions = torch.empty(32_768, 256, requires_grad=True), torch.empty(9, 150, 256)
        labels, slopes = torch.empty(32_768, dtype=torch.int64), (torch.ones(()), torch.empty(32_768, 150))
        with Counter(embeddings, directions, labels) as counter:
            _, nearest, contrasts, _ = compare_with_distributions(embeddings, directions, labels, 0.1)
            torch.autograd.grad((mean_over_classes(contrasts, labels, 150), nearest), embeddings, slopes)
    assert sum(counter.operators.values()) <= 70


def count_training_step(name, use_distributions):
    """Operators of forward and backward of a ResNet-50 CMDL-FCN under bf16 autocast, at batch 8, 150 classes, 512²."""
    backbone = {"model_type": "timm_backbone", "backbone": "resnet50", "out_indices": [3, 4], "output_stride": 8}
    with FakeTensorMode(), plan(name):
        config = CMDLConfig(num_labels=150, use_distributions=use_distributions, backbone_config=backbone)
        model = CMDLForSemanticSegmentation(config).train()
        pixel_values, labels = torch.empty(8, 3, 512, 512), torch.empty(8, 512, 512, dtype=torch.int64)
        with Counter() as counter:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(pixel_values, labels=labels).loss
            loss.backward()
    return sum(counter.operators.values())


@pytest.mark.parametrize(("name", "most"), [("large pieces", 1.8), ("kernels", 1.7)])
def test_a_training_step_on_an_accelerator_has_few_operators_more_than_without_distributions(name, most):
    if name == "kernels":
        pytest.importorskip("triton", reason="Triton is not installed; it comes with torch's CUDA builds")
    assert count_training_step(name, True) <= most * count_training_step(name, False)
