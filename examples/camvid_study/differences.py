"""Differences between the arms of the study on the test split, with intervals over images and over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from study import COUNTS

from cmdl_hf.comparison import Interval, resample, seed_interval, subtract

Arms = Mapping[str, Sequence[Mapping[str, Any]]]  # the rows of the runs of each arm
OF_DISTRIBUTIONS = ("m1", "assigned", "assigned-votes")  # arms that are also compared with CMDL's defaults


class Difference(NamedTuple):
    """The difference of the mean IoU between two arms on the test split."""

    first: str
    second: str
    over_images: Interval
    over_seeds: Interval | None  # None if an arm has one seed only
    by_seed: list[float]  # of the seeds that both arms have

    @property
    def name(self) -> str:
        """Both arms, as a table shows them."""
        return f"{self.first} − {self.second}"


def pair_arms(arms: Iterable[str]) -> list[tuple[str, str]]:
    """Pair every arm with the plain network and the control of its framework, and some with `cmdl`."""
    names = list(arms)
    pairs = []
    for name in names:
        framework, _, arm = name.partition("-")
        others = () if arm == "plain" else ("plain", "control", *(("cmdl",) if arm in OF_DISTRIBUTIONS else ()))
        pairs += [(name, f"{framework}-{other}") for other in others if other != arm]
    return [pair for pair in pairs if pair[1] in names]


def read_counts(rows: Iterable[Mapping[str, Any]]) -> list[np.ndarray]:
    """Read the counts (images, 2, K) of each run of an arm on the test images."""
    return [np.load(COUNTS / f"{row['name']}.npz")["counts"] for row in rows]


def find_interval(arms: Arms, pair: tuple[str, str], start: int = 0, stop: int | None = None) -> Interval:
    """Find the difference of a pair of arms and its interval over images, on a part of the test images."""
    first, second = (_resample(tuple(row["name"] for row in arms[name]), start, stop) for name in pair)
    return subtract(first, second)


@cache
def _resample(names: tuple[str, ...], start: int, stop: int | None) -> np.ndarray:
    return resample([counts[start:stop] for counts in read_counts({"name": name} for name in names)])


def find_differences(arms: Arms, pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    """Find the differences of pairs of arms."""
    scores = {name: {row["seed"]: row["scores"]["test"]["mean_iou"] for row in rows} for name, rows in arms.items()}
    return [
        Difference(
            first,
            second,
            find_interval(arms, (first, second)),
            seed_interval(list(scores[first].values()), list(scores[second].values())),
            [score - scores[second][seed] for seed, score in scores[first].items() if seed in scores[second]],
        )
        for first, second in pairs
    ]


def format_interval(interval: Interval | None) -> str:
    """Format the ends of an interval in points."""
    return "–" if interval is None else f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
