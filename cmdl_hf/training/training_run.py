"""A training run: trains, evaluates, keeps the best model, writes the files of its folder, and can be resumed."""

import logging
import math
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PreTrainedModel

from ..data import SegmentationDataset
from ..evaluation import ImageCounts
from ..files import write_files
from ..hub import HubPusher, write_card
from ..image_processing import make_image_processor
from ..models import CMDLForSemanticSegmentation
from .arguments import CMDLTrainingArguments
from .checkpoints import Checkpoints
from .distributions import compare_validation, describe_bank
from .folder import LAST_MODEL, PICTURE_FILE, TRACKERS, RunFolder
from .log import TrainingLog
from .loop import TrainingLoop
from .memory_start import start_memory_from_data
from .pictures import draw_example, paint_validation
from .same_data import describe_data, had_validation
from .scoring import has_labels, score
from .start_model import StartModel
from .transform import make_transform

logger = logging.getLogger(__name__)


def save(model: PreTrainedModel, output_dir: str | Path, args: CMDLTrainingArguments) -> None:
    """Save a model and the image processor that fits its recipe. Each file is replaced atomically."""
    size = args.resize and {"shortest_edge": args.resize[0], "longest_edge": args.resize[1]}

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        make_image_processor(size).save_pretrained(folder)

    write_files(Path(output_dir), write)


