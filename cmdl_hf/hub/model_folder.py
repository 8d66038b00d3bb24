"""The facts about a model in the files of its folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..data import BENCHMARKS
from ..escaping import MAX_NAME, one_line
from ..json_files import read_json
from ..models import CONTEXT_MODULES
from ..yaml_files import read_yaml


@dataclass
class ModelFolder:
    """The facts about a model in its folder. A missing file is an empty `dict`.

    Args:
        path (`Path`): The folder.
        config (`dict`): Content of `config.json`.
        recipe (`dict`): Content of `recipe.yaml`.
        run (`dict`): Content of `run.json`.
        scores (`dict`): Content of `scores.json`, by split.
    """

    path: Path
    config: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "ModelFolder":
        """Read the files of a folder.

        Raises:
            FileNotFoundError: if there is no `config.json`.
            ValueError: if one of the files cannot be read.
        """
        return cls(
            path,
            _read_file(path / "config.json"),
            _read_file(path / "recipe.yaml"),
            _read_file(path / "run.json"),
            {split: scores for split, scores in _read_file(path / "scores.json").items() if isinstance(scores, dict)},
        )

    @property
    def benchmark(self) -> str | None:
        """Name of the data set, or None if it is not known."""
        name = self.recipe.get("benchmark")
        return None if name is None else str(name)

    @property
    def data_title(self) -> str:
        """Name of the data set for use in sentences."""
        if benchmark := BENCHMARKS.get(self.benchmark or ""):
            return benchmark.title
        return {"synthetic": "generated street scenes", "own": "its owner's own images"}.get(
            self.benchmark or "", "unknown data"
        )

    @property
    def network(self) -> str:
        """Name of the network: its framework, and whether it has CMDL."""
        name = one_line(self.config.get("context_module", "none"), MAX_NAME)
        framework = CONTEXT_MODULES[name].title if name in CONTEXT_MODULES else name
        return f"CMDL-{framework}" if self.config.get("use_distributions", True) else framework

    @property
    def backbone(self) -> str:
        """Name of the backbone in timm or transformers."""
        backbone = self.config.get("backbone_config") or {}
        return one_line(backbone.get("backbone") or backbone.get("model_type") or "unknown backbone", MAX_NAME)

    @property
    def start(self) -> dict[str, Any] | None:
        """What `run.json` says of the trained model that the training started from, if there was one."""
        start = self.run.get("model")
        return start if isinstance(start, dict) and start.get("name") else None

    @property
    def base_model(self) -> str | None:
        """Name on the Hub of the model that the training started from, if it came from there."""
        if self.start is None or self.start.get("is_on_hub") is not True:
            return None
        try:
            validate_repo_id(self.start["name"])
        except HFValidationError:
            return None
        return str(self.start["name"])

    @property
    def is_finished(self) -> bool:
        """Whether the training is finished; also true without a run."""
        return self.run.get("is_finished", True)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by id."""
        names = self.config.get("id2label") or {}
        return [str(names[id_]) for id_ in sorted(names, key=int)]


def _read_file(path: Path) -> dict[str, Any]:
    """Read a JSON or YAML file of a folder. A missing file is empty, but `config.json` must exist."""
    if not path.is_file():
        if path.name == "config.json":
            raise FileNotFoundError(f"{path.parent} contains no model: it has no config.json")
        return {}
    if path.suffix == ".yaml":
        return read_yaml(path)
    return read_json(path)
