"""Cross-entropies of bilinearly enlarged logits as Triton kernels. Scores at image size exist in registers only.

The pixels of an image that have the same four neighbours on the feature grid form a rectangle, here called a cell.
Cell (i, j) lies between the points (i, j), (i, j+1), (i+1, j) and (i+1, j+1) of the grid. The bounds of the cells come
from integers, so they are exact for every pair of sizes.

The first kernel computes the log-sum-exp of every pixel: a thread has pixels that lie below each other, and reads the
classes one after the other. The second kernel computes the gradient at the size of the logits: a program has a cell
and a block of classes, computes the scores again, and adds up what they give to the four points. It runs once for each
choice of even or odd i and j. Cells of one run share no point, so programs never wait for each other, and the gradient
has the same bits in every run.

Importing this file needs Triton.
"""

import math
from typing import Any

import torch
from torch import Tensor

try:  # with the names that transformers' check of the imports of remote code passes over
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("cross-entropy by kernels needs Triton: pip install triton") from error

MAX_SIZE = 2**29  # largest product of an image's size and the grid's, so that integers of 32 bits suffice

_LOG2_E = tl.constexpr(1.4426950408889634)
_ABSENT = tl.constexpr(-1e30)  # score of classes that do not exist; finite, as differences are computed with it
_SIZES = ["num_labels", "grid_height", "grid_width", "height", "width"]  # no kernel of its own for every size

# What the kernels are built with: pixels and classes of a program, and its warps. `benchmarks/losses.py` tries others.
FORWARD_BLOCKS = {"num_rows": 8, "num_columns": 64, "num_warps": 2}
BACKWARD_BLOCKS = {"num_columns": 8, "num_classes": 32, "num_warps": 1}


@triton.jit
def _cell(index: tl.tensor, length: tl.tensor, size: tl.tensor, align_corners: tl.constexpr) -> tl.tensor:
    """Return the cell of positions in an image of `size` on a grid of `length`, in one dimension."""
    if align_corners:
        cell = index * (length - 1) // tl.maximum(size - 1, 1)
    else:
        cell = tl.maximum((2 * index + 1) * length - size, 0) // (2 * size)
    return tl.minimum(cell, length - 1)


@triton.jit
def _first(cell: tl.tensor, length: tl.tensor, size: tl.tensor, align_corners: tl.constexpr) -> tl.tensor:
    """Return the first position in a cell or in one after it."""
    if align_corners:
        first = (cell * tl.maximum(size - 1, 1) + length - 2) // tl.maximum(length - 1, 1)
    else:
        first = ((2 * cell + 1) * size + length - 1) // (2 * length)
    return tl.where(cell <= 0, 0, tl.where(cell >= length, size, tl.minimum(first, size)))


@triton.jit
def _weight(
    index: tl.tensor, cell: tl.tensor, length: tl.tensor, size: tl.tensor, align_corners: tl.constexpr
) -> tl.tensor:
    """Return the weight of the second of the two points that positions lie between."""
    if align_corners:
        denominator = tl.maximum(size - 1, 1)
        numerator = index * (length - 1)
    else:
        denominator = 2 * size
        numerator = tl.maximum((2 * index + 1) * length - size, 0)
    weight = (numerator - cell * denominator).to(tl.float32) * (1.0 / (denominator + 0.0))
    return tl.where(cell + 1 < length, weight, 0.0)  # behind the last point there is none


@triton.jit
def _interpolate(a: tl.tensor, b: tl.tensor, weight: tl.tensor) -> tl.tensor:
    return a + weight * (b - a)


@triton.jit
def _scores(k: tl.tensor, corners: tl.tuple, x: tl.tensor, y: tl.tensor) -> tl.tensor:
    """Return the scores (rows, columns) of class k, to the base 2."""
    above, below, columns, j, right, width, num_labels, area = corners
    mask = columns < tl.where(k < num_labels, width, 0)
    a = tl.load(above + k * area + j, mask=mask, other=_ABSENT)
    b = tl.load(above + k * area + right, mask=mask, other=_ABSENT)
    c = tl.load(below + k * area + j, mask=mask, other=_ABSENT)
    d = tl.load(below + k * area + right, mask=mask, other=_ABSENT)
    return _interpolate(_interpolate(a, b, x) * _LOG2_E, _interpolate(c, d, x) * _LOG2_E, y)


