"""The results of an exploration as plain data, for `distributions.json` and the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..diagnostics import cosine_within_class, effective_number
from .layout import class_similarity, find_originals, most_similar_classes, order_classes
from .statistics import DistributionStatistics

DEFINITIONS = {
    "pixel": "A cell of the model's feature grid with a label; labels are brought to the grid by nearest neighbour.",
    "belongs": "A pixel belongs to the most similar distribution of its true class.",
    "nearest": "A pixel's nearest distribution is the most similar one of all classes.",
    "similarity": "Cosine of a pixel's embedding and a distribution's prototype, from -1 to 1.",
    "share": "Share of the class's pixels that belong to the distribution.",
    "purity": "Of all pixels whose nearest distribution is this one, the share whose true class is its class.",
    "mixed_with": "The other true classes of these pixels, with their shares.",
    "mean_similarity": "Mean similarity of the pixels that belong to the distribution.",
    "recall": "Share of the class's pixels whose nearest distribution is of the same class.",
    "num_distinct": "How many different distributions a class has in effect: exp of the entropy of the eigenvalues of "
    "its prototypes' second moment, weighted by their shares (weighted Vendi score, arXiv 2210.02410). Equal ones "
    "count once.",
    "mean_cosine": "Mean cosine between different distributions of a class; 1 if all are equal.",
    "posterior_entropy": "Entropy of the softmax over the distributions of a pixel's class, at the model's voting "
    "temperature, divided by the largest possible. 1 means that a pixel is equally near to all.",
    "agreement": "How often a pixel belongs to the same distribution in a mirrored and recoloured copy of its image.",
    "chance_agreement": "How often two independent pixels of a class belong to the same distribution.",
    "probe_gain": "Mean IoU of a linear classifier on class probabilities that are divided among the distributions, "
    "minus that of one on equally divided ones. Both learn from the first half of the compared images.",
    "permutation_effect": "Change of the mean IoU if the distributions of each class vote in each other's place.",
    "num_used": "Effective number of distributions that the class uses: exp of the entropy of their shares.",
    "dead": "No pixel has ever moved this distribution in training, but another distribution of the class was moved.",
    "duplicate": "The cosine to an earlier distribution of the class is above 0.95.",
    "unused": "No pixel of these images belongs to it, although the class has pixels.",
    "outlier": "One minus the similarity to the nearest distribution, from 0 to 2. It is not a probability.",
}
_MOST_MIXED = 3  # number of other classes named for a distribution


class MemoryBank(Protocol):
    """The parts of a memory bank that an exploration reads."""

    prototypes: Tensor
    num_updates: Tensor

    def find_dead(self) -> Tensor:
        """Return which distributions (K, M) were never updated."""

    def find_duplicates(self) -> Tensor:
        """Return which distributions (K, M) duplicate an earlier one."""


def collect_findings(
    facts: Mapping[str, Any],
    id2label: Mapping[int, str],
    bank: MemoryBank,
    statistics: DistributionStatistics,
    image_names: Sequence[str],
    roles: Mapping[str, float | None],
) -> dict[str, Any]:
    """Put all figures of an exploration together.

    Args:
        facts (`Mapping`): What was looked at; taken over.
        id2label (`Mapping`): Name of every class.
        bank (`MemoryBank`): The distributions.
        statistics (`DistributionStatistics`): What the pass over the images gathered.
        image_names (`Sequence[str]`): Names of the images, by the indices that `statistics` knows.
        roles (`Mapping`): What [`measure_roles`] returned.

    Returns:
        `dict` that JSON can hold: the facts, `roles`, `definitions`, lists of `dead`, `duplicates` and `unused`
        distributions, `classes` with their `distributions`, `class_similarity` and `outlier_quantiles`. None where
        there is nothing to measure.
    """
    similarity = class_similarity(bank.prototypes).cpu()
    classes = [
        {"id": class_id, "name": id2label[class_id], **figures}
        for class_id, figures in enumerate(_class_figures(bank, statistics, image_names))
    ]
    num_pixels, num_right = statistics.num_pixels.sum(), statistics.num_nearest.diagonal(dim1=0, dim2=2).sum()
    return {
        **facts,
        "num_labels": statistics.num_labels,
        "num_distributions": statistics.num_distributions,
        "num_pixels": int(num_pixels),
        "recall": _figure(num_right / num_pixels),
        "num_distinct": _mean([row["num_distinct"] for row in classes if row["num_pixels"]]),
        "mean_cosine": _mean([row["mean_cosine"] for row in classes]),
        "roles": {name: None if value is None else _figure(value) for name, value in roles.items()},
        "definitions": DEFINITIONS,
        "dead": _call_out(classes, "is_dead"),
        "duplicates": _call_out(classes, "duplicate_of"),
        "unused": _call_out(classes, "is_unused"),
        "classes_without_pixels": [row["id"] for row in classes if not row["num_pixels"]],
        "classes_without_updates": [
            row["id"] for row in classes if not any(one["num_updates"] for one in row["distributions"])
        ],
        "classes": classes,
        "class_similarity": {
            "order": order_classes(similarity),
            "cosines": [[_figure(value) for value in row] for row in similarity],
            "most_similar": [
                {"classes": [first, second], "cosine": _figure(value)}
                for first, second, value in most_similar_classes(similarity)
            ],
        },
        "outlier_quantiles": {
            str(share): round(statistics.outlier_quantile(share), 4) for share in (0.01, 0.05, 0.5, 0.95, 0.99, 0.999)
        },
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _class_figures(
    bank: MemoryBank, statistics: DistributionStatistics, image_names: Sequence[str]
) -> list[dict[str, Any]]:
    num_pixels = statistics.num_pixels.sum(dim=1)
    share_of_all = (num_pixels / num_pixels.sum()).tolist()
    recall, num_used = statistics.class_recall.tolist(), statistics.num_used.tolist()
    num_distinct = effective_number(bank.prototypes, statistics.num_pixels.to(bank.prototypes.device)).tolist()
    mean_cosine = cosine_within_class(bank.prototypes).tolist()
    distributions = _distribution_figures(bank, statistics, image_names)
    return [
        {
            "num_pixels": int(num_pixels[class_id]),
            "share": _figure(share_of_all[class_id]),
            "recall": _figure(recall[class_id]),
            "num_used": _figure(num_used[class_id]),
            "num_distinct": _figure(num_distinct[class_id]) if num_pixels[class_id] else None,
            "mean_cosine": _figure(mean_cosine[class_id]),
            "distributions": distributions[class_id],
        }
        for class_id in range(statistics.num_labels)
    ]


def _distribution_figures(
    bank: MemoryBank, statistics: DistributionStatistics, image_names: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """Figures of every distribution: K lists of M."""
    is_dead, num_updates = bank.find_dead().tolist(), bank.num_updates.tolist()
    originals = find_originals(bank.prototypes, bank.find_duplicates())
    num_pixels, num_images = statistics.num_pixels.tolist(), statistics.num_images.tolist()
    share, purity = statistics.share.tolist(), statistics.purity.tolist()
    mean_similarity = statistics.mean_similarity.tolist()
    num_nearest, examples = statistics.num_nearest.cpu(), statistics.examples
    return [
        [
            {
                "id": m,
                "num_pixels": num_pixels[class_id][m],
                "num_images": num_images[class_id][m],
                "share": _figure(share[class_id][m]),
                "purity": _figure(purity[class_id][m]),
                "num_nearest": int(num_nearest[class_id, m].sum()),
                "mixed_with": _mixed_with(num_nearest[class_id, m], class_id),
                "mean_similarity": _figure(mean_similarity[class_id][m]),
                "num_updates": num_updates[class_id][m],
                "is_dead": is_dead[class_id][m],
                "is_unused": not num_pixels[class_id][m] and any(num_pixels[class_id]),
                "duplicate_of": originals.get((class_id, m), (None, 0.0))[0],
                "duplicate_cosine": _figure(originals.get((class_id, m), (None, math.nan))[1]),
                "nearest": [
                    {
                        "image": image_names[cell.image],
                        "row": cell.row,
                        "column": cell.column,
                        "grid": list(cell.grid),
                        "similarity": _figure(cell.similarity),
                    }
                    for cell in examples[class_id][m]
                ],
            }
            for m in range(statistics.num_distributions)
        ]
        for class_id in range(statistics.num_labels)
    ]


def _mixed_with(counts: Tensor, class_id: int) -> list[dict[str, Any]]:
    """Name the other classes whose pixels a distribution is nearest to, the largest first."""
    total = int(counts.sum())
    values, ids = counts.sort(descending=True, stable=True)
    others = [(id_, value) for id_, value in zip(ids.tolist(), values.tolist(), strict=True) if value]
    return [{"class": id_, "share": _figure(value / total)} for id_, value in others if id_ != class_id][:_MOST_MIXED]


def _call_out(classes: Sequence[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    """List the distributions for which something holds."""
    return [
        {"class": row["id"], "distribution": one["id"]}
        | ({"of": one["duplicate_of"], "cosine": one["duplicate_cosine"]} if key == "duplicate_of" else {})
        for row in classes
        for one in row["distributions"]
        if one[key] is not None and one[key] is not False
    ]


def _figure(value: float | Tensor) -> float | None:
    """Round a figure to five digits; None, which JSON has, for nan, which it has not."""
    value = float(value)
    return float(f"{value:.5g}") if math.isfinite(value) else None
