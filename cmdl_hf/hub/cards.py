"""The model card of a trained model, written from the files of its folder."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from ..data import BENCHMARKS
from ..escaping import MAX_NAME, for_markdown, one_line
from ..files import write_text
from .card_sections import (
    METRICS,
    describe_data,
    describe_protocol,
    find_license,
    is_measured,
    list_limits,
    name_some_classes,
    summarize,
    tabulate_class_scores,
    tabulate_recipe,
    tabulate_scores,
)
from .model_folder import ModelFolder

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_MARK = "<!-- Written by cmdl_hf {digest}: any change keeps this file from being written anew. -->\n"
_HUB_METRICS = {"mean_iou": "mean_iou", "mean_accuracy": "mean_accuracy", "overall_accuracy": "accuracy"}


def write_card(folder: str | Path, repo_id: str | None = None, run: dict[str, Any] | None = None) -> Path:
    """Write the card of a model, `README.md`, from the files beside it.

    The card contains the facts of `config.json`, `recipe.yaml`, `run.json` and `scores.json`. If a file is missing,
    the card says that its facts are not recorded, and without scores it shows none. It shows pictures if they exist.
    Whatever the files contain stays text and cannot add markup or metadata. A card that was edited or written by hand
    is kept; remove it to get a new one.

    Args:
        folder (`str` or `Path`): Folder of the model, from a run or from `save_pretrained`.
        repo_id (`str`, *optional*): `"organisation/name"` that the code examples of the card load.
        run (`dict`, *optional*): Content of `run.json`, if it is not written yet.

    Returns:
        `Path`: the card.

    Raises:
        FileNotFoundError: if there is no `config.json`.
        ValueError: if one of the files cannot be read, holds a value of another kind than this package writes, or
            `repo_id` is no name on the Hub.
    """
    if repo_id is not None:
        validate_repo_id(repo_id)
    path = Path(folder) / CARD_FILE
    if path.is_file() and not is_generated(path.read_text(encoding="utf-8")):
        logger.warning("%s was written by hand and is kept; remove it to get a new card", path)
        return path
    contents = ModelFolder.read(Path(folder))
    contents.run = contents.run if run is None else run
    try:
        text = str(_make_card(contents, repo_id)).rstrip() + "\n"
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{folder}: config.json, recipe.yaml, run.json and scores.json must hold what cmdl_hf writes, found a "
            f"value of another kind ({one_line(error, MAX_NAME)}); correct it, or move its file away"
        ) from error
    write_text(path, f"{text}\n{_mark(text)}")
    return path


def is_generated(text: str) -> bool:
    """Whether `write_card` wrote this card and nobody edited it: the last line has the digest of the others."""
    body, _, mark = text.rpartition("\n<!--")
    return f"<!--{mark}" == _mark(body)


def _mark(text: str) -> str:
    return _MARK.format(digest=hashlib.sha256(text.encode()).hexdigest()[:16])


def _make_card(folder: ModelFolder, repo_id: str | None) -> ModelCard:
    benchmark = BENCHMARKS.get(folder.benchmark or "")
    has_code = bool(folder.config.get("auto_map"))
    subject = name_some_classes(folder) if folder.benchmark == "own" else folder.benchmark and folder.data_title
    title = f"{folder.network} with {folder.backbone}" + (f", {subject}" if subject else "")
    return ModelCard.from_template(
        _metadata(folder, repo_id),
        template_path=str(_TEMPLATE),
        title=for_markdown(title),
        summary=summarize(folder),
        path=repo_id or "path/to/this/folder",
        has_code=has_code,
        start=folder.start,
        trust=", trust_remote_code=True" if has_code else "",
        has_last=(folder.path / "last" / "config.json").is_file(),
        pictures={
            name: f"{name}.png" for name in ("predictions", "curves") if (folder.path / f"{name}.png").is_file()
        },
        num_labels=len(folder.classes),
        classes=", ".join(for_markdown(name, MAX_NAME) for name in folder.classes),
        recipe=tabulate_recipe(folder),
        protocol=describe_protocol(folder),
        scores=tabulate_scores(folder),
        class_scores=tabulate_class_scores(folder),
        data=describe_data(folder),
        limits=list_limits(folder),
        license_text=find_license(folder)[1],
        citation=benchmark.citation if benchmark else "",
    )


def _metadata(folder: ModelFolder, repo_id: str | None) -> ModelCardData:
    """Make the metadata for the Hub: tags, licence, and the scores as a model-index."""
    results = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=one_line(folder.benchmark or "unknown", MAX_NAME),
            dataset_name=folder.data_title,
            dataset_split=one_line(split, MAX_NAME),
            metric_type=metric,
            metric_name=METRICS[name],
            metric_value=round(scores[name], 4),
        )
        for split, scores in folder.scores.items()
        for name, metric in _HUB_METRICS.items()
        if is_measured(scores.get(name))
    ]
    name = repo_id.split("/")[-1] if repo_id else f"{folder.network}-{folder.backbone}".lower()
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "cmdl", one_line(folder.network.lower(), MAX_NAME)],
        metrics=["mean_iou"] if results else None,
        model_name=one_line(name, MAX_NAME) if results else None,
        eval_results=results or None,
        base_model=folder.base_model,
        **find_license(folder)[0],
    )