@triton.jit(do_not_specialize=_SIZES)
def _log_sum_kernel(
    logits: tl.tensor,  # (B, K, h, w)
    labels: tl.tensor,  # (B, H, W)
    losses: tl.tensor,  # (B, H, W)
    log_sums: tl.tensor,  # (B, H, W), to the base 2
    num_labels: tl.tensor,
    grid_height: tl.tensor,
    grid_width: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    align_corners: tl.constexpr,
    num_rows: tl.constexpr,
    num_columns: tl.constexpr,
) -> None:
    image, i = tl.program_id(2).to(tl.int64), tl.program_id(1)
    columns = tl.program_id(0) * num_columns + tl.arange(0, num_columns)[None, :]
    j = _cell(columns, grid_width, width, align_corners)
    x = _weight(columns, j, grid_width, width, align_corners)
    area = grid_height * grid_width
    above = logits + image * num_labels * area + i * grid_width
    below = above + tl.where(i + 1 < grid_height, grid_width, 0)
    right = j + tl.where(j + 1 < grid_width, 1, 0)
    losses += image * height * width
    log_sums += image * height * width
    labels += image * height * width
    end = _first(i + 1, grid_height, height, align_corners)
    for first_row in range(_first(i, grid_height, height, align_corners), end, num_rows):
        rows = first_row + tl.arange(0, num_rows)[:, None]
        y = _weight(rows, i, grid_height, height, align_corners)
        is_inside = (rows < end) & (columns < width)
        pixels = rows * width + columns
        label = tl.load(labels + pixels, mask=is_inside, other=0).to(tl.int32)
        label = tl.where(label < num_labels, label, -1)
        own = tl.full([num_rows, num_columns], float("nan"), tl.float32)  # stays so for labels that are no class
        largest = tl.full([num_rows, num_columns], _ABSENT, tl.float32)
        sums = tl.zeros([num_rows, num_columns], tl.float32)
        for first in range(0, num_labels, 4):  # four at a time, so that most exponentials are of scores
            corners = above, below, columns, j, right, width, num_labels, area
            p = _scores(first, corners, x, y)
            q = _scores(first + 1, corners, x, y)
            r = _scores(first + 2, corners, x, y)
            s = _scores(first + 3, corners, x, y)
            new_largest = tl.maximum(largest, tl.maximum(tl.maximum(p, q), tl.maximum(r, s)))
            new_sums = tl.exp2(p - new_largest) + tl.exp2(q - new_largest)
            new_sums += tl.exp2(r - new_largest) + tl.exp2(s - new_largest)
            sums = sums * tl.exp2(largest - new_largest) + new_sums
            largest = new_largest
            own = tl.where(label == first, p, tl.where(label == first + 1, q, own))
            own = tl.where(label == first + 2, r, tl.where(label == first + 3, s, own))
        log_sum = tl.log2(sums)
        tl.store(losses + pixels, (largest - own + log_sum) / _LOG2_E, mask=is_inside)
        tl.store(log_sums + pixels, largest + log_sum, mask=is_inside)


@triton.jit
def _slopes(scores: tl.tensor, classes: tl.tensor, pixels: tl.tuple, steps: tl.tensor) -> tl.tensor:
    """Return the gradient of the scores (columns, classes)."""
    grad_losses, labels, log_sums, is_inside = pixels
    grad_loss = tl.load(grad_losses + steps, mask=is_inside, other=0.0)
    own = tl.load(labels + steps, mask=is_inside, other=-1)
    log_sum = tl.load(log_sums + steps, mask=is_inside, other=float("inf"))
    return tl.exp2(scores - log_sum) * grad_loss - tl.where(own == classes, grad_loss, 0.0)


