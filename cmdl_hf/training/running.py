"""Training as others call it: the loop alone, or a whole run that signals may interrupt."""

import logging
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import datasets
from torch import nn

from ..data import TrainTransform, check_benchmark, check_transform, load_data
from ..models import CMDLForSemanticSegmentation, find_context_module
from ..plugins import import_plugins
from ..processes import start_processes, stop_flag
from ..progress import progress_bar
from .arguments import CMDLTrainingArguments
from .log import describe
from .loop import TrainingLoop
from .network import check_weights, make_model
from .training_run import TrainingRun, next_multiple

logger = logging.getLogger(__name__)


def train(
    model: nn.Module,
    dataset: datasets.Dataset,
    transform: TrainTransform,
    args: CMDLTrainingArguments,
    description: str = "Training",
) -> list[dict[str, float]]:
    """Train a model in place: the loop alone, without evaluation, checkpoints or files.

    Args:
        model (`nn.Module`): Takes `pixel_values` and `labels`, returns `loss` and `loss_dict`; moved to the device
            that accelerate chooses.
        dataset (`datasets.Dataset`): With the columns `image` and `label`.
        transform (`TrainTransform`): How samples become crops.
        args (`CMDLTrainingArguments`): The recipe. What it says of data and network is not read, from `benchmark` to
            `ohem_min_kept`: both are there already. The class weights of an adapter, say, are its own option.
        description (`str`): Text before the progress bar.

    Returns:
        `list[dict]`: a row for every `args.logging_steps` steps, see [`TrainingLoop.advance`]. With
        `args.ema_decay` the model ends as the moving average.

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
    finally:
        loop.release_model()
    if loop.scored_model is not loop.model:
        loop.model.load_state_dict(loop.scored_model.state_dict())
    return rows


def run(
    args: CMDLTrainingArguments,
    output_dir: str | Path,
    data_dir: str | Path | None = None,
    id2label: str | Path | None = None,
    weights: str | Path | None = None,
    push_to_hub: str | None = None,
    private: bool | None = None,
    prepare_model: Callable[[CMDLForSemanticSegmentation], object] | None = None,
) -> dict[str, Any] | None:
    """Train and evaluate by a recipe, keep the best model and score it; after an interruption, go on.

    `output_dir` gets the best model on the validation split (`from_pretrained` loads the folder), the last one in
    `last/`, the recipe, metrics, curves, a picture, scores and checkpoints. Called again with the same recipe it
    continues from the newest whole checkpoint; on a CPU the weights end bit-identical to those of a run that was not
    interrupted. SIGTERM and SIGINT save a checkpoint and end the run. Several machines must share the folder.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        output_dir (`str` or `Path`): New, empty, or of an interrupted run of this recipe.
        data_dir (`str` or `Path`, *optional*): See `load_data`.
        id2label (`str` or `Path`, *optional*): See `load_data`.
        weights (`str` or `Path`, *optional*): See `make_model`.
        push_to_hub (`str`, *optional*): `"organisation/name"` on the Hub: the folder is pushed after each evaluation,
            in the background, and at the end.
        private (`bool`, *optional*): Whether only its owners see it there, should it have to be made.
        prepare_model (`Callable`, *optional*): Called with the network before it trains, to freeze layers, say. What
            it does must leave the names of the parameters as they are.

    Returns:
        Scores of the best model by split, as `evaluate` returns them; `None` if a signal ended the run.

    Raises:
        FileExistsError: if `output_dir` holds something else, another recipe's run, or a finished one.
        NotADirectoryError: if `output_dir` is a file.
        OSError: if it cannot be written to.
        ValueError: if there is nothing to train on, or the recipe cannot be followed.
        FloatingPointError: if a loss is not finite; the checkpoints before it stay.
        PermissionError: before anything is trained, if the Hub does not let the user push.
        ConnectionError: after everything is saved, if the Hub stays out of reach.
    """
    _check(args, weights)
    weights_name = None if weights is None else Path(weights).name
    training_run = TrainingRun(args, Path(output_dir), weights_name, push_to_hub, private)
    dataset = load_data(args.benchmark, data_dir, id2label)
    if "train" not in dataset:
        raise ValueError(f"{data_dir} has no train split, only {', '.join(dataset)}")
    model = make_model(args, dataset, weights)
    if prepare_model is not None:
        prepare_model(model)
    try:
        training_run.begin(dataset, model)
        return _go_through(training_run)
    finally:
        training_run.release()


def _check(args: CMDLTrainingArguments, weights: str | Path | None) -> None:
    """Join the processes, import the plug-ins, and refuse what the recipe names and nobody knows."""
    start_processes()
    import_plugins(args.plugin)
    check_benchmark(args.benchmark)
    check_transform(args.transform)
    find_context_module(args.framework)
    check_weights(weights)


def _go_through(training_run: TrainingRun) -> dict[str, Any] | None:
    """Train to the end and score, or to a signal."""
    args = training_run.args
    bar = progress_bar(total=args.max_steps, initial=training_run.loop.step, desc="Training", unit="step")
    with _StopSignals() as signals, bar as progress:
        is_complete = training_run.train(
            progress.update,
            lambda row: progress.set_postfix_str(describe(row), refresh=False),
            lambda: signals.received is not None,
        )
    if not is_complete:
        logger.warning(
            f"stopped by a signal at step {training_run.loop.step}: a checkpoint is saved, and the same command "
            "continues from it"
        )
        return None
    return training_run.finish()


class _StopSignals:
    """While entered, SIGTERM and SIGINT are noted instead of obeyed; a second SIGINT (Ctrl-C) is obeyed."""

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
