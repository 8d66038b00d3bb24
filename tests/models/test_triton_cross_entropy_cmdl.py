"""The kernels run on a GPU where there is one, and elsewhere in Triton's interpreter, which is slow."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fake_runs import plan
from transformers.dynamic_module_utils import get_imports

from cmdl_hf.models import cross_entropy_cmdl
from cmdl_hf.models.cross_entropy_cmdl import takes_kernels, weighted_cross_entropy_sums

kernels = pytest.importorskip(
    "cmdl_hf.models.triton_cross_entropy_cmdl",
    reason="Triton is not installed; it comes with torch's CUDA builds",
    exc_type=ImportError,
)
# The interpreter takes the logarithm of what a mask leaves out, too.
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def plain_losses(logits, labels, align_corners):
    """Cross-entropies at image size, in float64."""
    size = labels.shape[-2:]
    enlarged = F.interpolate(logits.double(), size=size, mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(enlarged, labels, reduction="none")


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("num_labels", "grid", "size"),
    [
        (5, (2, 3), (16, 24)),
        (2, (3, 4), (13, 9)),
        (182, (2, 1), (3, 2)),
        (19, (5, 7), (3, 4)),
        (33, (1, 4), (1, 11)),
        (4, (3, 2), (1, 1)),
        (3, (1, 1), (7, 5)),
        (3, (4, 3), (4, 3)),
    ],
)
def test_losses_and_gradients_equal_the_plain_formulation(num_labels, grid, size, align_corners):
    logits = torch.randn(2, num_labels, *grid, device=DEVICE) * 4
    labels = torch.randint(0, num_labels, (2, *size), device=DEVICE)
    slopes = torch.randn(2, *size, device=DEVICE)
    ours, plain = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found, expected = (
        f(x, labels, align_corners) for f, x in ((kernels.enlarged_cross_entropy, ours), (plain_losses, plain))
    )
    torch.testing.assert_close(found.double(), expected, atol=5e-6, rtol=1e-6)
    (found * slopes).sum().backward()
    (expected * slopes).sum().backward()
    torch.testing.assert_close(ours.grad.double(), plain.grad, atol=1e-5, rtol=1e-5)


def sums(name, logits, labels, align_corners=False, **settings):
    """Sums of losses and weights, and the gradient of the mean, by one of the plans."""
    logits = logits.clone().requires_grad_()
    with plan(name):
        total, weight = weighted_cross_entropy_sums(logits, labels, 255, align_corners, **settings)
    (total / weight.clamp_min(1)).backward()
    return total.detach(), weight, logits.grad


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ohem", [{}, {"ohem_threshold": 0.3, "ohem_min_kept": 50}])
def test_kernels_compute_what_bands_do(align_corners, dtype, ohem):
    logits = (torch.randn(2, 5, 3, 4, device=DEVICE) * 3).to(dtype)
    labels = torch.randint(0, 5, (2, 17, 20), device=DEVICE)
    labels[0, :3] = labels[1] = 255  # an image of ignored pixels
    settings = {"class_weights": torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0], device=DEVICE)} | ohem
    found, expected = (sums(name, logits, labels, align_corners, **settings) for name in ("kernels", "cpu"))
    assert found[2].dtype == dtype
    torch.testing.assert_close(found[:2], expected[:2], atol=0, rtol=1e-6)
    tolerance = {"atol": 1e-7, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-5, "rtol": 1e-2}
    torch.testing.assert_close(found[2], expected[2], **tolerance)


def test_without_any_pixel_the_loss_by_kernels_is_zero():
    total, weight, gradient = sums("kernels", torch.randn(1, 4, 2, 2), torch.full((1, 9, 9), 255))
    assert total == weight == gradient.abs().max() == 0


def test_a_label_that_is_no_class_gives_no_number():
    labels = torch.tensor([[[0, 3], [-1, 2]]], device=DEVICE)
    losses = kernels.enlarged_cross_entropy(torch.randn(1, 3, 1, 1, device=DEVICE), labels, False)
    assert losses.isnan().tolist() == [[[False, True], [True, False]]]


def test_logits_far_apart_overflow_nowhere():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], device=DEVICE).T.reshape(1, 2, 1, 2).requires_grad_()
    labels = torch.zeros(1, 2, 12, dtype=torch.int64, device=DEVICE)
    losses = kernels.enlarged_cross_entropy(logits, labels, False)
    torch.testing.assert_close(losses.double(), plain_losses(logits, labels, False), atol=1e-2, rtol=1e-5)
    losses.sum().backward()
    assert logits.grad.isfinite().all()


def test_a_compiled_graph_has_no_break_and_no_scores_at_image_size():
    logits, labels = torch.randn(1, 3, 2, 2, device=DEVICE), torch.randint(0, 3, (1, 8, 8), device=DEVICE)
    sizes = []

    def backend(graph, inputs):
        sizes.extend(node.meta["example_value"].numel() for node in graph.graph.nodes if has_size(node))
        return graph

    def has_size(node):
        return isinstance(node.meta.get("example_value"), torch.Tensor)

    with plan("kernels"):
        compiled = torch.compile(
            lambda x: weighted_cross_entropy_sums(x, labels, 255, ohem_threshold=0.7, ohem_min_kept=9)[0],
            fullgraph=True,
            backend=backend,
        )
        found = logits.clone().requires_grad_()
        compiled(found).backward()
    _, weight, gradient = sums("kernels", logits, labels, ohem_threshold=0.7, ohem_min_kept=9)
    torch.testing.assert_close(found.grad, gradient * weight)
    assert sizes
    assert max(sizes) <= labels.numel()


def test_kernels_run_on_cuda_where_triton_is_and_sizes_allow(monkeypatch):
    def tensor(device, *shape):
        return SimpleNamespace(device=torch.device(device), shape=shape)

    labels = tensor("cuda", 2, 512, 512)
    assert takes_kernels(tensor("cuda", 2, 150, 64, 64), labels)
    assert not takes_kernels(tensor("cuda", 2, 150, 64, 64), tensor("cuda", 2, 40_000, 40_000))
    assert not takes_kernels(tensor("cuda", 2**16, 150, 4, 4), labels)
    assert not any(takes_kernels(tensor(device, 2, 150, 64, 64), labels) for device in ("cpu", "mps", "xpu"))
    monkeypatch.setattr(cross_entropy_cmdl, "_HAS_TRITON", False)
    assert not takes_kernels(tensor("cuda", 2, 150, 64, 64), labels)


def test_a_model_from_a_folder_needs_no_triton():
    assert "triton" not in get_imports(kernels.__file__)


@pytest.mark.slow
def test_kernels_compile_for_hopper_without_spilling_registers():
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cmdl_hf.models import triton_cross_entropy_cmdl as kernels

POINTERS = {"labels": "*i64"} | dict.fromkeys(("logits", "losses", "log_sums", "grad_losses", "gradient"), "*fp32")
for name, blocks in (("_log_sum_kernel", kernels.FORWARD_BLOCKS), ("_gradient_kernel", kernels.BACKWARD_BLOCKS)):
    kernel = getattr(kernels, name)
    constants = {"align_corners": True, "is_first": False} | blocks
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature = {key: "constexpr" if key in constants else POINTERS.get(key, "i32") for key in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(key),): value for key, value in constants.items()})
    options = {"num_warps": blocks["num_warps"]}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert "local" not in compiled.asm["ptx"], name
print("compiled")
"""
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env={"PATH": ""}
    )
    assert result.stdout == "compiled\n", result.stderr
