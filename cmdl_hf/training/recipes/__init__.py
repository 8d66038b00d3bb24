"""The recipes that come with the package, one YAML file each, found by name."""

from pathlib import Path

_FOLDER = Path(__file__).parent


def find_recipe(name: str) -> Path:
    """Find a recipe by its path, or by its name in the package.

    Args:
        name (`str`): Path of a YAML file, or a name such as `"camvid"`.

    Raises:
        FileNotFoundError: if there is no such recipe.
    """
    if Path(name).is_file():
        return Path(name)
    recipes = list_recipes()
    if name not in recipes:
        raise FileNotFoundError(
            f"there is no recipe {name}; name a YAML file, or one that comes with cmdl_hf: {', '.join(recipes)}"
        )
    return _FOLDER / f"{name}.yaml"


def list_recipes() -> dict[str, str]:
    """Return the first sentence of each recipe in the package, by the recipe's name."""
    files = sorted(_FOLDER.glob("*.yaml"))
    return {file.stem: _first_sentence(file.read_text(encoding="utf-8")) for file in files}


def _first_sentence(text: str) -> str:
    """Return the first sentence of the comment at the head of a recipe."""
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    return " ".join(lines).partition(". ")[0].rstrip(".") + "."
