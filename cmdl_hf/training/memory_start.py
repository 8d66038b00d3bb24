"""Start of the memory bank from data: cluster centres of the embeddings of each class."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import CMDLForSemanticSegmentation, labels_on_grid
from .loop import TrainingLoop

_NUM_IMAGES = 128
_PIXELS_OF_A_CLASS = 64  # per image


@torch.no_grad()
def start_memory_from_data(loop: TrainingLoop) -> None:
    """Start the prototypes from training data.

    The untrained network computes pixel embeddings of the first training crops. The cluster centres of each class's
    embeddings become its prototypes. This also updates the running statistics of the batch norms, and nothing else.
    Every process must call this function.

    Args:
        loop (`TrainingLoop`): The loop of a model with a memory bank, at step 0.
    """
    model = cast(CMDLForSemanticSegmentation, loop.model)
    batch_size = loop.args.total_batch_size
    num_batches = -(-min(_NUM_IMAGES, len(loop.stream.dataset)) // batch_size)
    embeddings, labels = [], []
    for batch in loop.read_ahead(num_batches):
        with loop.accelerator.autocast():
            output = model(batch["pixel_values"], output_distributions=True)
        grid_labels = labels_on_grid(batch["labels"], output.distribution_ids.shape[1:]).flatten()
        for image_embeddings, image_labels in zip(
            output.pixel_embeddings.chunk(len(batch["labels"])), grid_labels.chunk(len(batch["labels"])), strict=True
        ):
            kept = _pick(image_labels, model.config.num_labels)
            embeddings.append(image_embeddings[kept])
            labels.append(image_labels[kept])
    model.memory_bank.start_from_clusters(torch.cat(embeddings), torch.cat(labels))


def _pick(labels: Tensor, num_labels: int) -> Tensor:
    """Choose a few pixels of every class at random; returns their indices (n,)."""
    order = torch.randperm(len(labels), device=labels.device)
    order = order[(labels[order] >= 0) & (labels[order] < num_labels)]
    one_hot = F.one_hot(labels[order], num_labels)
    rank = (one_hot.cumsum(dim=0) * one_hot).sum(dim=1)  # 1 for the first pixel of a class, and so on
    return order[rank <= _PIXELS_OF_A_CLASS]
