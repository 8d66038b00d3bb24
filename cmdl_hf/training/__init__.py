"""Training: the loop alone, or a complete run by a recipe (a YAML file of settings).

`cmdl train RECIPE` trains in one process, `accelerate launch -m cmdl_hf.training RECIPE` in several.

Names are imported when they are first used, so that the command line can read recipes without torch.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .arguments import SHARING as SHARING
    from .arguments import CMDLTrainingArguments as CMDLTrainingArguments
    from .augmented import draw_augmented as draw_augmented
    from .checking import check_recipe as check_recipe
    from .folder import describe_start as describe_start
    from .loop import TrainingLoop as TrainingLoop
    from .naming import find_differences as find_differences
    from .naming import flatten as flatten
    from .naming import format_value as format_value
    from .naming import run_name as run_name
    from .network import make_config as make_config
    from .network import make_model as make_model
    from .precision import bf16_slowdown as bf16_slowdown
    from .recipes import find_recipe as find_recipe
    from .recipes import list_recipes as list_recipes
    from .running import describe_training_data as describe_training_data
    from .running import run as run
    from .running import train as train
    from .same_data import had_validation as had_validation
    from .same_data import name_other_data as name_other_data
    from .start_model import StartModel as StartModel
    from .start_model import load_start_model as load_start_model
    from .summary import format_results as format_results
    from .training_run import save as save
    from .transform import make_transform as make_transform

_MODULE_OF = {
    "CMDLTrainingArguments": "arguments",
    "SHARING": "arguments",
    "StartModel": "start_model",
    "TrainingLoop": "loop",
    "bf16_slowdown": "precision",
    "check_recipe": "checking",
    "describe_start": "folder",
    "describe_training_data": "running",
    "draw_augmented": "augmented",
    "find_differences": "naming",
    "find_recipe": "recipes",
    "flatten": "naming",
    "format_results": "summary",
    "format_value": "naming",
    "had_validation": "same_data",
    "list_recipes": "recipes",
    "load_start_model": "start_model",
    "make_config": "network",
    "make_model": "network",
    "make_transform": "transform",
    "name_other_data": "same_data",
    "run": "running",
    "run_name": "naming",
    "save": "training_run",
    "train": "running",
}

__all__ = list(_MODULE_OF)

__getattr__ = lazy_names(__name__, _MODULE_OF)
