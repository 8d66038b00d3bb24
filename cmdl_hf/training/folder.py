"""The folder of a training run: its files, and checks that the run may write there."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import yaml

from ..data import MERGE_FILE, VALIDATION_FILE, SegmentationDataset, format_merge
from ..evaluation import COUNTS_FILE, ImageCounts, read_counts, write_counts
from ..files import make_folder, refuse_irregular, refuse_link, remove_unfinished, write_text
from ..json_files import read_json, without_nan
from .arguments import FREE_TO_CHANGE, SHARING
from .same_data import name_other_data

logger = logging.getLogger(__name__)

RECIPE_FILE = "recipe.yaml"
RUN_FILE = "run.json"
SCORES_FILE = "scores.json"
PICTURE_FILE = "predictions.png"
LAST_MODEL = "last"
TRACKERS = "runs"


class RunFolder:
    """A folder for one run of one recipe. Only one process group at a time may write to it.

    Args:
        path (`Path`): The folder.
        recipe (`Mapping`): Recipe of the run, as `to_recipe` returns it.
        weights (`str`, *optional*): Name of the weights that the backbone starts from.
        start (`Mapping`, *optional*): The trained model that the run starts from, with its name and digest.

    Attributes:
        facts (`dict`): Content of `run.json` if the run continues, else empty.
        best (`dict`, *optional*): Step and validation scores of the run's best model so far.
        counts (`dict`): Pixel counts of every validation image with that model, by split.

    Raises:
        FileExistsError: if the folder holds other files, a run of another recipe, or a finished run.
        NotADirectoryError: if the folder is a file.
        PermissionError: if the folder cannot be written to.
    """

    def __init__(
        self, path: Path, recipe: Mapping[str, Any], weights: str | None, start: Mapping[str, Any] | None = None
    ) -> None:
        self.path = path
        self.recipe = dict(recipe)
        self.weights = weights
        self.start = start
        self.facts: dict[str, Any] = {}
        self.best: dict[str, Any] | None = None
        self.counts: dict[str, ImageCounts] = {}
        self._lock = filelock.FileLock(path / ".lock")
        self._check_place()
        if path.is_dir() and any(path.iterdir()):
            self._read()

    def check_data(self, data: Mapping[str, Any]) -> None:
        """Refuse to continue a run with other data.

        Args:
            data (`Mapping`): As [`describe_data`] returns it. What a run of an earlier version did not write down is
                not compared.

        Raises:
            FileExistsError: if the run used other data.
        """
        if what := name_other_data(self.facts.get("data", {}), data):
            raise FileExistsError(
                f"{self.path} holds a run on other data ({what}); use the same data to continue it, or name a new "
                "folder with --output-dir"
            )

    def claim(self, facts: Mapping[str, Any]) -> None:
        """Make the folder, lock it, and write facts and recipe.

        Args:
            facts (`Mapping`): See `write_facts`.

        Raises:
            FileExistsError: if another process is training there.
            OSError: if the folder cannot be written to.
        """
        try:
            make_folder(self.path)
            self._check_lock()
            self._lock.acquire(blocking=False)
            remove_unfinished(self.path)
            self.write_facts(facts)
            write_text(self.path / RECIPE_FILE, yaml.safe_dump(self.recipe, sort_keys=False))
        except filelock.Timeout as error:
            raise FileExistsError(f"another process is training in {self.path}; wait for it, or stop it") from error
        except OSError as error:
            raise OSError(f"{self.path} cannot be written to: {error}; name another with --output-dir") from error

    def release(self) -> None:
        """Unlock the folder."""
        self._lock.release()

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write the facts of the run to `run.json`."""
        write_text(self.path / RUN_FILE, json.dumps(facts, indent=2))

    def write_data(self, dataset: SegmentationDataset) -> None:
        """Write the ids of validation images that were set apart, and what merged the classes."""
        if dataset.validation_fraction is not None:
            write_text(self.path / VALIDATION_FILE, "".join(f"{id_}\n" for id_ in dataset["validation"]["id"][:]))
        if dataset.merged_classes:
            write_text(self.path / MERGE_FILE, format_merge(dataset.merged_classes))

    def write_scores(self, scores: Mapping[str, Any], counts: Mapping[str, ImageCounts]) -> None:
        """Write the scores of the best model by split, and the pixel counts of every image."""
        write_counts(self.path / COUNTS_FILE, counts)
        write_text(self.path / SCORES_FILE, json.dumps(without_nan(scores), indent=2))

    def _check_place(self) -> None:
        """Refuse a file, or a folder without write permission, before anything is read or written."""
        path = self.path
        refuse_link(path)
        refuse_link(path / TRACKERS)
        self._check_lock()
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"{path} is a file; name a new folder with --output-dir")
        existing = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
        if not os.access(existing, os.W_OK):
            raise PermissionError(f"{existing} cannot be written to; name another folder with --output-dir")

    def _check_lock(self) -> None:
        """Refuse a lock that is another file: locking empties a file, and an old filelock follows links to it."""
        lock = Path(self._lock.lock_file)
        refuse_link(lock)
        if lock.exists():
            refuse_irregular(lock, lock.stat().st_mode)
            if lock.stat().st_nlink > 1:
                raise FileExistsError(f"{lock} is a second name of another file; remove it")

    def _read(self) -> None:
        """Read the state of the run in the folder, and refuse a run that this recipe cannot continue."""
        path = self.path
        self.facts = facts = _read_json(path / RUN_FILE)
        if "recipe" not in facts:
            raise FileExistsError(f"{path} is not empty and holds no run; name a new folder with --output-dir")
        if facts["is_finished"]:
            raise FileExistsError(f"{path} holds a finished run; name a new folder with --output-dir")
        there = facts["recipe"] | {"weights": facts["weights"], "model": describe_start(facts.get("model"))}
        here = self.recipe | {"weights": self.weights, "model": describe_start(self.start)}
        # Fields that a later version added are not compared.
        differing = [name for name in there if name in here.keys() - FREE_TO_CHANGE and here[name] != there[name]]
        changes = ", ".join(f"{name} was {there[name]} and is now {here[name]}" for name in differing)
        if differing and set(differing) <= SHARING:
            logger.warning(f"{changes}: each step has the same images, batch norms and memory bank see other passes")
        elif differing:
            raise FileExistsError(
                f"{path} holds a run of another recipe ({changes}); use the same recipe to continue it, or name a new "
                "folder with --output-dir"
            )
        if scores := _read_json(path / SCORES_FILE).get("validation"):
            self.best = {"step": facts["best_step"], "scores": scores}
            counts = read_counts(path / COUNTS_FILE)
            self.counts = {"validation": counts["validation"]} if "validation" in counts else {}


def describe_start(start: Mapping[str, Any] | None) -> str | None:
    """Name a trained model that a run starts from by the digest of its weights: equal words are the same model."""
    return None if start is None else f"the one with weights {str(start.get('digest'))[:16]}"


def _read_json(file: Path) -> dict[str, Any]:
    return read_json(file, "restore the file, or name a new folder")