@triton.jit(do_not_specialize=[*_SIZES, "odd_i", "odd_j"])
def _gradient_kernel(
    grad_losses: tl.tensor,  # (B, H, W)
    logits: tl.tensor,  # (B, h, w, K)
    labels: tl.tensor,  # (B, H, W)
    log_sums: tl.tensor,  # (B, H, W), to the base 2
    gradient: tl.tensor,  # (B, h, w, K)
    odd_i: tl.tensor,
    odd_j: tl.tensor,
    num_labels: tl.tensor,
    grid_height: tl.tensor,
    grid_width: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    is_first: tl.constexpr,
    align_corners: tl.constexpr,
    num_columns: tl.constexpr,
    num_classes: tl.constexpr,
) -> None:
    num_blocks = tl.cdiv(num_labels, num_classes)
    image = (tl.program_id(2) // num_blocks).to(tl.int64)
    i, j = 2 * tl.program_id(1) + odd_i, 2 * tl.program_id(0) + odd_j
    if (i >= grid_height) | (j >= grid_width):
        return
    classes = tl.program_id(2) % num_blocks * num_classes + tl.arange(0, num_classes)[None, :]
    is_class = classes < num_labels
    num_right = tl.where(j + 1 < grid_width, num_labels, 0)
    num_below = tl.where(i + 1 < grid_height, num_labels, 0)
    a_point = ((image * grid_height + i) * grid_width + j) * num_labels + classes
    b_point = a_point + num_right
    below = num_below * grid_width
    a = tl.load(logits + a_point, mask=is_class, other=0.0) * _LOG2_E
    b = tl.load(logits + b_point, mask=is_class, other=0.0) * _LOG2_E
    c = tl.load(logits + a_point + below, mask=is_class, other=0.0) * _LOG2_E
    d = tl.load(logits + b_point + below, mask=is_class, other=0.0) * _LOG2_E
    grad_a, grad_b = tl.zeros([1, num_classes], tl.float32), tl.zeros([1, num_classes], tl.float32)
    grad_c, grad_d = tl.zeros([1, num_classes], tl.float32), tl.zeros([1, num_classes], tl.float32)
    first_row = _first(i, grid_height, height, align_corners)
    end_row = _first(i + 1, grid_height, height, align_corners)
    end_column = _first(j + 1, grid_width, width, align_corners)
    steps = tl.arange(0, num_columns)[:, None]
    for first_column in range(_first(j, grid_width, width, align_corners), end_column, num_columns):
        is_inside = first_column + steps < end_column
        x = _weight(first_column + steps, j, grid_width, width, align_corners)
        for row in range(first_row, end_row):
            y = _weight(row, i, grid_height, height, align_corners)
            start = (image * height + row) * width + first_column
            pixels = grad_losses + start, labels + start, log_sums + start, is_inside
            scores = _interpolate(_interpolate(a, c, y), _interpolate(b, d, y), x)  # (columns, classes)
            slopes = _slopes(scores, classes, pixels, steps)
            both = tl.sum(slopes, axis=0, keep_dims=True)
            of_right = tl.sum(slopes * x, axis=0, keep_dims=True)
            of_left = both - of_right
            grad_a += (1 - y) * of_left
            grad_b += (1 - y) * of_right
            grad_c += y * of_left
            grad_d += y * of_right
    _add(gradient + a_point, grad_a, is_class, is_first)
    _add(gradient + b_point, grad_b, classes < num_right, is_first)
    _add(gradient + a_point + below, grad_c, classes < num_below, is_first)
    _add(gradient + b_point + below, grad_d, classes < tl.minimum(num_right, num_below), is_first)


@triton.jit
def _add(place: tl.tensor, values: tl.tensor, mask: tl.tensor, is_first: tl.constexpr) -> None:
    if not is_first:
        values += tl.load(place, mask=mask, other=0.0)
    tl.store(place, values, mask=mask)


def is_possible(logits: Tensor, labels: Tensor) -> bool:
    """Tell whether the kernels can count with these sizes: below billions, and at most 65,535 images and rows."""
    (height, width), grid = labels.shape[-2:], logits.shape[-2:]
    products = [2 * height * grid[0], 2 * width * grid[1], math.prod(logits.shape[1:]) // 2, height * width]
    num_blocks = -(-logits.shape[1] // BACKWARD_BLOCKS["num_classes"])
    return max(products) < MAX_SIZE and max(logits.shape[0] * num_blocks, grid[0]) < 2**16


@torch.library.custom_op("cmdl_hf::enlarged_cross_entropy", mutates_args=())
def _enlarged_cross_entropy(logits: Tensor, labels: Tensor, align_corners: bool) -> tuple[Tensor, Tensor]:
    logits, labels = logits.contiguous(), labels.contiguous()
    losses, log_sums = (torch.empty(labels.shape, dtype=torch.float32, device=labels.device) for _ in range(2))
    sizes = *logits.shape[1:], *labels.shape[1:]
    rows = min(FORWARD_BLOCKS["num_rows"], triton.next_power_of_2(max(sizes[3] // sizes[1], 1)))  # of a cell
    grid = triton.cdiv(sizes[4], FORWARD_BLOCKS["num_columns"]), sizes[1], len(logits)
    with torch.cuda.device_of(logits):
        _log_sum_kernel[grid](
            logits, labels, losses, log_sums, *sizes, align_corners, **FORWARD_BLOCKS | {"num_rows": rows}
        )
    return losses, log_sums


@_enlarged_cross_entropy.register_fake
def _(logits: Tensor, labels: Tensor, align_corners: bool) -> tuple[Tensor, Tensor]:
    return logits.new_empty(labels.shape), logits.new_empty(labels.shape)


@torch.library.custom_op("cmdl_hf::enlarged_cross_entropy_gradient", mutates_args=())
def _enlarged_cross_entropy_gradient(
    grad_losses: Tensor, logits: Tensor, labels: Tensor, log_sums: Tensor, align_corners: bool
) -> Tensor:
    grad_losses, labels = grad_losses.contiguous(), labels.contiguous()
    logits = logits.contiguous(memory_format=torch.channels_last)
    gradient = torch.empty_like(logits)
    sizes = *logits.shape[1:], *labels.shape[1:]
    blocks = len(logits) * triton.cdiv(sizes[0], BACKWARD_BLOCKS["num_classes"])
    tensors = grad_losses, logits, labels, log_sums, gradient
    with torch.cuda.device_of(logits):
        for odd_i, odd_j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            grid = (sizes[2] + 1 - odd_j) // 2, (sizes[1] + 1 - odd_i) // 2, blocks
            if min(grid) > 0:  # else there is no odd cell
                is_first = not (odd_i or odd_j)
                _gradient_kernel[grid](*tensors, odd_i, odd_j, *sizes, is_first, align_corners, **BACKWARD_BLOCKS)
    return gradient


@_enlarged_cross_entropy_gradient.register_fake
def _(grad_losses: Tensor, logits: Tensor, labels: Tensor, log_sums: Tensor, align_corners: bool) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.channels_last)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])
    ctx.align_corners = inputs[2]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_losses: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    return _enlarged_cross_entropy_gradient(grad_losses, *ctx.saved_tensors, ctx.align_corners), None, None


_enlarged_cross_entropy.register_autograd(_backward, setup_context=_save)


def enlarged_cross_entropy(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    """Compute the cross-entropy of every pixel with bilinearly enlarged logits.

    Args:
        logits (`Tensor` of shape (B, K, h, w), float32): Scores on the feature grid.
        labels (`Tensor` of shape (B, H, W), int64): Classes at image size in 0..K-1; the loss of any other is NaN.
        align_corners (`bool`): As in `F.interpolate`.

    Returns:
        `Tensor` of shape (B, H, W), float32. Its gradient for the logits has the memory format channels_last.
    """
    losses, _ = _enlarged_cross_entropy(logits, labels, align_corners)
    return losses
