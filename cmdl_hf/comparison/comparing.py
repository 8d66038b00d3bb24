"""The work of `cmdl compare`: group runs, check that they were scored alike, and write tables and a picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..escaping import MAX_NAME, code_span, one_line
from ..files import check_can_write, write_text
from .classes import RARE_SHARE, find_rare, order_classes, tabulate_classes
from .figure import draw_comparison
from .intervals import NUM_RESAMPLES, Interval, find_block_size, resample, seed_interval, subtract
from .runs import Group, ScoredRun, group_runs, read_run
from .tables import Table, describe_spread

PAGE_FILE = "comparison.md"
FIGURE_FILE = "comparison.png"


@dataclass(frozen=True)
class Difference:
    """The difference of the mean IoU between a group and the first one.

    Args:
        name (`str`): Name of the group.
        over_images ([`Interval`]): The difference, with its interval over images.
        over_seeds ([`Interval`], *optional*): With its interval over seeds, if both groups have two seeds.
    """

    name: str
    over_images: Interval
    over_seeds: Interval | None


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Args:
        groups (`list` of [`Group`]): Runs of one recipe, in the order in which they were named.
        splits (`list` of strings): Splits on which all runs were scored alike. The last one is compared in detail.
        left_out (`list` of strings): Splits that are not compared, each with the reason.
    """

    groups: list[Group]
    splits: list[str]
    left_out: list[str]

    @property
    def split(self) -> str:
        """The split that is compared in detail: test, if all runs were scored on it, else validation."""
        return next((name for name in ("test", "validation") if name in self.splits), self.splits[0])

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        run = self.groups[0].runs[0]
        num_classes = run.counts[self.split].unions.shape[1]
        names = run.classes if len(run.classes) == num_classes else tuple(f"class {k}" for k in range(num_classes))
        return [one_line(name, MAX_NAME) for name in names]

    @property
    def rare(self) -> list[int]:
        """The rare classes, by their share of the labels."""
        return find_rare(self.groups[0].runs[0].counts[self.split].label_pixels)

    def find_differences(self) -> list[Difference]:
        """Compare every group with the first one, on `split`."""
        return self._differences

    @cached_property
    def _differences(self) -> list[Difference]:
        """The differences: tables and picture show them, and resampling thousands of images takes long."""
        split = self.split
        block_size = find_block_size(len(self.groups[0].runs[0].counts[split].ids))
        resampled = [resample([run.counts[split].stacked for run in group.runs], block_size) for group in self.groups]
        scores = [[run.scores[split]["mean_iou"] for run in group.runs] for group in self.groups]
        return [
            Difference(group.name, subtract(draws, resampled[0]), seed_interval(values, scores[0]))
            for group, draws, values in zip(self.groups[1:], resampled[1:], scores[1:], strict=True)
        ]

    def tabulate(self) -> list[Table]:
        """Make the tables: the groups, their differences if there are any, and the classes."""
        tables = [self._tabulate_groups(), self._tabulate_classes()]
        if len(self.groups) > 1:
            tables.insert(1, self._tabulate_differences())
        return tables

    def _tabulate_groups(self) -> Table:
        longest = max(run.seconds for group in self.groups for run in group.runs)
        unit, factor = ("minutes", 1 / 60) if longest > 600 else ("seconds", 1.0)
        columns: dict[str, Callable[[Group], str]] = {
            "runs": lambda group: group.name,
            "seeds": lambda group: ", ".join(str(run.seed) for run in group.runs),
        }
        for split in self.splits:
            columns[f"mean IoU, {split}, %"] = lambda group, split=split: describe_spread(  # type: ignore[misc]
                [run.scores[split]["mean_iou"] for run in group.runs]
            )
        columns |= {
            "training loss": lambda group: describe_spread([run.training_loss for run in group.runs], 1, 3),
            unit: lambda group: describe_spread([factor * run.seconds for run in group.runs], 1),
            "GiB": lambda group: describe_spread([run.memory_gib for run in group.runs], 1),
        }
        note = (
            "Mean ± standard deviation over the seeds. Training loss: the segmentation loss over the last quarter of "
            f"the training. {unit.capitalize()}: the training without scoring. GiB: the most memory in use, of the "
            "accelerator or, on a CPU, of the process."
        )
        rows = [[write(group) for write in columns.values()] for group in self.groups]
        return Table("Runs", list(columns), rows, " ".join([note, *self.left_out]))

    def _tabulate_differences(self) -> Table:
        num_images = len(self.groups[0].runs[0].counts[self.split].ids)
        note = (
            f"Over images: a paired bootstrap of {NUM_RESAMPLES:,} resamples of the {num_images} images, in blocks of "
            f"{find_block_size(num_images)} neighbours; it covers the choice of images, with these trained models. "
            "Over seeds: Welch's t; it covers the choice of seeds, on these images, and needs two seeds in each group."
        )
        rows = [
            [
                each.name,
                f"{100 * each.over_images.difference:+.1f}",
                *map(_format, (each.over_images, each.over_seeds)),
            ]
            for each in self.find_differences()
        ]
        title = f"Difference of the mean IoU on {self.split} from {self.groups[0].name}, points"
        return Table(title, ["runs", "difference", "95 % over images", "95 % over seeds"], rows, note)

    def _tabulate_classes(self) -> Table:
        split = self.split
        pixels = self.groups[0].runs[0].counts[split].label_pixels
        groups = {group.name: [run.scores[split]["per_class_iou"] for run in group.runs] for group in self.groups}
        table = tabulate_classes(groups, self.classes, order_classes(pixels), self.rare, f"IoU by class on {split}, %")
        note = f"Rare: less than {100 * RARE_SHARE:.0f} % of the labelled pixels. The rarest class is first."
        return replace(table, note=note if self.rare else "")

    def to_markdown(self) -> str:
        """Return the comparison as a page in Markdown, with the picture beside it."""
        counts = self.groups[0].runs[0].counts[self.split]
        names = ", ".join(code_span(run.name) for group in self.groups for run in group.runs)
        head = [
            "# Comparison of runs",
            f"All runs were scored on the same {len(counts.ids)} images of {self.split}: {counts.protocol}.",
            f"![Mean IoU of every run, differences, and IoU of the classes]({FIGURE_FILE})",
        ]
        return "\n\n".join([*head, *(table.to_markdown() for table in self.tabulate()), f"Runs: {names}."]) + "\n"

    def write(self, folder: str | Path) -> None:
        """Write the page and the picture to a folder."""
        folder = Path(folder)
        draw_comparison(
            self.groups, self.split, self.find_differences(), self.classes, self.rare, folder / FIGURE_FILE
        )
        write_text(folder / PAGE_FILE, self.to_markdown())