class TrainingRun:
    """One training run by a recipe, in a folder. An interrupted run continues from this folder.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        folder (`Path`): A new or empty folder, or the folder of an interrupted run of this recipe.
        weights (`str` or `Path`, *optional*): The weights that the backbone starts from.
        push_to_hub (`str`, *optional*): Repository `"organisation/name"` on the Hub for each evaluated model.
        private (`bool`, *optional*): Whether a new repository is visible to its owners only.
        start (`StartModel`, *optional*): The trained model that the run starts from.

    Raises:
        FileExistsError: if the folder holds other files, a run of another recipe, or a finished run.
        NotADirectoryError: if the folder is a file.
        PermissionError: if the folder cannot be written to, or the user may not push to the Hub.
    """

    model: CMDLForSemanticSegmentation
    loop: TrainingLoop
    log: TrainingLog
    dataset: SegmentationDataset

    def __init__(
        self,
        args: CMDLTrainingArguments,
        folder: Path,
        weights: str | Path | None = None,
        push_to_hub: str | None = None,
        private: bool | None = None,
        start: StartModel | None = None,
    ) -> None:
        self.args = args
        self.start = None if start is None else start.facts
        self.folder = folder
        self.weights = None if weights is None else Path(weights).name
        self.checkpoints = Checkpoints(folder / "checkpoints", args.save_total_limit)
        self._place = RunFolder(folder, args.to_recipe(), self.weights, self.start)
        self.eval_steps = args.eval_steps or max(1, args.max_steps // 10)
        self.save_steps = args.save_steps or self.eval_steps
        self.best = self._place.best
        self._counts = self._place.counts
        self.seconds = 0.0
        self.repo_id = push_to_hub
        self.pusher: HubPusher | None = None
        if push_to_hub is not None and PartialState().is_main_process:
            self.pusher = HubPusher(folder, push_to_hub, private)

    @property
    def had_validation(self) -> bool | None:
        """Whether the run that continues had a validation split; `None` for a new run."""
        return had_validation(self._place.facts)

    def begin(self, dataset: SegmentationDataset, model: CMDLForSemanticSegmentation) -> None:
        """Make the folder, prepare the loop, and load the newest complete checkpoint, if there is one.

        Args:
            dataset (`SegmentationDataset`): With a train split.
            model (`CMDLForSemanticSegmentation`): The untrained model.

        Raises:
            FileExistsError: if the run in the folder used other data, or another process is training there.
            OSError: if the folder cannot be written to.
        """
        self.dataset = dataset
        self.model = model
        self._data = describe_data(dataset, model.config.class_weights)
        self._place.check_data(self._data)
        if self.args.patience is not None and not has_labels(dataset, "validation"):
            raise ValueError("patience needs a validation split with labels; add one, or leave patience out")
        transform = make_transform(self.args, dataset)
        self.loop = TrainingLoop(model, dataset["train"], transform, self.args, log_dir=self.folder / TRACKERS)
        # The main process chooses the checkpoint, and sends its choice to the others.
        is_main = self.loop.accelerator.is_main_process
        (newest,) = broadcast_object_list([self.checkpoints.newest() if is_main else None])
        if newest is not None:
            self._resume(newest)
        if self.loop.accelerator.is_main_process:
            self._place.claim(self._describe_run(is_finished=False))
            self._place.write_data(dataset)
        self.loop.accelerator.wait_for_everyone()
        if newest is not None:
            logger.info(f"continuing from {newest}")
        elif self.args.memory_start == "data" and self.args.use_distributions:
            start_memory_from_data(self.loop)
        self.log = TrainingLog(self.folder, self.loop.accelerator, self.loop.step, self.args.to_recipe())
        if self._is_due(self.eval_steps) and not self.log.is_evaluated(self.loop.step):
            self._evaluate()  # the evaluation that the interruption prevented

    def release(self) -> None:
        """End the worker processes, and unlock the folder."""
        if hasattr(self, "loop"):
            self.loop.close()
        self._place.release()

    def _resume(self, checkpoint: Path) -> None:
        """Load a checkpoint."""
        state = self.checkpoints.read(checkpoint)
        if state.get("is_sharded", False) != self.loop.is_sharded:
            raise FileExistsError(
                f"{checkpoint} was saved {'without' if self.loop.is_sharded else 'with'} FSDP; continue the run as it "
                "began, or name a new folder with --output-dir"
            )
        self.loop.load_state(checkpoint, state["step"], state["schedule"])
        self.seconds = state["seconds"]
        num_processes = self.loop.accelerator.num_processes
        if state["num_processes"] != num_processes:
            logger.warning(
                f"{checkpoint} was saved by {state['num_processes']} processes, now there are {num_processes}: "
                "random numbers and batch norms will differ from those of an uninterrupted run"
            )

    def train(
        self,
        on_step: Callable[[], Any],
        on_row: Callable[[dict[str, float]], Any],
        is_stopping: Callable[[], bool],
    ) -> bool:
        """Train to the end of the recipe, with regular evaluations and checkpoints.

        Args:
            on_step (`Callable`): Called after every step.
            on_row (`Callable`): Called with every row of metrics.
            is_stopping (`Callable`): Returns whether to save a checkpoint and end early. A single process stops at the
                next step, several processes stop at the next row.

        Returns:
            Whether the run reached its last step, or has no patience for more.
        """
        args, loop = self.args, self.loop
        is_alone = loop.accelerator.num_processes == 1
        while loop.step < args.max_steps and not self._is_out_of_patience():
            start = time.perf_counter()
            goal = min(next_multiple(loop.step, n) for n in (args.logging_steps, self.eval_steps, self.save_steps))
            row = loop.advance(
                min(goal, args.max_steps), on_step, should_stop=is_stopping if is_alone else lambda: False
            )
            self.log.write(row)
            on_row(row)
            self.seconds += time.perf_counter() - start
            must_stop = loop.agree(is_stopping())
            if must_stop or self._is_due(self.save_steps):
                state = {"schedule": loop.schedule_state(), "seconds": self.seconds, "is_sharded": loop.is_sharded}
                self.checkpoints.save(loop.step, loop.save_state, state)
            if self._is_due(self.eval_steps):  # after the checkpoint, as scoring may fail
                self._evaluate()
            if must_stop:
                break
        self.log.close()
        return loop.step == args.max_steps or self._is_out_of_patience()

    def finish(self) -> dict[str, Any]:
        """Score the best model on the test split once, and write scores, picture and model card.

        Returns:
            Scores of the best model by split, as `evaluate` returns them.

        Raises:
            ConnectionError, PermissionError: if the push to the Hub fails. All files are in the folder.
        """
        model = CMDLForSemanticSegmentation.from_pretrained(self.folder).to(self.loop.accelerator.device).eval()
        scores = {"validation": self.best["scores"]} if self.best else {}
        if self.args.use_test_split and has_labels(self.dataset, "test"):
            scores["test"], self._counts["test"] = self._score(model, "test")
        if self.loop.accelerator.is_main_process:
            self._place.write_scores(scores, self._counts)
            draw_example(model, self.dataset, self.args, self.folder / PICTURE_FILE)
            write_card(self.folder, self.repo_id, run=self._describe_run(is_finished=True))
            self._write_facts(is_finished=True)  # last, so that an interrupted `finish` is repeated
        if self.pusher:
            self.pusher.push("End of training")
            logger.info(f"pushed to {self.pusher.finish()}")
        return scores

    def _is_out_of_patience(self) -> bool:
        """Return whether the evaluations since the best one are as many as the recipe's patience."""
        if self.args.patience is None or self.best is None:
            return False
        return self.loop.step // self.eval_steps - self.best["step"] // self.eval_steps >= self.args.patience

    def _is_due(self, steps: int) -> bool:
        step = self.loop.step
        return step > 0 and (step % steps == 0 or step == self.args.max_steps)

    def _score(self, model: nn.Module, split: str) -> tuple[dict[str, Any], ImageCounts]:
        return score(model, self.dataset, split, self.args, self.loop.accelerator)

    def _evaluate(self) -> None:
        """Save the model as the last one, score it on the validation split, and save it as the best if it is.

        The row has `validation_*` scores, and the figures of `describe_bank` and `compare_validation`.
        """
        loop, metric = self.loop, self.args.best_metric
        loop.share_model()
        model = cast(PreTrainedModel, loop.scored_model)
        if loop.accelerator.is_main_process:
            save(model, self.folder / LAST_MODEL, self.args)
        row: dict[str, float] = {"step": loop.step}
        is_best = True
        if has_labels(self.dataset, "validation"):
            scores, counts = self._score(model, "validation")
            if math.isnan(scores[metric]):
                logger.warning("the validation split has no labelled pixel: the last model counts as the best")
            else:
                is_best = self.best is None or scores[metric] >= self.best["scores"][metric]
                if is_best:
                    self.best = {"step": loop.step, "scores": scores}
                    self._counts = {"validation": counts}
            row |= {f"validation_{name}": value for name, value in scores.items() if isinstance(value, float)}
            self._show(model, scores)
        if self.args.use_distributions:
            row |= describe_bank(cast(CMDLForSemanticSegmentation, loop.model).memory_bank)
            if has_labels(self.dataset, "validation"):
                row |= compare_validation(model, self.dataset, self.args)
        if loop.accelerator.is_main_process:
            if is_best:
                save(model, self.folder, self.args)
            if self.best:
                self._place.write_scores({"validation": self.best["scores"]}, self._counts)
            self._write_facts()
        self.log.write(row)  # last: this row marks the evaluation as done
        self.log.draw()
        if self.pusher:
            self.pusher.push(f"Step {loop.step}")
        loop.accelerator.wait_for_everyone()
        logger.info(self._describe(row))

    def _show(self, model: nn.Module, scores: dict[str, Any]) -> None:
        """Give trackers the IoU of every class, and two pictures."""
        trackers = self.log.trackers
        trackers.log_classes(
            dict(zip(self.dataset.id2label.values(), scores["per_class_iou"], strict=True)), self.loop.step
        )
        if trackers.take_pictures:
            trackers.log_pictures(paint_validation(model, self.dataset, self.args), self.loop.step)

    def _describe(self, row: dict[str, float]) -> str:
        parts = [f"step {row['step']}"]
        if self.best:
            metric = self.args.best_metric
            now, best = row[f"validation_{metric}"], self.best["scores"][metric]
            name = metric.replace("_", " ").replace("iou", "IoU")
            parts.append(f"validation {name} {100 * now:.2f} %, best {100 * best:.2f} % at step {self.best['step']}")
        if "dead_distributions" in row:
            total = self.model.memory_bank.num_updates.numel()
            parts.append(
                f"of {total} distributions {row['dead_distributions']} dead (never moved), "
                f"{row['duplicate_distributions']} duplicate (near another of their class, which is usual); "
                f"{row['distinct_distributions']:.1f} distinct in a class"
            )
        return "; ".join(parts)

    def _write_facts(self, is_finished: bool = False) -> None:
        self._place.write_facts(self._describe_run(is_finished))

    def _describe_set_apart(self) -> dict[str, Any] | None:
        """Describe the validation images that were set apart from the training images; `None` if none were."""
        fraction = self.dataset.validation_fraction
        if fraction is None:
            return None
        rows = self.dataset["validation"]
        return {"fraction": fraction, "num_images": len(rows), "ids": self._data["splits"]["validation"]}

    def _describe_run(self, is_finished: bool) -> dict[str, Any]:
        """Collect the facts for `run.json`: recipe, progress, hardware, data and versions."""
        accelerator = self.loop.accelerator
        return {
            "recipe": self.args.to_recipe(),
            "is_finished": is_finished,
            "steps": self.loop.step,
            "max_steps": self.args.max_steps,
            "best_step": self.best["step"] if self.best else self.loop.step,
            "best_metric": self.args.best_metric if self.best else None,
            "seconds": round(self.seconds, 1),
            "num_processes": accelerator.num_processes,
            "device": _device_name(accelerator.device),
            "mixed_precision": accelerator.mixed_precision,
            "num_images": {split: len(rows) for split, rows in self.dataset.items()},
            "data": self._data,
            "set_apart": self._describe_set_apart(),
            "merged_classes": self.dataset.merged_classes or None,
            "weights": self.weights,
            "model": self.start,
            "versions": {name: version(name) for name in ("cmdl_hf", "torch", "transformers", "timm", "accelerate")},
        }


def next_multiple(step: int, interval: int) -> int:
    """Return the first multiple of the interval above the step."""
    return (step // interval + 1) * interval


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
