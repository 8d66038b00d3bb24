import pytest
import torch
from fake_runs import Counter, plan
from torch._subclasses.fake_tensor import FakeTensorMode

from cmdl_hf.models import large_pieces_cmdl
from cmdl_hf.models.cross_entropy_cmdl import image_size_cross_entropy, weighted_cross_entropy_sums
from cmdl_hf.models.large_pieces_cmdl import large_piece_cross_entropy
from cmdl_hf.models.pieces_cmdl import MEMORY_BUDGET


def sums(name, logits, labels, align_corners, **settings):
    """Sums of losses and weights, and the gradient of the first, by one of the plans."""
    logits = logits.clone().requires_grad_()
    with plan(name):
        total, weight = weighted_cross_entropy_sums(logits, labels, 255, align_corners, **settings)
    (0.5 * total).backward()
    return total.detach(), weight, logits.grad


@pytest.mark.parametrize("budget", [2**28, 20_000, 1])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(96, 100), (33, 47), (9, 13), (5, 7), (1, 1)])
@pytest.mark.parametrize("settings", [{}, {"class_weights": torch.tensor([1.0, 0, 2, 0.5, 3]), "ohem_threshold": 0.3}])
def test_large_pieces_compute_what_bands_do(monkeypatch, budget, align_corners, size, settings):
    monkeypatch.setattr(large_pieces_cmdl, "MEMORY_BUDGET", budget)
    logits, labels = torch.randn(3, 5, 9, 13) * 4, torch.randint(0, 5, (3, *size))
    if size != (1, 1):
        labels[:, : size[0] // 3] = labels[1] = 255  # an image of ignored pixels
    ohem = {"ohem_min_kept": 50} if settings else {}
    found, expected = (
        sums(name, logits, labels, align_corners, **settings, **ohem) for name in ("large pieces", "cpu")
    )
    torch.testing.assert_close(found[:2], expected[:2], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[2], expected[2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_labels", [2, 19, 182])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_pieces_take_any_number_of_classes_and_bf16(num_labels, dtype):
    logits, labels = (torch.randn(2, num_labels, 4, 4) * 3).to(dtype), torch.randint(0, num_labels, (2, 30, 32))
    found, expected = (sums(name, logits, labels, False) for name in ("large pieces", "cpu"))
    torch.testing.assert_close(found[:2], expected[:2], atol=0, rtol=1e-6)
    assert found[2].dtype == dtype
    torch.testing.assert_close(found[2], expected[2], atol=1e-5, rtol=1e-5 if dtype == torch.float32 else 1e-2)


def test_known_losses_give_the_same_gradient():
    logits, labels, weights = torch.randn(2, 5, 4, 6), torch.randint(0, 5, (2, 21, 30)), torch.rand(2, 21, 30)
    gradients = []
    _, losses = large_piece_cross_entropy(logits, labels, weights, True)
    for known in (None, losses):
        leaf = logits.clone().requires_grad_()
        total, _ = large_piece_cross_entropy(leaf, labels, weights, True, known)
        gradients.append(torch.autograd.grad(total, leaf)[0])
    torch.testing.assert_close(*gradients)


def count(name, **settings):
    """Operators of a loss and its gradient at batch 8, 150 classes and 512², and what it holds at once."""
    with FakeTensorMode(), plan(name):
        logits = torch.empty(8, 150, 64, 64, requires_grad=True)
        labels, slope = torch.empty(8, 512, 512, dtype=torch.int64), torch.ones(())
        with Counter(logits, labels, slope) as counter:
            if settings:
                total, weight = weighted_cross_entropy_sums(logits, labels, 255, False, **settings)
                loss = total / weight.clamp_min(1)
            else:
                loss = image_size_cross_entropy(logits, labels)
            torch.autograd.grad(loss, logits, slope)
    return sum(counter.operators.values()), counter.peak


@pytest.mark.parametrize(
    ("name", "settings", "most"),
    [
        ("large pieces", {}, 120),
        ("large pieces", {"ohem_threshold": 0.7}, 180),
        ("kernels", {}, 25),
        ("kernels", {"ohem_threshold": 0.7}, 35),
    ],
)
def test_a_loss_on_an_accelerator_has_few_operators_within_the_budget(name, settings, most):
    if name == "kernels":
        pytest.importorskip("triton", reason="Triton is not installed; it comes with torch's CUDA builds")
    num_operators, peak = count(name, **settings)
    assert num_operators <= most
    assert peak <= MEMORY_BUDGET
