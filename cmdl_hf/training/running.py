"""The public functions of training: `train` for the loop alone, `run` for a complete run that can be interrupted."""

import logging
import signal
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import datasets
from torch import nn

from ..data import (
    SegmentationDataset,
    TrainTransform,
    check_trainable,
    load_data,
    merge_classes,
    set_apart_validation,
)
from ..processes import start_processes, stop_flag
from ..progress import progress_bar
from .arguments import CMDLTrainingArguments
from .checking import check_names
from .log import describe
from .loop import TrainingLoop
from .network import find_class_weights, make_model
from .pace import Pace
from .same_data import describe_data
from .start_model import StartModel, load_start_model
from .training_run import TrainingRun, next_multiple

logger = logging.getLogger(__name__)


def train(
    model: nn.Module,
    dataset: datasets.Dataset,
    transform: TrainTransform,
    args: CMDLTrainingArguments,
    description: str = "Training",
) -> list[dict[str, float]]:
    """Train a model in place, without evaluation, checkpoints or files.

    Args:
        model (`nn.Module`): Takes `pixel_values` and `labels`, returns `loss` and `loss_dict`. It is moved to the
            device that accelerate chooses.
        dataset (`datasets.Dataset`): With the columns `image` and `label`.
        transform (`TrainTransform`): Makes training crops from samples.
        args (`CMDLTrainingArguments`): The recipe. The fields of data and network (`benchmark` to `ohem_min_kept`) are
            ignored, because `dataset`, `transform` and `model` exist already.
        description (`str`): Text before the progress bar.

    Returns:
        `list[dict]`: a row for every `args.logging_steps` steps, see [`TrainingLoop.advance`]. With
        `args.ema_decay` the model ends with the averaged weights.

    Raises:
        ValueError: see [`TrainingLoop`].
        FloatingPointError: if a loss is not finite.
    """
    loop = TrainingLoop(model, dataset, transform, args)
    rows = []
    try:
        with closing(loop), progress_bar(total=args.max_steps, desc=description, unit="step") as progress:
            while loop.step < args.max_steps:
                goal = min(next_multiple(loop.step, args.logging_steps), args.max_steps)
                rows.append(loop.advance(goal, progress.update))
                progress.set_postfix_str(describe(rows[-1]), refresh=False)
        loop.share_model()
    finally:
        loop.release_model()
    if loop.scored_model is not model:
        model.load_state_dict(loop.scored_model.state_dict())
    return rows


def run(
    args: CMDLTrainingArguments,
    output_dir: str | Path,
    data_dir: str | Path | None = None,
    id2label: str | Path | None = None,
    weights: str | Path | None = None,
    push_to_hub: str | None = None,
    private: bool | None = None,
    model: str | Path | StartModel | None = None,
) -> dict[str, Any] | None:
    """Train and evaluate by a recipe, keep the best model and score it; continue an interrupted run.

    SIGTERM and SIGINT save a checkpoint and end the run; a second call continues it, on a CPU to identical weights.
    `output_dir` receives the best and the last model (`last/`). Several machines must share the folder.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        output_dir (`str` or `Path`): A new or empty folder, or the folder of an interrupted run of this recipe.
        data_dir (`str` or `Path`, *optional*): See `load_data`.
        id2label (`str` or `Path`, *optional*): See `load_data`.
        weights (`str` or `Path`, *optional*): See `make_model`.
        push_to_hub (`str`, *optional*): Repository `"organisation/name"`, pushed to after each evaluation and the end.
        private (`bool`, *optional*): Whether a new repository is visible to its owners only.
        model (`str`, `Path` or `StartModel`, *optional*): Trained CMDL model to start from; see [`StartModel.fit`].

    Returns:
        Scores of the best model by split, as `evaluate` returns them; `None` after a signal.

    Raises:
        OSError: if `output_dir` cannot be written to, or holds other files, or another or a finished run.
        ValueError: if there are no training images, or the settings do not fit together.
        FloatingPointError: if a loss is not finite. Earlier checkpoints are kept.
        PermissionError, ConnectionError: before training, or when all is saved, if the Hub cannot be pushed to.

    Example:
        ```python
        import optuna
        from cmdl_hf.training import CMDLTrainingArguments, run
        def train(trial: optuna.Trial) -> float:
            rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
            args = CMDLTrainingArguments(benchmark="synthetic", learning_rate=rate, use_test_split=False)
            return run(args, f"outputs/search/{trial.number}")["validation"]["mean_iou"]
        study = optuna.create_study(direction="maximize")
        study.optimize(train, n_trials=20)
        ```
    """
    check_names(args, weights, model)
    start_processes()
    args, start = _take_network(args, model)
    training_run = TrainingRun(args, Path(output_dir), weights, push_to_hub, private, start)
    dataset = load_training_data(args, data_dir, id2label, training_run.had_validation)
    network = make_model(args, dataset, weights) if start is None else start.make_model(args, dataset)
    try:
        training_run.begin(dataset, network)
        return _go_through(training_run)
    finally:
        training_run.release()