def compare(folders: Sequence[str | Path], out: str | Path) -> Comparison:
    """Compare runs, and write `comparison.md` and `comparison.png`.

    Args:
        folders (`Sequence` of `str` or `Path`): Folders of finished runs of `cmdl train`.
        out (`str` or `Path`): Folder to write to. Files of an earlier comparison are replaced.

    Returns:
        [`Comparison`].

    Raises:
        FileNotFoundError: if a folder holds no run.
        ValueError: if a run is unfinished or named twice, or the runs were not scored on the same images by the same
            protocol.
        OSError: if the files cannot be written.
    """
    if not folders:
        raise ValueError("name at least one run: an output folder of cmdl train")
    places = [Path(folder).resolve() for folder in folders]
    if twice := next((folder for folder in folders if places.count(Path(folder).resolve()) > 1), None):
        raise ValueError(f"{twice} is named twice; name every run once")
    check_can_write(Path(out), is_folder=True)
    runs = [read_run(folder) for folder in folders]
    splits, left_out = _find_splits(runs)
    comparison = Comparison(group_runs(runs), splits, left_out)
    comparison.write(out)
    return comparison


def _find_splits(runs: Sequence[ScoredRun]) -> tuple[list[str], list[str]]:
    """Find the splits on which all runs were scored alike, and say why others are left out."""
    first = runs[0]
    if other := next((run for run in runs if run.classes != first.classes), None):
        raise ValueError(f"{first.name} and {other.name} have other classes: they cannot be compared")
    splits, reasons = [], []
    for split in dict.fromkeys(name for run in runs for name in run.counts):
        lacking = next((run for run in runs if split not in run.counts), None)
        if lacking is not None:
            reasons.append(f"Not compared: {split}, on which {lacking.name} was not scored.")
            continue
        pairs = ((run, first.counts[split].find_difference(run.counts[split])) for run in runs[1:])
        run, reason = next(((run, reason) for run, reason in pairs if reason), (None, None))
        if run is None:
            splits.append(split)
        else:
            reasons.append(f"Not compared: {split}, where {first.name} and {run.name} have {reason}.")
    if not splits:
        raise ValueError(
            f"the runs were not scored on the same images by the same protocol. {' '.join(reasons)} Score each with "
            "cmdl evaluate RUN --update-card and the same options"
        )
    return splits, reasons


def _format(interval: Interval | None) -> str:
    return "–" if interval is None else f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