def _take_network(
    args: CMDLTrainingArguments, model: str | Path | StartModel | None
) -> tuple[CMDLTrainingArguments, StartModel | None]:
    """Load the trained model to start from, if there is one, and let it decide the recipe's network."""
    start = load_start_model(model) if isinstance(model, str | Path) else model
    return (args if start is None else start.fit(args)), start


def load_training_data(
    args: CMDLTrainingArguments,
    data_dir: str | Path | None,
    id2label: str | Path | None,
    had_validation: bool | None = None,
) -> SegmentationDataset:
    """Load a data set to train on: own data without validation split are divided, and classes merged, by the recipe.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        data_dir (`str` or `Path`, *optional*): See `load_data`.
        id2label (`str` or `Path`, *optional*): See `load_data`.
        had_validation (`bool`, *optional*): Whether the run that continues had a validation split. If not, as in runs
            of an earlier version, it goes on without one.

    Raises:
        ValueError, FileNotFoundError: as `load_data`, `set_apart_validation`, `merge_classes` and `check_trainable`.
    """
    dataset = load_data(args.benchmark, data_dir, id2label)
    title = str(data_dir or args.benchmark)
    is_missing = "train" in dataset and "validation" not in dataset
    if not args.use_validation:
        dataset.pop("validation", None)
        logger.warning("training without validation: the last model is the result, whether or not it is the best")
    elif args.benchmark == "own" and is_missing and had_validation is False:
        logger.warning("this run began without a validation split, and goes on so: the last model is the result")
    elif args.benchmark == "own" and is_missing:
        dataset = set_apart_validation(dataset, args.validation_fraction, title)
    if args.merge_classes is not None:
        dataset = merge_classes(dataset, args.merge_classes)
    check_trainable(dataset, title)
    return dataset


def describe_training_data(
    args: CMDLTrainingArguments,
    data_dir: str | Path | None,
    id2label: str | Path | None,
    had_validation: bool | None = None,
) -> dict[str, Any]:
    """Describe the data that a recipe trains on, as `run.json` holds them under `data`.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        data_dir (`str` or `Path`, *optional*): See `load_data`.
        id2label (`str` or `Path`, *optional*): See `load_data`.
        had_validation (`bool`, *optional*): See `load_training_data`.

    Raises:
        ValueError, OSError: as `load_training_data`, or if the file of class weights cannot be read.
    """
    dataset = load_training_data(args, data_dir, id2label, had_validation)
    return describe_data(dataset, find_class_weights(args.class_weights, dataset))


def _go_through(training_run: TrainingRun) -> dict[str, Any] | None:
    """Train to the end and score the best model, or stop at a signal."""
    args = training_run.args
    bar = progress_bar(total=args.max_steps, initial=training_run.loop.step, desc="Training", unit="step")
    pace = Pace(training_run.loop, is_network_given=training_run.start is not None)
    with _StopSignals() as signals, bar as progress:

        def on_step() -> None:
            progress.update()
            pace()

        is_complete = training_run.train(
            on_step,
            lambda row: progress.set_postfix_str(describe(row), refresh=False),
            lambda: signals.received is not None,
        )
    if not is_complete:
        logger.warning(
            f"stopped by a signal at step {training_run.loop.step}: a checkpoint is saved; run the same command again "
            "to continue from it"
        )
        return None
    return training_run.finish()


class _StopSignals:
    """Context manager that records SIGTERM and SIGINT instead of ending the process.

    A second SIGINT (Ctrl-C) ends the process.
    """

    received: int | None = None

    def __enter__(self) -> "_StopSignals":
        self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        stop_flag().value = False
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        stop_flag().value = True
        if number == signal.SIGINT:
            signal.signal(number, self._handlers[signal.SIGINT])
